"""The requests of each kind of job, as the HTTP API wants them."""

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Final

from deploy.load.plan import spread
from deploy.stack.errors import StackError

#: The console's own sample: a picture as phones take them, of 34 kB.
PICTURE: Final = Path("app/console/static/console/sample.jpg")
#: Recipients that the mail sink refuses for good (deploy/mail_sink/faults.py).
REFUSED: Final = "reject-550+{run}-{number}@example.com"
ACCEPTED: Final = "load+{run}-{number}@example.com"


@dataclass(frozen=True, slots=True)
class Request:
    """A request that submits a job."""

    path: str
    content_type: str
    body: bytes


class Workloads:
    """Makes requests. Safe to use from several threads.

    Args:
        root: Of the repository, where the sample picture is.
        recipients: Of one newsletter.
        failures: Share (0 to 1) of recipients that the mail sink refuses.
    """

    def __init__(self, root: Path, recipients: int, failures: float) -> None:
        self._root = root
        self._recipients = recipients
        self._refused = spread(failures)
        self._numbers = count(1)
        self._run = uuid.uuid4().hex[:8]
        self._lock = threading.Lock()
        self._makers: Mapping[str, Callable[[], Request]] = {
            "newsletter": self._newsletter,
            "images": self._images,
            "capacity": self._capacity,
        }

    def request(self, kind: str) -> Request:
        """Return the next request of a kind. StackError when the sample picture is missing."""
        with self._lock:
            return self._makers[kind]()

    def _newsletter(self) -> Request:
        return _json_request(
            "newsletter",
            {
                "subject": f"Load {self._run}",
                "body": "Sent by make load; the next dashboard shows how long it waited.",
                "recipients": [self._recipient() for _ in range(self._recipients)],
            },
        )

    def _recipient(self) -> str:
        template = REFUSED if next(self._refused) else ACCEPTED
        return template.format(run=self._run, number=next(self._numbers))

    def _images(self) -> Request:
        boundary = f"load-{uuid.uuid4().hex}"
        head = (
            f"--{boundary}\r\n"
            'Content-Disposition: form-data; name="file"; filename="load.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        body = b"".join((head.encode(), self._picture, f"\r\n--{boundary}--\r\n".encode()))
        return Request("/api/jobs/images", f"multipart/form-data; boundary={boundary}", body)

    @cached_property
    def _picture(self) -> bytes:
        path = self._root / PICTURE
        try:
            return path.read_bytes()
        except OSError as error:
            raise StackError(f"the sample picture cannot be read: {error}") from error

    def _capacity(self) -> Request:
        # Half a worker's worth of work: a plan that is simulated in about a second.
        return _json_request(
            "capacity",
            {
                "arrival_rate": 2.0,
                "service_time_mean": 0.5,
                "service_time_p95": 1.2,
                "target_wait": 5.0,
                "percentile": 95.0,
                "max_workers": 4,
                "seed": next(self._numbers),
            },
        )


def _json_request(kind: str, body: Mapping[str, object]) -> Request:
    return Request(f"/api/jobs/{kind}", "application/json", json.dumps(body).encode())

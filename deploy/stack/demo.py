"""`make demo`: submit a newsletter over HTTP and watch it being sent."""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, TextIO
from urllib.parse import urljoin

from deploy.stack import ports, summary
from deploy.stack.errors import StackError

STALL_TIMEOUT = 60.0  # seconds without progress before giving up
POLL_INTERVAL = 0.5  # seconds
BAR_WIDTH = 40


@dataclass(frozen=True)
class Job:
    """The parts of a job's JSON the demonstration needs."""

    id: str
    state: str
    done: int
    total: int
    result: Mapping[str, Any]
    error: str

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Job":
        """Read a job; raises StackError when the answer is not one."""
        try:
            return cls(
                id=str(data["id"]),
                state=str(data["state"]),
                done=int(data["done"] or 0),
                total=int(data["total"] or 0),
                result=data["result"] if isinstance(data.get("result"), Mapping) else {},
                error=str(data.get("error") or ""),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StackError(f"the API did not answer with a job: {data!r}") from error

    @property
    def finished(self) -> bool:
        """Whether the job has reached an end, good or bad."""
        return self.state in ("succeeded", "failed", "cancelled")


class Progress:
    """Draws progress: one moving bar on a terminal, a line per tenth elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._last = ""

    def show(self, job: Job) -> None:
        """Draw the job's progress if it changed visibly."""
        share = job.done / job.total if job.total else 0.0
        count = f"{job.done}/{job.total} {job.state}"
        if self._terminal:
            filled = int(share * BAR_WIDTH)
            line = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {share:4.0%} {count}"
            key = line
        else:
            line, key = count, f"{int(share * 10)} {job.state}"
        if key == self._last:
            return
        self._last = key
        # The escape sequence clears what a longer line left behind.
        self._stream.write(f"\r{line}\x1b[K" if self._terminal else f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the line of the bar."""
        if self._terminal and self._last:
            self._stream.write("\n")


class Api:
    """The jobs API with one bearer token."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._base = summary.address(ports.WEB, values)
        self._headers = {
            "Authorization": f"Bearer {summary.api_token(values)}",
            "Content-Type": "application/json",
        }

    def submit_newsletter(self, recipients: int) -> str:
        """Submit a newsletter and return the URL of its job."""
        body = {
            "subject": "Celeriac demonstration",
            "body": "Every one of these arrives once.",
            "recipients": [f"reader{number}@example.com" for number in range(1, recipients + 1)],
        }
        location, _ = self._request("/api/jobs/newsletter", json.dumps(body).encode())
        if location is None:
            raise StackError("the API accepted the newsletter but sent no Location header")
        return location

    def job(self, url: str) -> Job:
        """Return the job at `url`."""
        return Job.from_json(self._request(url)[1])

    def _request(self, url: str, body: bytes | None = None) -> tuple[str | None, Any]:
        request = urllib.request.Request(urljoin(self._base, url), body, self._headers)  # noqa: S310
        # No proxy: the stack is on this machine, whatever the caller's http_proxy says.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as response:
                return response.headers.get("Location"), json.load(response)
        except urllib.error.HTTPError as error:
            answer = error.read(500).decode(errors="replace")
            raise StackError(f"{request.full_url} answered {error.code}: {answer}") from error
        except OSError as error:
            raise StackError(
                f"the stack does not answer at {self._base}. Is it up? Try make up"
            ) from error
        except ValueError as error:
            raise StackError(f"{request.full_url} did not answer with JSON") from error


def run(values: Mapping[str, str], recipients: int, stream: TextIO = sys.stdout) -> None:
    """Send a newsletter to that many recipients and follow it to its end.

    Raises StackError when the stack is not up, the job fails or nothing moves for a minute.
    """
    api = Api(values)
    started = monotonic()
    url = api.submit_newsletter(recipients)
    progress = Progress(stream)
    try:
        for job in _follow(api, url):
            progress.show(job)
    finally:
        progress.close()
    seconds = max(monotonic() - started, 0.001)
    if job.state != "succeeded":
        raise StackError(f"job {job.id} {job.state}: {job.error or 'no reason was recorded'}")
    sent = int(job.result.get("sent", job.done))
    failed = int(job.result.get("failed", 0))
    stream.write(
        f"Sent {sent}, failed {failed}, in {seconds:.1f} s: {sent / seconds:.0f} mails a second.\n"
        f"Read them at {summary.address(ports.MAIL_WEB, values, '/')}\n"
    )
    if failed:
        raise StackError(f"{failed} of {recipients} mails could not be sent: see make logs")


def _follow(api: Api, url: str) -> Iterator[Job]:
    moved, last = monotonic(), None
    while True:
        job = api.job(url)
        yield job
        if job.finished:
            return
        if (job.done, job.state) != last:
            moved, last = monotonic(), (job.done, job.state)
        elif monotonic() - moved > STALL_TIMEOUT:
            raise StackError(
                f"job {job.id} is {job.state} at {job.done}/{job.total} and has not moved for "
                f"{STALL_TIMEOUT:.0f} s. It may wait behind other newsletters, which the console "
                "shows; else look at make ps and make logs"
            )
        sleep(POLL_INTERVAL)

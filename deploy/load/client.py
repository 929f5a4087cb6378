"""The HTTP API as the generator sees it: every answer is an answer, refusals too."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, Final
from urllib.parse import urlencode

from deploy.load.workloads import Request
from deploy.stack import ports, summary
from deploy.stack.errors import StackError

#: Seconds. The slowest answer of a web service that is in order is far below.
TIMEOUT: Final = 30.0
#: Seconds to wait after a refusal that does not say how long.
DEFAULT_RETRY: Final = 1.0
#: The largest page of jobs that the API gives.
PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one submission.

    Attributes:
        status: HTTP status; 0 when there was no answer at all.
        seconds: From the request to the answer.
        job: Id of the job, if it was accepted.
        retry_after: Seconds to wait, if it was refused for now.
    """

    status: int
    seconds: float
    job: str = ""
    retry_after: float = 0.0

    @property
    def accepted(self) -> bool:
        """Whether there is a job now."""
        return self.status == 202

    @property
    def refused(self) -> bool:
        """Whether the service asks to come again later."""
        return self.status in (429, 503)


@dataclass(frozen=True, slots=True)
class JobState:
    """How far a job is.

    Attributes:
        state: ``queued``, ``running``, ``succeeded``, ``failed`` or ``cancelled``.
        wait: Seconds from its creation to its start; None before the start.
        mails_refused: Recipients that the mail sink refused.
    """

    id: str
    state: str
    wait: float | None
    mails_refused: int

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in ("succeeded", "failed", "cancelled")

    @classmethod
    def from_json(cls, job: Mapping[str, Any]) -> "JobState":
        """Read a job of the API."""
        result = job["result"]
        failed = result.get("failed", 0) if isinstance(result, dict) else 0
        started = job["started_at"]
        wait = None
        if started:
            wait = (_moment(started) - _moment(job["created_at"])).total_seconds()
        return cls(
            id=str(job["id"]),
            state=str(job["state"]),
            wait=wait,
            mails_refused=failed if job["kind"] == "newsletter" and isinstance(failed, int) else 0,
        )


class Client:
    """Talks to the web service with the token of `.env`. Safe to use from several threads."""

    def __init__(self, values: Mapping[str, str]) -> None:
        """Take settings; StackError when there is no token."""
        self._base = summary.address(ports.WEB, values)
        self._token = summary.api_token(values)

    def submit(self, request: Request) -> Answer:
        """Submit once, and say what came back."""
        began = monotonic()
        headers = {"Content-Type": request.content_type}
        try:
            with self._open(request.path, request.body, headers) as response:
                job = json.load(response)
                return Answer(response.status, monotonic() - began, job=str(job["id"]))
        except urllib.error.HTTPError as error:
            with error:
                error.read()
                return Answer(
                    error.code,
                    monotonic() - began,
                    retry_after=_retry_after(error.headers.get("Retry-After")),
                )
        except (OSError, ValueError, KeyError):
            return Answer(0, monotonic() - began)

    def check(self) -> None:
        """Raise StackError when the API does not answer, or does not know the token."""
        try:
            with self._open("/api/jobs?limit=1"):
                return
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 429:
                    return
                raise StackError(
                    f"{self._base}/api/jobs answered {error.code}: is API_TOKENS in .env the one "
                    "that the stack was started with?"
                ) from error
        except OSError as error:
            raise StackError(
                f"the stack does not answer at {self._base}. Is it up? Try make up"
            ) from error

    def newest_jobs(self, cursor: str | None = None) -> tuple[list[JobState], str | None]:
        """Return a page of jobs, newest first, and the cursor of the next one.

        Raises OSError (also for HTTP errors) or ValueError when there is none to be had now.
        """
        query = {"limit": str(PAGE)} | ({"cursor": cursor} if cursor else {})
        with self._open(f"/api/jobs?{urlencode(query)}") as response:
            page = json.load(response)
        return [JobState.from_json(job) for job in page["items"]], page["next_cursor"]

    def _open(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        request = urllib.request.Request(  # noqa: S310 - our own address
            f"{self._base}{path}",
            body,
            {"Authorization": f"Bearer {self._token}", **(headers or {})},
        )
        # No proxy: the stack is on this machine, whatever the caller's http_proxy says.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request, timeout=TIMEOUT)


def _retry_after(text: str | None) -> float:
    return float(text) if text and text.isascii() and text.isdigit() else DEFAULT_RETRY


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)

"""The counts of a run, from many threads."""

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deploy.load.client import Answer, JobState


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The counts at one moment. Times are in seconds; None: nothing was measured.

    Attributes:
        submitted: Requests that were answered, or met no answer.
        accepted: Those that made a job.
        refused: Those answered with 429 or 503.
        errors: Any other answer, or none.
        held_back: Planned, not sent: the service had asked to wait, or all senders were busy.
        open: Jobs that have not ended.
        wait_p95: From a job's creation to its start, of those that have started.
        submission_p50: From request to answer.
        submission_p95: The same.
    """

    submitted: int
    accepted: int
    refused: int
    errors: int
    held_back: int
    open: int
    succeeded: int
    failed: int
    cancelled: int
    mails_refused: int
    wait_p50: float | None
    wait_p95: float | None
    submission_p50: float | None
    submission_p95: float | None


class Tally:
    """Counts answers and the ends of jobs. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accepted = self._refused = self._errors = self._held_back = 0
        self._submissions: list[float] = []
        self._open: set[str] = set()
        self._waits: dict[str, float] = {}
        self._ends = {"succeeded": 0, "failed": 0, "cancelled": 0}
        self._mails_refused = 0

    def answered(self, answer: Answer) -> None:
        """Count one submission."""
        with self._lock:
            self._submissions.append(answer.seconds)
            if answer.accepted:
                self._accepted += 1
                self._open.add(answer.job)
            elif answer.refused:
                self._refused += 1
            else:
                self._errors += 1

    def held_back(self) -> None:
        """Count a submission that was planned and not sent."""
        with self._lock:
            self._held_back += 1

    def seen(self, jobs: Iterable[JobState]) -> None:
        """Take in how far jobs are; those of others are left out."""
        with self._lock:
            for job in jobs:
                if job.id not in self._open:
                    continue
                if job.wait is not None:
                    self._waits[job.id] = job.wait
                if job.ended:
                    self._open.discard(job.id)
                    self._ends[job.state] += 1
                    self._mails_refused += job.mails_refused

    def open_jobs(self) -> frozenset[str]:
        """Return the ids of jobs that have not ended, as far as is known."""
        with self._lock:
            return frozenset(self._open)

    def snapshot(self) -> Snapshot:
        """Return the counts of this moment."""
        with self._lock:
            submissions = sorted(self._submissions)
            waits = sorted(self._waits.values())
            return Snapshot(
                submitted=len(submissions),
                accepted=self._accepted,
                refused=self._refused,
                errors=self._errors,
                held_back=self._held_back,
                open=len(self._open),
                succeeded=self._ends["succeeded"],
                failed=self._ends["failed"],
                cancelled=self._ends["cancelled"],
                mails_refused=self._mails_refused,
                wait_p50=quantile(waits, 0.5),
                wait_p95=quantile(waits, 0.95),
                submission_p50=quantile(submissions, 0.5),
                submission_p95=quantile(submissions, 0.95),
            )


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least that share (above 0) of all does not exceed."""
    if not ordered:
        return None
    return ordered[math.ceil(share * len(ordered)) - 1]

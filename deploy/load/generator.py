"""The run itself: one thread plans, some send, one looks how far the jobs are."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Final

from deploy.load.client import Client
from deploy.load.display import Display
from deploy.load.plan import Plan, Submission
from deploy.load.tally import Tally
from deploy.load.workloads import Workloads

#: Requests in flight at most: more would only wait in the web service.
SENDERS: Final = 16
#: Seconds between two drawings of the progress.
REDRAW: Final = 0.5
#: Seconds between two looks at the jobs, for each page that the last look took: a twentieth of what
#: one caller may ask for by default, so that the looking is no load of its own.
LOOK: Final = 2.0
#: Pages of jobs in one look; older ones are found once the backlog is smaller.
MOST_PAGES: Final = 20


class Generator:
    """Runs a plan, and counts what comes of it."""

    def __init__(self, plan: Plan, client: Client, workloads: Workloads, display: Display) -> None:
        """Prepare a run; `run` starts it."""
        self._plan = plan
        self._client = client
        self._workloads = workloads
        self._display = display
        self.tally = Tally()
        self._leave = threading.Event()
        self._free = threading.BoundedSemaphore(SENDERS)
        self._paused_until = 0.0
        self._began = monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the start of the run."""
        return monotonic() - self._began

    def run(self) -> None:
        """Submit everything, and return when the last request is answered.

        KeyboardInterrupt ends it early: what is in flight is waited for, and then it is raised.
        """
        self._began = monotonic()
        watchers = [
            threading.Thread(target=self._repeat, args=(self._look, LOOK), daemon=True),
            threading.Thread(target=self._repeat, args=(self._draw, REDRAW), daemon=True),
        ]
        for watcher in watchers:
            watcher.start()
        try:
            with ThreadPoolExecutor(SENDERS, thread_name_prefix="send") as senders:
                for submission in self._plan.submissions():
                    self._leave.wait(max(0.0, submission.at - self.elapsed))
                    self._dispatch(senders, submission)
                self._leave.wait(max(0.0, self._plan.duration - self.elapsed))
        finally:
            self._leave.set()
            for watcher in watchers:
                watcher.join()

    def wait_for_ends(self, patience: float) -> None:
        """Look at the jobs until all have ended, for that many seconds at most."""
        deadline = monotonic() + patience
        pause = threading.Event()
        while True:
            pages = self._look()
            self._draw()
            if not self.tally.open_jobs() or monotonic() > deadline:
                return
            pause.wait(LOOK * max(1, pages))

    def _dispatch(self, senders: ThreadPoolExecutor, submission: Submission) -> None:
        # What falls into a pause is dropped, not saved up: all at once would be refused again.
        if monotonic() < self._paused_until or not self._free.acquire(blocking=False):
            self.tally.held_back()
            return
        senders.submit(self._send, submission.kind)

    def _send(self, kind: str) -> None:
        try:
            answer = self._client.submit(self._workloads.request(kind))
        finally:
            self._free.release()
        if answer.retry_after:
            self._paused_until = max(self._paused_until, monotonic() + answer.retry_after)
        self.tally.answered(answer)

    def _repeat(self, step: Callable[[], int], interval: float) -> None:
        weight = 1
        while not self._leave.wait(interval * weight):
            weight = max(1, step())

    def _draw(self) -> int:
        self._display.show(self.elapsed, self.tally.snapshot())
        return 1

    def _look(self) -> int:
        """Look at the newest jobs until all open ones were seen; return the pages it took."""
        wanted = set(self.tally.open_jobs())
        cursor: str | None = None
        pages = 0
        while wanted and pages < MOST_PAGES:
            pages += 1
            try:
                jobs, cursor = self._client.newest_jobs(cursor)
            except (OSError, ValueError):
                break  # refused or away: the next look finds them
            self.tally.seen(jobs)
            wanted.difference_update(job.id for job in jobs)
            if cursor is None:
                break
        return pages

"""What a web process tells those who watch jobs: one reader for all of them.

However many watch, a look at the database is one or two queries, at most ten times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog
from channels.db import database_sync_to_async

from jobs import live
from jobs.models import Job

logger = structlog.get_logger(__name__)

#: How often all that is watched is read although nobody said that it changed: a message may be
#: lost, and the channel layer may be away.
LOOK_AT_ALL_SECONDS: Final = 2.0
#: Seconds between two looks, for each watcher: a message costs 50 µs of the processor, which tasks
#: may need. So all messages of a process take at most some 1 % of one, however many watch; up to 25
#: watchers of a process see ten changes a second, 100 see two or three.
SECONDS_FOR_EACH_WATCHER: Final = 0.004
#: Seconds before a database that is away is asked again.
RETRY_SECONDS: Final = 1.0
#: Jobs that the list begins with: as many as the console shows.
JOBS_LISTED: Final = 25
#: Messages that a slow watcher of the list may have before him; then he gets the list anew.
LONGEST_BACKLOG: Final = 100

#: WebSocket close codes (4000 to 4999 are free for applications, RFC 6455 §7.4.2).
CLOSE_ENDED: Final = 1000
CLOSE_NOT_FOUND: Final = 4404


class Watcher:
    """What a client is still to be sent. A slow one misses states between, not the last.

    Attributes:
        close_code: Why there is nothing more to come; None while there is.
    """

    def __init__(self) -> None:
        self.close_code: int | None = None
        self._waiting: dict[Hashable, str] = {}
        self._last = ""
        self._changed = asyncio.Event()

    def offer(self, key: Hashable, text: str) -> None:
        """Have a text sent, instead of one with the same key that still waits."""
        if text != self._last:
            self._last = text
            self._waiting[key] = text
            self._changed.set()

    def end(self, close_code: int) -> None:
        """End the messages, after those that wait."""
        self.close_code = close_code
        self._changed.set()

    def is_behind(self) -> bool:
        """Whether too much waits."""
        return len(self._waiting) > LONGEST_BACKLOG

    def begin_anew(self) -> None:
        """Forget what waits."""
        self._waiting.clear()

    async def messages(self) -> AsyncIterator[str]:
        """Return what is to be sent, as it comes."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._waiting:
                yield self._waiting.pop(next(iter(self._waiting)))
            if self.close_code is not None:
                return


@dataclass(frozen=True, slots=True)
class Seen:
    """A job at a look.

    Attributes:
        text: The job as the API shows it, as JSON.
        is_open: Whether there is something left to do.
    """

    id: UUID
    text: str
    is_open: bool


def _read(job_ids: set[UUID], newest: int) -> tuple[list[Seen], list[Seen]]:
    """Return some jobs, and so many of the newest."""
    from jobs.api import job_as_json  # noqa: PLC0415 - the API builds on services, they on live

    def seen(jobs: Iterable[Job]) -> list[Seen]:
        return [Seen(job.id, job_as_json(job), job.is_open) for job in jobs]

    return (
        seen(Job.objects.filter(id__in=job_ids)) if job_ids else [],
        seen(Job.objects.all()[:newest]) if newest else [],
    )


class Feeds:
    """All that is watched in this process: single jobs, and the list."""

    def __init__(self) -> None:
        self._of_job: dict[UUID, set[Watcher]] = {}
        self._of_list: set[Watcher] = set()
        #: Those of the list who have not got it yet.
        self._newcomers: set[Watcher] = set()
        #: What those of the list were told of each job, as far back as the newest go.
        self._told: dict[UUID, str] = {}
        #: Jobs to look at.
        self._changed: set[UUID] = set()
        self._woken = asyncio.Event()
        self._look_at_all_at = 0.0
        self._tasks: list[asyncio.Task[Any]] = []

    @contextmanager
    def watching(self, job_id: UUID | None) -> Iterator[Watcher]:
        """Yield a new watcher of a job, or of the list (None)."""
        watcher = Watcher()
        if job_id is None:
            self._of_list.add(watcher)
            self._newcomers.add(watcher)
        else:
            self._of_job.setdefault(job_id, set()).add(watcher)
            self._changed.add(job_id)
        self._woken.set()
        if not self._tasks:
            self._look_at_all_at = 0.0
            self._tasks = [
                asyncio.create_task(live.listen(self._hear)),
                asyncio.create_task(self._look_repeatedly()),
            ]
        try:
            yield watcher
        finally:
            self._forget(job_id, watcher)

    def _forget(self, job_id: UUID | None, watcher: Watcher) -> None:
        if job_id is None:
            self._of_list.discard(watcher)
            self._newcomers.discard(watcher)
        else:
            self._of_job[job_id].discard(watcher)
            if not self._of_job[job_id]:
                del self._of_job[job_id]
        if not self._of_job and not self._of_list:
            for task in self._tasks:
                task.cancel()
            self._tasks = []

    def _hear(self, job_ids: set[UUID]) -> None:
        wanted = job_ids if self._of_list else job_ids & self._of_job.keys()
        if wanted:
            self._changed |= wanted
            self._woken.set()

    async def _look_repeatedly(self) -> None:
        while True:
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - watchers outlive whatever it is
                logger.warning("progress_not_read", error=repr(error))
                self._look_at_all_at = 0.0
                await asyncio.sleep(RETRY_SECONDS)
                continue
            watchers = len(self._of_list) + sum(map(len, self._of_job.values()))
            await asyncio.sleep(
                max(live.SHORTEST_INTERVAL_SECONDS, SECONDS_FOR_EACH_WATCHER * watchers)
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_at_all_at - time.monotonic()):
                    await self._woken.wait()

    async def _look(self) -> None:
        now = time.monotonic()
        all_of_it = now >= self._look_at_all_at
        self._woken.clear()
        job_ids, self._changed = self._changed, set()
        if all_of_it:
            self._look_at_all_at = now + LOOK_AT_ALL_SECONDS
            job_ids |= self._of_job.keys()
        newcomers = set(self._newcomers)
        wants_list = bool(newcomers or (all_of_it and self._of_list))
        if not job_ids and not wants_list:
            return
        jobs, newest = await database_sync_to_async(_read)(
            job_ids, JOBS_LISTED if wants_list else 0
        )
        for job in jobs:
            self._tell_of_job(job)
        for job_id in job_ids - {job.id for job in jobs}:
            for watcher in self._of_job.get(job_id, ()):
                watcher.end(CLOSE_NOT_FOUND)
        for job in [*jobs, *newest]:
            self._tell_list(job)
        if wants_list:
            self._told = {job.id: job.text for job in newest}
            for watcher in newcomers:
                watcher.offer(None, f'{{"jobs":[{",".join(job.text for job in newest)}]}}')
            self._newcomers -= newcomers

    def _tell_of_job(self, job: Seen) -> None:
        for watcher in self._of_job.get(job.id, ()):
            watcher.offer(job.id, job.text)
            if not job.is_open:
                watcher.end(CLOSE_ENDED)

    def _tell_list(self, job: Seen) -> None:
        if not self._of_list or self._told.get(job.id) == job.text:
            return
        self._told[job.id] = job.text
        for watcher in self._of_list - self._newcomers:
            watcher.offer(job.id, f'{{"job":{job.text}}}')
            if watcher.is_behind():
                watcher.begin_anew()
                self._newcomers.add(watcher)


#: Of this process; a web process has one event loop.
feeds = Feeds()

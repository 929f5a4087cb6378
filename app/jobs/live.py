"""Live progress between processes: says which jobs have changed, never what they are like now.

What is shown is always read from the row. So a lost message costs a moment, never the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn
from uuid import UUID

import structlog
from channels.layers import get_channel_layer
from django.db import transaction

logger = structlog.get_logger(__name__)

#: The channel group of all web processes in which somebody watches.
GROUP: Final = "jobs"
#: Seconds between two messages of a process, and between two states that a client is sent: ten
#: changes a second look smooth, and more of them would cost a task its time.
SHORTEST_INTERVAL_SECONDS: Final = 0.1
#: Seconds that one message to the channel layer may take.
ANNOUNCE_TIMEOUT_SECONDS: Final = 1.0
#: After a failure a process says nothing for so many seconds; watchers look by themselves.
QUIET_SECONDS: Final = 5.0
#: Seconds before a channel layer that is away is listened to again.
LISTEN_AGAIN_SECONDS: Final = 1.0


def announce(job_id: UUID) -> None:
    """Tell those who watch a job that it changed, once the change is committed.

    Costs the caller some microseconds, whatever the state of the channel layer is: a thread sends.
    What changes faster than ``SHORTEST_INTERVAL_SECONDS`` is said once, after the last change too.
    """
    transaction.on_commit(partial(_announcer.note, job_id), robust=True)


class _Announcer:
    """Sends the names of changed jobs, in a thread and over one connection of its own."""

    def __init__(self) -> None:
        self._jobs: set[UUID] = set()
        self._noted = threading.Condition()
        self._thread: threading.Thread | None = None

    def note(self, job_id: UUID) -> None:
        with self._noted:
            self._jobs.add(job_id)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="live-jobs", daemon=True)
                self._thread.start()
            self._noted.notify()

    def _run(self) -> None:
        # One event loop for all messages, because the layer has a connection for each loop. A loop
        # and a connection for each message (async_to_sync) cost 1.5 ms of CPU instead of 0.1 ms.
        with asyncio.Runner() as runner:
            while True:
                with self._noted:
                    while not self._jobs:
                        self._noted.wait()
                    jobs, self._jobs = self._jobs, set()
                try:
                    runner.run(_send(jobs))
                except Exception as error:  # noqa: BLE001 - progress is news, not truth
                    logger.warning("progress_not_announced", jobs=len(jobs), error=repr(error))
                    time.sleep(QUIET_SECONDS)
                time.sleep(SHORTEST_INTERVAL_SECONDS)


_announcer = _Announcer()


def _start_anew() -> None:
    """Forget the parent's thread, which a forked process has not got."""
    global _announcer  # noqa: PLW0603 - one for each process
    _announcer = _Announcer()


os.register_at_fork(after_in_child=_start_anew)


async def _send(jobs: set[UUID]) -> None:
    layer: Any = get_channel_layer()
    message = {"type": "jobs.changed", "jobs": [str(job_id) for job_id in jobs]}
    async with asyncio.timeout(ANNOUNCE_TIMEOUT_SECONDS):
        await layer.group_send(GROUP, message)


async def listen(heard: Callable[[set[UUID]], None]) -> NoReturn:
    """Pass on which jobs have changed, until this is cancelled; outlives the channel layer."""
    layer: Any = get_channel_layer()
    while True:
        try:
            channel = await layer.new_channel()
            await layer.group_add(GROUP, channel)
            while True:
                message = await layer.receive(channel)
                heard({UUID(job_id) for job_id in message["jobs"]})
        except Exception as error:  # noqa: BLE001 - whatever it is, the rows are read all the same
            logger.warning("channel_layer_away", error=repr(error))
        finally:
            # The layer would keep the channel, its messages and its connection. (This is what its
            # parts call a flush: nothing on the server is deleted.)
            with contextlib.suppress(Exception):
                async with asyncio.timeout(ANNOUNCE_TIMEOUT_SECONDS):
                    await layer.flush()
        await asyncio.sleep(LISTEN_AGAIN_SECONDS)

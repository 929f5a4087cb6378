"""Who runs: each process keeps one row of its own fresh, so that others can tell who is there.

Why not ``celery inspect``: it asks through the broker, waits a second for answers, and knows
nothing of beat, relay and web.

A process notes its state where it notes its heartbeat; that is an assignment. A thread of its own
writes the row, over a short connection of its own, so a database that is slow, frozen or gone
stops neither a loop nor its heartbeat. When notes stop to come, the loop is stuck, and the thread
stops to write: the row gets old like that of a process that was killed.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any, Final

import psycopg
import structlog
from django.conf import settings
from django.db import connection

from delivery.leadership import SESSION

logger = structlog.get_logger(__name__)

#: Seconds between two writes of a process.
INTERVAL_SECONDS: Final = 5.0
#: A process counts as gone when its row is older: five writes are missing.
GONE_AFTER_SECONDS: Final = 30.0
#: Seconds that the row of a process that is gone stays, so that people learn of it.
FORGOTTEN_AFTER_SECONDS: Final = 600.0
#: Seconds without a note after which the loop counts as stuck. A worker that waits for its broker
#: makes notes at most some 35 s apart.
STUCK_AFTER_SECONDS: Final = 45.0
#: Seconds a process that stops waits for its row to be removed.
GOODBYE_SECONDS: Final = 2.0
#: Milliseconds for a statement; a database that needs longer has other worries.
STATEMENT_TIMEOUT: Final = 3000

SERVING: Final = "serving"

WRITE: Final = """
WITH forgotten AS (
    DELETE FROM telemetry_presence
    WHERE seen_at < statement_timestamp() - make_interval(secs => %(forgotten)s)
        AND name <> %(name)s
)
INSERT INTO telemetry_presence
    (name, service, state, queues, host, pid, version, started_at, seen_at)
VALUES (%(name)s, %(service)s, %(state)s, %(queues)s, %(host)s, %(pid)s, %(version)s,
    statement_timestamp() - make_interval(secs => %(age)s), statement_timestamp())
ON CONFLICT (name) DO UPDATE SET state = excluded.state, queues = excluded.queues,
    version = excluded.version, started_at = excluded.started_at, seen_at = excluded.seen_at
"""
REMOVE: Final = "DELETE FROM telemetry_presence WHERE name = %(name)s"


class Keeper:
    """Keeps the row of one process. The thread starts with the first note."""

    def __init__(self, service: str) -> None:
        """Take the name of the service; nothing is connected yet."""
        host = socket.gethostname()
        self._facts: dict[str, Any] = {
            "name": f"{service}@{host}:{os.getpid()}"[:300],
            "service": service[:100],
            "host": host[:200],
            "pid": os.getpid(),
            "version": f"{settings.VERSION} {settings.REVISION}"[:200],
            "forgotten": FORGOTTEN_AFTER_SECONDS,
        }
        self._session: dict[str, Any] = {
            **connection.get_connection_params(),
            **SESSION,
            "application_name": f"celeriac-{service}-presence",
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT}",
        }
        self._begun_at = time.monotonic()
        self._noted_at = self._begun_at
        self._said = ("", "")
        self._changed = threading.Event()
        self._ended = False
        self._well = True
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def note(self, state: str, queues: Iterable[str] = ()) -> None:
        """Say what the loop does; returns at once, whatever the database does."""
        said = (state, ",".join(queues))
        self._noted_at = time.monotonic()
        if said != self._said:
            self._said = said
            self._changed.set()
            if not self._thread.is_alive() and not self._ended:
                self._thread.start()

    def end(self) -> None:
        """Remove the row, within ``GOODBYE_SECONDS`` or not at all; nothing is written later."""
        if self._ended:
            return
        self._ended = True
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join(GOODBYE_SECONDS)

    def _run(self) -> None:
        while not self._ended:
            self._changed.clear()
            if time.monotonic() - self._noted_at < STUCK_AFTER_SECONDS:
                self._write(WRITE)
            self._changed.wait(INTERVAL_SECONDS)
        self._write(REMOVE)

    def _write(self, statement: Any) -> None:
        state, queues = self._said
        age = time.monotonic() - self._begun_at
        try:
            with psycopg.connect(**self._session, autocommit=True) as session:
                session.execute(
                    statement, {**self._facts, "state": state, "queues": queues, "age": age}
                )
        except (psycopg.Error, OSError) as error:
            # Once for each outage: the process itself says what it makes of it.
            if self._well:
                logger.info("presence_not_written", error=str(error))
            self._well = False
        else:
            self._well = True


_keeper: Keeper | None = None


def begin(service: str) -> None:
    """Have this process kept in the table; for the main process of a role, when it starts."""
    global _keeper  # noqa: PLW0603 - a process has one row
    if _keeper is None:
        _keeper = Keeper(service)


def note(state: str, queues: Iterable[str] = ()) -> None:
    """Say what this process does; nothing happens in one that has not begun."""
    if _keeper is not None:
        _keeper.note(state, queues)


def end() -> None:
    """Remove this process from the table: it stops on purpose."""
    global _keeper
    keeper, _keeper = _keeper, None
    if keeper is not None:
        keeper.end()


def _forget_parent() -> None:
    """Leave the row to the parent: a child is another process, without the thread."""
    global _keeper  # noqa: PLW0603 - as above
    _keeper = None


os.register_at_fork(after_in_child=_forget_parent)

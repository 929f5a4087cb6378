"""What PostgreSQL knows of work on its way: a few questions for each scrape.

The account may read exactly the columns that stand here (telemetry/reading_accounts.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

import psycopg

#: Milliseconds for one question. A scrape waits a little longer.
STATEMENT_TIMEOUT: Final = 3000
#: Seconds past its time after which no relay can have looked at a delivery for a while
#: (as ``telemetry.management.commands.doctor_facts``; a test compares).
OVERDUE_SECONDS: Final = 120
#: Seconds without a word after which a process is gone (``telemetry.presence``; a test compares).
GONE_AFTER_SECONDS: Final = 30

# States are written out, so that the ledger's partial indexes serve: delivery_due and
# delivery_dead_letters. Finished deliveries, the most by far, are not looked at.
OPEN: Final = """
SELECT queue,
    count(*) FILTER (WHERE state = 'dispatched' OR state = 'pending' AND due_at <= now()),
    count(*) FILTER (WHERE state = 'pending' AND due_at > now()),
    count(*) FILTER (WHERE state = 'running'),
    coalesce(extract(epoch FROM now() - min(CASE
        WHEN state = 'dispatched' THEN coalesce(dispatched_at, created_at)
        WHEN state = 'pending' AND due_at <= now() THEN due_at END)), 0)::float8,
    count(*) FILTER (WHERE due_at < now() - make_interval(secs => %(overdue)s))
FROM delivery_delivery WHERE state IN ('pending', 'dispatched', 'running') GROUP BY queue
"""
DEAD: Final = """
SELECT queue, task, count(*), extract(epoch FROM now() - min(finished_at))::float8
FROM delivery_delivery WHERE state = 'dead' GROUP BY queue, task
"""
QUARANTINE: Final = """
SELECT count(*), coalesce(extract(epoch FROM max(received_at)), 0)::float8
FROM delivery_quarantinedmessage
"""
# A worker without queues was told to pause (fault_injection/pausing.py), as the console says.
PROCESSES: Final = """
SELECT service, CASE
        WHEN seen_at < statement_timestamp() - make_interval(secs => %(gone)s) THEN 'gone'
        WHEN state = 'consuming' AND queues = '' THEN 'paused'
        ELSE state END AS says, count(*)
FROM telemetry_presence GROUP BY service, says
"""
CANARIES_EXIST: Final = "SELECT to_regclass('housekeeping_canary') IS NOT NULL"
CANARIES: Final = """
SELECT queue, extract(epoch FROM succeeded_at)::float8 FROM housekeeping_canary
"""


@dataclass(frozen=True, slots=True)
class Open:
    """Open deliveries of one queue; ``oldest`` in seconds, 0 when nothing waits."""

    waiting: int = 0
    scheduled: int = 0
    running: int = 0
    oldest: float = 0.0
    overdue: int = 0


@dataclass(frozen=True, slots=True)
class LedgerReading:
    """What the database said.

    Attributes:
        open: By queue.
        dead_by_queue: Dead letters by queue.
        dead_by_task: Dead letters by task.
        dead_oldest: Seconds since the oldest of them died; 0 without any.
        quarantined: Messages that were refused.
        quarantined_at: When the last one was, in seconds since the epoch; 0 without any.
        processes: Processes by service and state.
        canaries: When the last canary of a queue came through, in seconds since the epoch; None
            before the migration that makes their table.
    """

    open: Mapping[str, Open]
    dead_by_queue: Mapping[str, int]
    dead_by_task: Mapping[str, int]
    dead_oldest: float
    quarantined: int
    quarantined_at: float
    processes: Mapping[tuple[str, str], int]
    canaries: Mapping[str, float] | None = field(default=None)


class Ledger:
    """Asks over one connection that is kept, and opened again when it has broken."""

    def __init__(self, url: str) -> None:
        """Take the address; nothing is connected yet."""
        self._url = url
        self._session: psycopg.Connection[Any] | None = None

    def read(self) -> LedgerReading:
        """Ask every question.

        A session that has ended since the last time (the server was restarted) is replaced once.

        Raises:
            psycopg.Error: The database is away, slow, or refuses.
        """
        kept = self._session
        try:
            return self._ask()
        except psycopg.OperationalError:
            was_lost = kept is not None and kept.closed
            self.close()
            if was_lost:
                return self._ask()
            raise
        except psycopg.Error:
            self.close()
            raise

    def close(self) -> None:
        """End the session."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _ask(self) -> LedgerReading:
        open_by_queue = {queue: Open(*figures) for queue, *figures in self._rows(
            OPEN, overdue=OVERDUE_SECONDS
        )}  # fmt: skip
        dead = self._rows(DEAD)
        dead_by_queue: dict[str, int] = {}
        dead_by_task: dict[str, int] = {}
        for queue, task, count, _ in dead:
            dead_by_queue[queue] = dead_by_queue.get(queue, 0) + count
            dead_by_task[task] = dead_by_task.get(task, 0) + count
        [(quarantined, quarantined_at)] = self._rows(QUARANTINE)
        processes = self._rows(PROCESSES, gone=GONE_AFTER_SECONDS)
        [(canaries_exist,)] = self._rows(CANARIES_EXIST)
        return LedgerReading(
            open=open_by_queue,
            dead_by_queue=dead_by_queue,
            dead_by_task=dead_by_task,
            dead_oldest=max((age for *_, age in dead), default=0.0),
            quarantined=quarantined,
            quarantined_at=quarantined_at,
            processes={(service, state): count for service, state, count in processes},
            canaries=dict(self._rows(CANARIES)) if canaries_exist else None,
        )

    def _rows(self, question: LiteralString, **values: object) -> list[tuple[Any, ...]]:
        if self._session is None or self._session.closed:
            self._session = self._connect()
        return self._session.execute(question, values or None).fetchall()

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            self._url,
            autocommit=True,
            # A pooler that shares sessions knows no prepared statements.
            prepare_threshold=None,
            application_name="celeriac-celery-exporter",
            connect_timeout=2,
            # A machine that is gone without a word is noticed after 5 + 3 * 3 seconds.
            keepalives_idle=5,
            keepalives_interval=3,
            keepalives_count=3,
            tcp_user_timeout=10_000,
            options=(
                f"-c statement_timeout={STATEMENT_TIMEOUT} -c lock_timeout={STATEMENT_TIMEOUT} "
                "-c default_transaction_read_only=on -c jit=off"
            ),
        )

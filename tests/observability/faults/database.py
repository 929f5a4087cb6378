"""What breaks in PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psycopg

from tests.observability.faults.fault import Fault, expected, stopped
from tests.observability.victim import Victim

#: Share of the connections that are taken; the alert is about 80 %.
TAKEN = 0.88


@contextmanager
def _connections_taken(victim: Victim) -> Iterator[None]:
    with ExitStack() as sessions:
        first = sessions.enter_context(victim.session())
        row = first.execute(
            "SELECT current_setting('max_connections')::int, count(*) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend'"
        ).fetchone()
        assert row
        for _ in range(int(row[0] * TAKEN) - row[1]):
            sessions.enter_context(victim.session())
        yield


@contextmanager
def _deadlock(victim: Victim) -> Iterator[None]:
    """Have two transactions wait for each other; PostgreSQL ends one of them."""
    with victim.session() as session:
        session.execute("CREATE TABLE IF NOT EXISTS deadlocked (number int PRIMARY KEY)")
        session.execute("INSERT INTO deadlocked VALUES (1), (2) ON CONFLICT DO NOTHING")
    both_have_one = threading.Barrier(2, timeout=30)

    def lock(first: int, second: int) -> None:
        statement = "SELECT 1 FROM deadlocked WHERE number = %s FOR UPDATE"
        with (
            suppress(psycopg.errors.DeadlockDetected, threading.BrokenBarrierError),
            victim.session() as session,
            session.transaction(),
        ):
            session.execute(statement, [first])
            both_have_one.wait()
            session.execute(statement, [second])

    threads = [threading.Thread(target=lock, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield


@contextmanager
def _idle_in_transaction(victim: Victim) -> Iterator[None]:
    with victim.session() as session, session.transaction():
        session.execute("SELECT 1")
        yield


DOWN = Fault(
    "PostgreSQL is stopped",
    lambda victim: stopped(victim, "postgres"),
    (expected("PostgresDown"),),
)
CONNECTIONS = Fault(
    "somebody takes connections until 88 % are in use",
    _connections_taken,
    (expected("PostgresTooManyConnections"),),
)
DEADLOCK = Fault(
    "two transactions wait for each other",
    _deadlock,
    (expected("PostgresDeadlocks", datname="celeriac"),),
)
IDLE_TRANSACTION = Fault(
    "a transaction is begun and left alone",
    _idle_in_transaction,
    (expected("PostgresLongTransaction", datname="celeriac"),),
)

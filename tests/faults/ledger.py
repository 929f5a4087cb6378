"""The suite's own ledger: what was submitted, which effects exist, and how often each happened.

It believes nothing that the application says of itself. A number counts as submitted when the
transaction that asked for it has committed; its effect is a row that the task made. No constraint
keeps a second one out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

#: Seconds that a question may wait for a database that is being restarted.
DATABASE_PATIENCE_SECONDS = 60.0

TABLES = """
CREATE TABLE IF NOT EXISTS fault_submissions (
    run text, number bigint, PRIMARY KEY (run, number)
);
CREATE TABLE IF NOT EXISTS fault_starts (
    run text, number bigint, at timestamptz DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS fault_effects (
    run text, number bigint, delivery text, at timestamptz DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS fault_starts_by_run ON fault_starts (run, number);
CREATE INDEX IF NOT EXISTS fault_effects_by_run ON fault_effects (run, number);
"""


@dataclass(frozen=True)
class Count:
    """What a run has come to.

    Attributes:
        submitted: Numbers whose request has committed.
        lost: Those of them without an effect.
        doubled: Effects beyond the first of a number.
        unasked: Effects of numbers that were never committed.
        last_effect: When the youngest effect was made, in seconds since 1970; 0 without any.
    """

    submitted: int
    lost: int
    doubled: int
    unasked: int
    last_effect: float


class Ledger:
    """Reads the suite's tables, patiently: the database may be what is being hurt."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self.ask(TABLES)

    def ask(
        self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own; returns its rows.

        Raises:
            psycopg.OperationalError: The database did not come back in time.
        """
        deadline = time.monotonic() + DATABASE_PATIENCE_SECONDS
        while True:
            try:
                with psycopg.connect(self._database_url, connect_timeout=3) as connection:
                    # Without parameters several statements may be sent at once.
                    cursor = connection.execute(statement, parameters or None)
                    return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def effects(self, run: str) -> int:
        """Return how many numbers of a run have their effect."""
        [(number,)] = self.ask(
            "SELECT count(DISTINCT number) FROM fault_effects WHERE run = %s", [run]
        )
        return int(number)

    def starts(self, run: str) -> dict[int, int]:
        """Return how often each number of a run was begun, for tasks that note it."""
        return dict(
            self.ask("SELECT number, count(*) FROM fault_starts WHERE run = %s GROUP BY 1", [run])
        )

    def submissions(self, run: str) -> set[int]:
        """Return the numbers whose request has committed."""
        return {
            number
            for (number,) in self.ask("SELECT number FROM fault_submissions WHERE run = %s", [run])
        }

    def count(self, run: str) -> Count:
        """Compare what was submitted with what has happened."""
        [(submitted, lost, doubled, unasked, last_effect)] = self.ask(
            """
            WITH happened AS (
                SELECT number, count(*) AS times, max(at) AS at
                FROM fault_effects WHERE run = %(run)s GROUP BY number
            ), asked AS (
                SELECT number FROM fault_submissions WHERE run = %(run)s
            )
            SELECT count(asked.number),
                   count(*) FILTER (WHERE happened.number IS NULL),
                   coalesce(sum(happened.times - 1), 0),
                   count(*) FILTER (WHERE asked.number IS NULL),
                   coalesce(extract(epoch FROM max(happened.at)), 0)
            FROM asked FULL JOIN happened USING (number)
            """,
            {"run": run},
        )
        return Count(submitted, lost, int(doubled), unasked, float(last_effect))

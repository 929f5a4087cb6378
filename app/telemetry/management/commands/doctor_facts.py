"""Measures what `make doctor` judges: facts about the database, the broker and the clocks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

from django.core.management.base import BaseCommand
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from redis import Redis, RedisError

from delivery.broker import client
from telemetry.schedulers import LEADER_LOCK

#: Seconds past its time after which a delivery counts as left behind: relays look every second, so
#: none of them has looked for a while.
OVERDUE_SECONDS: Final = 120
#: Seconds in which refused messages count as "lately".
LATELY_SECONDS: Final = 3600

COUNTS: Final = """
SELECT
    (SELECT count(*) FROM delivery_delivery WHERE state = 'dead'),
    (SELECT count(*) FROM delivery_delivery WHERE state IN ('pending', 'dispatched', 'running')
        AND due_at < now() - make_interval(secs => %(overdue)s)),
    (SELECT count(*) FROM delivery_quarantinedmessage
        WHERE received_at > now() - make_interval(secs => %(lately)s)),
    (SELECT reason FROM delivery_quarantinedmessage ORDER BY received_at DESC LIMIT 1),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (classid::bigint << 32) | objid::bigint = %(leader)s)
"""


class Command(BaseCommand):
    """Print the facts as one JSON object. A server that cannot be asked is a fact as well."""

    help = "Prints what `make doctor` judges, as JSON."

    def handle(self, *args: Any, **options: Any) -> None:
        """Measure and print."""
        facts = {"database": database(), "broker": broker(), "role": {"time": time.time()}}
        self.stdout.write(json.dumps(facts))


def database() -> dict[str, Any]:
    """Return facts about PostgreSQL and what the ledger says; ``fault`` if it does not answer."""
    try:
        executor = MigrationExecutor(connection)
        waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
        facts: dict[str, Any] = {
            "clock_skew_seconds": skew(_database_time),
            "migrations_waiting": [f"{step.app_label}.{step.name}" for step, _ in waiting],
        }
        if waiting:  # the tables may not be there
            return facts
        with connection.cursor() as cursor:
            cursor.execute(
                COUNTS,
                {"overdue": OVERDUE_SECONDS, "lately": LATELY_SECONDS, "leader": LEADER_LOCK},
            )
            names = ("dead_letters", "overdue", "refused_lately", "refused_why", "beat_leaders")
            return {**facts, **dict(zip(names, cursor.fetchone(), strict=True))}
    except DatabaseError as error:
        return {"fault": str(error).strip()}


def broker() -> dict[str, Any]:
    """Return facts about Redis; ``fault`` if it does not answer.

    A setting is None where the server does not tell (managed ones refuse CONFIG).
    """
    try:
        with client() as redis:
            return {
                "clock_skew_seconds": skew(lambda: _redis_time(redis)),
                "maxmemory_policy": _redis_setting(redis, "maxmemory-policy"),
                "appendonly": _redis_setting(redis, "appendonly"),
            }
    except RedisError as error:
        return {"fault": str(error)}


def skew(ask: Callable[[], float]) -> float:
    """Return the seconds by which a server's clock is ahead of ours; negative if it is behind.

    The server is taken to have looked in the middle of the time that asking took.
    """
    before = time.time()
    theirs = ask()
    return round(theirs - (before + time.time()) / 2, 3)


def _database_time() -> float:
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())")
        return float(cursor.fetchone()[0])


def _redis_time(redis: Redis) -> float:
    moment: Any = redis.time()
    seconds, microseconds = moment
    return float(seconds) + float(microseconds) / 1e6


def _redis_setting(redis: Redis, name: str) -> str | None:
    try:
        found: Any = redis.config_get(name)
    except RedisError:
        return None
    return str(found[name]) if name in found else None

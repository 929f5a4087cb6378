"""Is PostgreSQL there, with room and without jams?

Replication lag and full disks are not here: the stack has no replica, and none of its exporters
sees the disk. docs/alerts.md says so.
"""

from __future__ import annotations

from typing import Final

from deploy.prometheus.rulebook.pace import MINUTE, Pace
from deploy.prometheus.rulebook.rule import CRITICAL, WARNING, Alert, Group

#: Selects what clients do. Newer exporters name the kind of process; autovacuum may take its time.
CLIENT_BACKENDS: Final = 'backend_type=~"client backend|"'


def group(pace: Pace) -> Group:
    """Return the alerts of the database."""
    return Group(
        "celeriac.database",
        (_down(pace), _connections(pace), _deadlocks(pace), _long_transaction(pace)),
        area="database",
    )


def _down(pace: Pace) -> Alert:
    return Alert(
        "PostgresDown",
        CRITICAL,
        "The database does not answer: nothing is accepted, nothing can end",
        # As for Redis: one witness that reaches it is enough.
        "max by (namespace) (pg_up or celery_database_up) == 0",
        summary="PostgreSQL is down",
        description="PostgreSQL answers neither its exporter nor the Celery exporter. Submissions "
        "get 503; work in progress cannot commit.",
        dashboard="web-database",
        hold=pace.hold(MINUTE),
    )


def _connections(pace: Pace) -> Alert:
    return Alert(
        "PostgresTooManyConnections",
        WARNING,
        "More than 80 % of PostgreSQL's connections are in use",
        # 80 %: of 100 connections three are kept for superusers, and a deployment doubles web's.
        "max by (namespace) (\n"
        "  sum by (namespace, instance) (pg_stat_activity_count)\n"
        "  / on (namespace, instance)\n"
        "  (max by (namespace, instance) (pg_settings_max_connections) > 0)\n) > 0.8",
        summary="PostgreSQL runs out of connections",
        description="{{ $value | humanizePercentage }} of PostgreSQL's connections are in use.",
        dashboard="web-database",
        hold=pace.hold(5 * MINUTE),
    )


def _deadlocks(pace: Pace) -> Alert:
    # A new series is an exporter that started, not a deadlock: no `grown`.
    window = pace.window(15 * MINUTE)
    return Alert(
        "PostgresDeadlocks",
        WARNING,
        "PostgreSQL ended transactions that waited for each other",
        f"max by (namespace, datname) (increase(pg_stat_database_deadlocks[{window}])) > 0",
        summary="Transactions block each other",
        description="{{ $value | printf `%.0f` }} deadlocks in {{ $labels.datname }} within 15 "
        "minutes; each ended a transaction with an error.",
        dashboard="web-database",
    )


def _long_transaction(pace: Pace) -> Alert:
    series = "pg_stat_activity_max_tx_duration"
    idle = f'{series}{{state=~"idle in transaction.*", {CLIENT_BACKENDS}}}'
    active = f'{series}{{state!~"idle in transaction.*", {CLIENT_BACKENDS}}}'
    return Alert(
        "PostgresLongTransaction",
        WARNING,
        "A transaction has been idle for two minutes, or working for half an hour",
        # Idle: below idle_in_transaction_session_timeout of the application (300 s), which ends
        # it. Working: six times the longest task; a dump of a large database may take as long.
        f"max by (namespace, datname) ({idle}) > {pace.age(2 * MINUTE)}\nor\n"
        f"max by (namespace, datname) ({active}) > {pace.age(30 * MINUTE)}",
        summary="A transaction stays open",
        description="A transaction in {{ $labels.datname }} has been open for "
        "{{ $value | humanizeDuration }}. It may hold locks, and keeps dead rows from being "
        "removed.",
        dashboard="web-database",
        hold=pace.hold(MINUTE),
    )

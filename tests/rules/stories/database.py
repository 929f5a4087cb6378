"""Stories of PostgreSQL."""

from tests.rules.story import Fires, Quiet, Story, flat, nothing, rising

_DOWN = (
    "PostgreSQL answers neither its exporter nor the Celery exporter. Submissions get 503; work in "
    "progress cannot commit."
)
_DEADLOCKS = 'pg_stat_database_deadlocks{datname="celeriac", instance="x1"}'


def _transaction(state: str, more: str = "") -> str:
    return f'pg_stat_activity_max_tx_duration{{datname="celeriac", state="{state}"{more}}}'


def _connections(instance: str, *states: tuple[str, str]) -> dict[str, str]:
    return {
        f'pg_stat_activity_count{{instance="{instance}", datname="celeriac", state="{state}"}}': values
        for state, values in states
    } | {f'pg_settings_max_connections{{instance="{instance}"}}': flat(100, 15)}


_SEEN = 'pg_up{job="postgres", instance="postgres-exporter"}'
_SEEN_BY_OURS = 'celery_database_up{job="celery-exporter", instance="exporter"}'

STORIES: list[Story] = [
    Fires(
        "it answers neither exporter",
        "PostgresDown",
        {
            _SEEN: f"{flat(1, 5)} {flat(0, 10)}",
            _SEEN_BY_OURS: f"{flat(1, 4)} {flat(0, 11)}",
        },
        at=6.25,
        not_before=5.75,
        description=_DOWN,
    ),
    Fires(
        "its exporter is gone, and ours sees it",
        "PostgresDown",
        {_SEEN: f"{flat(1, 3)} stale", _SEEN_BY_OURS: f"{flat(1, 5)} {flat(0, 10)}"},
        at=6.25,
        not_before=5.75,
        description=_DOWN,
    ),
    Quiet(
        "a restart of less than a minute; exporters that restart",
        "PostgresDown",
        {
            _SEEN: f"{flat(1, 5)} {flat(0, 0.75)} {flat(1, 2)} {nothing(3)} {flat(1, 5)}",
            _SEEN_BY_OURS: f"{flat(1, 5)} {nothing(5)} {flat(1, 5)}",
        },
        until=14,
    ),
    Quiet(
        "the account of one exporter breaks, then that of the other",
        "PostgresDown",
        {
            _SEEN: f"{flat(0, 10)} {flat(1, 10)}",
            _SEEN_BY_OURS: f"{flat(1, 10)} {flat(0, 10)}",
        },
        until=19,
    ),
    Fires(
        "81 of 100, seen by two exporters",
        "PostgresTooManyConnections",
        _connections("x1", ("idle", flat(61, 15)), ("active", flat(20, 15)))
        | _connections("x2", ("idle", flat(61, 15)), ("active", flat(20, 15))),
        at=5.25,
        not_before=4.75,
        description="81% of PostgreSQL's connections are in use.",
    ),
    Quiet(
        "80 of 100, and two exporters do not make 160 of it",
        "PostgresTooManyConnections",
        _connections("x1", ("idle", flat(60, 15)), ("active", flat(20, 15)))
        | _connections("x2", ("idle", flat(60, 15)), ("active", flat(20, 15))),
        until=15,
    ),
    Fires(
        "one deadlock",
        "PostgresDeadlocks",
        {
            _DEADLOCKS: f"{flat(2, 20)} {flat(3, 40)}",
            'pg_stat_database_deadlocks{datname="template1", instance="x1"}': flat(0, 60),
        },
        at=20.5,
        not_before=19.75,
        resolved_at=36,
        labels={"datname": "celeriac"},
        description="1 deadlocks in celeriac within 15 minutes; each ended a transaction with "
        "an error.",
    ),
    Quiet(
        "old ones that a new exporter finds; statistics that are reset",
        "PostgresDeadlocks",
        {_DEADLOCKS: f"{nothing(20)} {flat(3, 20)} {flat(0, 20)}"},
        until=59,
    ),
    Fires(
        "idle in a transaction",
        "PostgresLongTransaction",
        {_transaction("idle in transaction"): f"{flat(0, 5)} {rising(0, 60, 10)}"},
        at=8.5,
        not_before=7.75,
        labels={"datname": "celeriac"},
        description="A transaction in celeriac has been open for 3m 30s. It may hold locks, and "
        "keeps dead rows from being removed.",
    ),
    Fires(
        "a query that does not end, as newer exporters show it",
        "PostgresLongTransaction",
        {
            _transaction("active", ', backend_type="client backend", usename="app"'): rising(
                0, 60, 40
            )
        },
        at=31.5,
        not_before=30.75,
        labels={"datname": "celeriac"},
        description="A transaction in celeriac has been open for 31m 30s. It may hold locks, and "
        "keeps dead rows from being removed.",
    ),
    Quiet(
        "a task of 270 s, idle for two minutes, a vacuum of hours",
        "PostgresLongTransaction",
        {
            _transaction("active"): f"{rising(0, 60, 4.5)} {rising(0, 60, 25)}",
            _transaction("idle in transaction"): f"{flat(0, 5)} {flat(120, 20)}",
            _transaction("active", ', backend_type="autovacuum worker"'): flat(7200, 25),
            _transaction("idle"): flat(0, 25),
        },
        until=24,
    ),
]

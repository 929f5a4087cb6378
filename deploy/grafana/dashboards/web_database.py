"""Web and database: are people served, quickly and without errors?"""

from __future__ import annotations

from typing import Final

from deploy.grafana.dashboards import colours
from deploy.grafana.dashboards.absence import absent, or_absent
from deploy.grafana.dashboards.builder import (
    AT_LEAST_ONE,
    BYTES,
    COUNT,
    PER_SECOND,
    QUANTILE_COLOURS,
    RATIO,
    SECONDS,
    SELECTED,
    Column,
    Dashboard,
    Link,
    Override,
    Panel,
    Query,
    Row,
    Thresholds,
    Uid,
    Variable,
    coloured,
    limit_line,
    stat,
    table,
    timeseries,
)
from deploy.prometheus.rulebook.burning import ERROR_BUDGET, FAST
from deploy.prometheus.rulebook.database import CLIENT_BACKENDS

_STATUSES: Final = "django_http_responses_total_by_status_view_method_total"
_LATENCY: Final = "django_http_requests_latency_seconds_by_view_method_bucket"
#: Probes and scrapes are not people: the probe middleware answers them before Django counts.
VIEW: Final = Variable("view", "View", f"label_values({_STATUSES}{{{SELECTED}}}, view)")
_VIEWS: Final = f'{SELECTED}, view=~"$view"'

_STATUS_COLOURS: Final = (
    coloured("^2xx", colours.GOOD),
    coloured("^3xx", colours.UNKNOWN),
    coloured("^4xx", colours.WARNING),
    coloured("^5xx", colours.BAD),
)
_CONNECTION_COLOURS: Final = (
    coloured("^active", colours.BLUE),
    coloured("^idle$", colours.SKY),
    coloured("^idle in transaction$", colours.WARNING),
    coloured("^idle in transaction .aborted", colours.BAD),
    coloured("^disabled|^fastpath", colours.UNKNOWN),
)
_ERRORS: Final = Thresholds(
    "the promise is 99 % without a server error; DjangoErrorBudgetBurnFast fires at 14.4 %",
    warning=ERROR_BUDGET,
    bad=FAST * ERROR_BUDGET,
)
_SLOW: Final = Thresholds("DjangoLatencyHigh fires at 1 s", warning=0.5, bad=1)


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return Dashboard(
        uid=Uid.WEB_DATABASE,
        title="Web and database",
        description="Are people served, quickly and without errors?",
        variables=(VIEW,),
        rows=(
            Row("Are people served right now?", _now()),
            Row("Which requests fail or are slow?", _requests()),
            Row("Is anything refused or put off?", _refused()),
            Row("Does the database keep up?", _database()),
            Row("What takes its time and space?", _work()),
        ),
    )


def _statuses(selector: str, window: str) -> str:
    return f"rate({_STATUSES}{{{selector}}}[{window}])"


def _share_of_errors(selector: str, window: str, by: str = "") -> str:
    """Return the share of requests that were answered with 5xx; 0, not nothing, without any."""
    failed = _statuses(f'{selector}, status=~"5.."', window)
    return (
        f"(sum{by} ({failed}) or 0 * sum{by} ({_statuses(selector, window)}))"
        f" / (sum{by} ({_statuses(selector, window)}) > 0)"
    )


def _latency(share: float, selector: str, window: str, by: str = "le") -> str:
    return f"histogram_quantile({share}, sum by ({by}) (rate({_LATENCY}{{{selector}}}[{window}])))"


def _now() -> tuple[Panel, ...]:
    return (
        stat(
            "Web services up",
            "Web services that answer Prometheus, of those it knows. DjangoDown fires without any.",
            Query(
                or_absent(f'sum(up{{{SELECTED}, job="web"}}) / count(up{{{SELECTED}, job="web"}})')
            ),
            unit=RATIO,
            decimals=0,
            thresholds=Thresholds(
                "each that is down serves nobody", warning=1, bad=0.5, falling=True
            ),
            words=absent("none known"),
        ),
        stat(
            "Requests",
            "Answered each second, over five minutes, without probes and scrapes.",
            Query(or_absent(f"sum({_statuses(SELECTED, '5m')})")),
            unit=PER_SECOND,
            decimals=1,
            words=absent("no requests", colours.UNKNOWN),
        ),
        stat(
            "Server errors",
            "Share of requests answered with 5xx over five minutes. Which view, says the table "
            "below; why, say the logs of web with the request's id.",
            Query(or_absent(_share_of_errors(SELECTED, "5m"))),
            unit=RATIO,
            decimals=2,
            thresholds=_ERRORS,
            words=absent("no requests", colours.UNKNOWN),
        ),
        stat(
            "Latency, p95",
            "95 % of requests over five minutes took no longer than this.",
            Query(or_absent(_latency(0.95, SELECTED, "5m"))),
            unit=SECONDS,
            thresholds=_SLOW,
            words=absent("no requests", colours.UNKNOWN),
        ),
        stat(
            "Database connections",
            "Used, as a part of max_connections. At 100 % whoever comes next is refused, workers "
            "too.",
            Query(
                or_absent(
                    f"sum(pg_stat_activity_count{{{SELECTED}}})"
                    f" / max(pg_settings_max_connections{{{SELECTED}}})"
                )
            ),
            unit=RATIO,
            decimals=0,
            thresholds=Thresholds("PostgresTooManyConnections fires at 80 %", warning=0.7, bad=0.8),
            words=absent("no database"),
        ),
        stat(
            "Unapplied migrations",
            "Migrations that the code has and the database has not. Right after a deployment this "
            "is a migration that still runs; later it is one that failed.",
            Query(or_absent(f"max(web_migrations_unapplied{{{SELECTED}}})")),
            unit=COUNT,
            thresholds=Thresholds("DjangoMigrationsUnapplied", warning=1),
            words=absent("not known"),
        ),
    )


def _requests() -> tuple[Panel, ...]:
    by_view = " by (view, method)"
    return (
        timeseries(
            "Requests by status",
            "Each second. 4xx are mistakes of callers (or 429: callers who ask too often); 5xx are "
            "ours.",
            Query(
                "sum by (class) (label_replace("
                f"{_statuses(_VIEWS, '$__rate_interval')}"
                ', "class", "${1}xx", "status", "(.).."))',
                "{{class}}",
            ),
            unit=PER_SECOND,
            width=8,
            height=9,
            stacked=True,
            overrides=_STATUS_COLOURS,
            empty="no requests",
        ),
        timeseries(
            "Share of server errors",
            "5xx of all requests. Above the first dashed line the month's error budget is used up "
            "before the month is over.",
            Query(_share_of_errors(_VIEWS, "$__rate_interval"), "5xx"),
            unit=RATIO,
            width=8,
            height=9,
            thresholds=_ERRORS,
            overrides=(coloured("^5xx", colours.BAD), Override(".", {"custom.axisSoftMax": 0.02})),
            empty="no requests",
        ),
        timeseries(
            "Latency",
            "Seconds from the first middleware to the answer. If p99 rises alone, one view is "
            "slow; if all rise, the database or the processor is.",
            *(
                Query(_latency(share, _VIEWS, "$__rate_interval"), f"p{round(share * 100)}")
                for share in (0.5, 0.95, 0.99)
            ),
            unit=SECONDS,
            width=8,
            height=9,
            thresholds=_SLOW,
            overrides=QUANTILE_COLOURS,
            empty="no requests",
        ),
        table(
            "Views",
            "Every view that was asked for in the time range.",
            {"view": "View", "method": "Method"},
            (
                Column(
                    title="Requests",
                    expr=f"round(sum{by_view} (increase({_STATUSES}{{{_VIEWS}}}[$__range])) > 0)",
                    unit=COUNT,
                    width=120,
                ),
                Column(
                    title="5xx",
                    expr=_share_of_errors(_VIEWS, "$__range", by_view),
                    unit=RATIO,
                    thresholds=_ERRORS,
                    width=110,
                    decimals=2,
                ),
                Column(
                    title="p50",
                    expr=_latency(0.5, _VIEWS, "$__range", "le, view, method"),
                    unit=SECONDS,
                    width=110,
                ),
                Column(
                    title="p95",
                    expr=_latency(0.95, _VIEWS, "$__range", "le, view, method"),
                    unit=SECONDS,
                    thresholds=_SLOW,
                    width=110,
                ),
            ),
            sort_by="Requests",
            width=16,
            height=9,
            empty="no requests",
        ),
        timeseries(
            "Exceptions",
            "That left a view, by type, in each minute. One kind at a constant rate is a fault in "
            "the code; many kinds at once are a database or broker that is away.",
            Query(
                "sum by (type)"
                f" (increase(django_http_exceptions_total_by_type_total{{{SELECTED}}}[1m]))",
                "{{type}}",
                interval="1m",
            ),
            unit=COUNT,
            width=8,
            height=9,
            bars=True,
            stacked=True,
            empty="No exceptions.",
        ),
    )


def _refused() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Asked to wait (429)",
            "Requests that were refused because their caller asks too often, each second, by "
            "limit. A steady line is a program that does not read Retry-After; sign_in is "
            "somebody who guesses.",
            Query(
                f"sum by (limit) (rate(web_rate_limited_total{{{SELECTED}}}[$__rate_interval]))",
                "{{limit}}",
            ),
            unit=PER_SECOND,
            width=8,
            height=9,
            overrides=(
                coloured("^api", colours.BLUE),
                coloured("^sign_in", colours.WARNING),
                AT_LEAST_ONE,
            ),
            empty="no web service",
        ),
        timeseries(
            "Left to the relay",
            "Requests, each second, that accepted a job and could not tell the broker. Nothing is "
            "lost: the relay publishes it. Look at Broker.",
            Query(
                f"sum(rate(web_publishing_failures_total{{{SELECTED}}}[$__rate_interval]))",
                "left to the relay",
            ),
            unit=PER_SECOND,
            width=8,
            height=9,
            overrides=(coloured("^left", colours.WARNING), AT_LEAST_ONE),
            empty="no web service",
            links=(Link("Is the broker in order?", Uid.BROKER),),
        ),
        timeseries(
            "Live connections",
            "WebSockets of people who watch jobs. Refused ones had no permission, or were too "
            "many; their pages ask again now and then.",
            Query(f"sum(web_sockets_open{{{SELECTED}}})", "open"),
            Query(
                f"sum(increase(web_sockets_refused_total{{{SELECTED}}}[$__rate_interval]))",
                "refused",
            ),
            unit=COUNT,
            width=8,
            height=9,
            overrides=(
                coloured("^open", colours.BLUE),
                coloured("^refused", colours.WARNING),
                AT_LEAST_ONE,
            ),
            empty="no web service",
        ),
    )


def _database() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Connections",
            "By what they do, against max_connections, the dashed line. Idle in transaction is a "
            "program that holds locks and does nothing.",
            Query(f"sum by (state) (pg_stat_activity_count{{{SELECTED}}} > 0)", "{{state}}"),
            Query(f"max(pg_settings_max_connections{{{SELECTED}}})", "limit"),
            unit=COUNT,
            width=8,
            height=9,
            stacked=True,
            overrides=(*_CONNECTION_COLOURS, limit_line("^limit$")),
            empty="no database",
        ),
        timeseries(
            "Connections of web's pools",
            "In use and idle, against the most that the pools may hold. In use at the limit: "
            "requests wait for a connection; look at the longest transaction.",
            Query(
                f'sum by (state) (web_database_pool_connections{{{SELECTED}, state!="limit"}})',
                "{{state}}",
            ),
            Query(f'sum(web_database_pool_connections{{{SELECTED}, state="limit"}})', "limit"),
            unit=COUNT,
            width=8,
            height=9,
            stacked=True,
            overrides=(
                coloured("^in_use", colours.BLUE),
                coloured("^idle", colours.SKY),
                limit_line("^limit$"),
            ),
            empty="no pool",
        ),
        timeseries(
            "Longest transaction",
            "Seconds that the oldest open transaction has lasted. Long ones keep locks, and keep "
            "old rows from being cleaned up: everything gets slower.",
            Query(
                f"max by (state) (pg_stat_activity_max_tx_duration{{{SELECTED},"
                f' state=~"active|idle in transaction.*", {CLIENT_BACKENDS}}})',
                "{{state}}",
            ),
            unit=SECONDS,
            width=8,
            height=9,
            thresholds=Thresholds(
                "PostgresLongTransaction fires at 120 s when idle, at 1800 s when active",
                warning=120,
                bad=1800,
            ),
            overrides=_CONNECTION_COLOURS,
            empty="no database",
        ),
        timeseries(
            "Transactions",
            "Each second. Rolled back ones are errors, or duplicates that the ledger turned away.",
            Query(
                f"sum(rate(pg_stat_database_xact_commit{{{SELECTED}}}[$__rate_interval]))",
                "committed",
            ),
            Query(
                f"sum(rate(pg_stat_database_xact_rollback{{{SELECTED}}}[$__rate_interval]))",
                "rolled back",
            ),
            unit=PER_SECOND,
            width=8,
            height=9,
            overrides=(coloured("^committed", colours.BLUE), coloured("^rolled", colours.WARNING)),
            empty="no database",
        ),
        timeseries(
            "Locks",
            "Held or waited for, by mode. An exclusive mode that stays is a migration or a "
            "LOCK TABLE that somebody waits behind.",
            Query(f"sum by (mode) (pg_locks_count{{{SELECTED}}}) > 0", "{{mode}}"),
            unit=COUNT,
            width=8,
            height=9,
            stacked=True,
            empty="no locks",
        ),
        timeseries(
            "Deadlocks",
            "In each minute. PostgreSQL ends one of the two; the task or request is tried again.",
            Query(
                f"sum(increase(pg_stat_database_deadlocks{{{SELECTED}}}[1m]))",
                "deadlocks",
                interval="1m",
            ),
            unit=COUNT,
            width=8,
            height=9,
            bars=True,
            overrides=(coloured("^deadlocks", colours.WARNING), AT_LEAST_ONE),
            empty="no database",
        ),
    )


def _work() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Rows changed",
            "Inserted, updated and deleted, each second: what there is to write. Updates far above "
            "tasks are a loop.",
            *(
                Query(
                    f"sum(rate(pg_stat_database_tup_{kind}{{{SELECTED}}}[$__rate_interval]))", kind
                )
                for kind in ("inserted", "updated", "deleted")
            ),
            unit=PER_SECOND,
            width=8,
            height=9,
            overrides=(
                coloured("^inserted", colours.BLUE),
                coloured("^updated", colours.SKY),
                coloured("^deleted", colours.PURPLE),
            ),
            empty="no database",
        ),
        timeseries(
            "Read from memory",
            "Share of blocks that were found in PostgreSQL's memory. Lower than 90 % for long "
            "means that shared_buffers is small for what is asked.",
            Query(
                f"sum(rate(pg_stat_database_blks_hit{{{SELECTED}}}[$__rate_interval])) / ("
                f"sum(rate(pg_stat_database_blks_hit{{{SELECTED}}}[$__rate_interval]))"
                f" + sum(rate(pg_stat_database_blks_read{{{SELECTED}}}[$__rate_interval])))",
                "from memory",
            ),
            unit=RATIO,
            width=8,
            height=9,
            maximum=1,
            overrides=(coloured("^from", colours.BLUE),),
            empty="no database",
        ),
        timeseries(
            "Size",
            "Of each database on disk. Growth beyond the retention of jobs (docs/operations.md) is "
            "dead letters, or a clean-up that does not run: look at Schedule.",
            Query(
                f'max by (datname) (pg_database_size_bytes{{{SELECTED}, datname!~"template.*"}})',
                "{{datname}}",
            ),
            unit=BYTES,
            width=8,
            height=9,
            empty="no database",
            links=(Link("Do clean-ups run?", Uid.SCHEDULE),),
        ),
    )

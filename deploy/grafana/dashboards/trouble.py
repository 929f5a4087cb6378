"""Everything that can be counted and should not happen, as one list for the Overview.

A fault that nobody thought of still fails, retries, refuses, times out or restarts something. The
list names what moved, and the dashboard on which to look next.
"""

from dataclasses import dataclass
from typing import Final

from deploy.grafana.dashboards.builder import SELECTED, Uid
from deploy.grafana.dashboards.expressions import OVERDUE
from deploy.prometheus.rulebook.database import CLIENT_BACKENDS
from deploy.prometheus.rulebook.pace import MINUTE, Pace, duration
from deploy.prometheus.rulebook.promql import grown

#: Long enough to be seen after a glance elsewhere, short enough to end soon after the trouble.
WINDOW_SECONDS: Final = 5 * MINUTE
WINDOW: Final = duration(WINDOW_SECONDS)


@dataclass(frozen=True)
class Trouble:
    """One kind of trouble.

    Attributes:
        words: What happened, as the label of a bar.
        uid: Where to look next.
        expr: How often; nothing or 0 while there is none.
        serious: Work is lost, refused or stands still; else it is only slower or tried again.
    """

    words: str
    uid: Uid
    expr: str
    serious: bool = True


def _counted(metric: str) -> str:
    """Return how often a counter counted that is born at 0."""
    return f"sum(increase({metric}{{{SELECTED}}}[{WINDOW}]))"


def _counted_from_birth(metric: str, selector: str = "") -> str:
    """Return how often a counter counted whose series appear with their first event."""
    return f"sum({grown(f'{metric}{{{SELECTED}{selector}}}', WINDOW_SECONDS, Pace())})"


def _present(condition: str) -> str:
    return f"count({condition})"


_RESPONSES: Final = "django_http_responses_total_by_status_view_method_total"

#: Running five times as long as 99 % of the last hour, and not just slow: half a minute.
_HUNG: Final = (
    f"count(max by (name) (celery_worker_oldest_active_task_seconds{{{SELECTED}}})"
    " > on (name) clamp_min(5 * histogram_quantile(0.99, sum by (name, le)"
    f" (rate(celery_task_runtime_bucket{{{SELECTED}}}[1h]))), 30))"
)

_CLOCK: Final = f"celery_worker_clock_timestamp_seconds{{{SELECTED}}}"
_CROWDED: Final = (
    f"sum by (instance) (pg_stat_activity_count{{{SELECTED}}}) / on (instance)"
    f" (max by (instance) (pg_settings_max_connections{{{SELECTED}}}) > 0) > 0.8"
)
_DRAINED: Final = (
    f'sum by (instance) (web_database_pool_connections{{{SELECTED}, state="in_use"}})'
    " >= on (instance)"
    f' (sum by (instance) (web_database_pool_connections{{{SELECTED}, state="limit"}}) > 0)'
)

KINDS: Final = (
    Trouble("tasks failed for good", Uid.TASKS, _counted_from_birth("celery_task_failed_total")),
    Trouble(
        "attempts begun late",
        Uid.QUEUES,
        f"{_counted('celery_sli_queueing_total')} - {_counted('celery_sli_queueing_good_total')}",
        serious=False,
    ),
    Trouble("attempts out of time", Uid.TASKS, _counted("celery_task_timeouts_total")),
    Trouble(
        "attempts to be repeated", Uid.TASKS, _counted("celery_task_retried_total"), serious=False
    ),
    Trouble("tasks rejected", Uid.TASKS, _counted("celery_task_rejected_total"), serious=False),
    Trouble("tasks no worker knows", Uid.TASKS, _counted("celery_task_unknown_total")),
    Trouble("attempts that do not end", Uid.WORKERS, _HUNG, serious=False),
    Trouble("pool processes lost", Uid.WORKERS, _counted("celery_task_worker_lost_total")),
    Trouble(
        "workers paused or cut off",
        Uid.WORKERS,
        _present(f"celery_worker_consuming{{{SELECTED}}} == 0"),
    ),
    Trouble(
        "workers whose clock is wrong",
        Uid.WORKERS,
        # Five seconds: an answer to a scrape may be late by some, as a clock that is kept is not.
        f"count(abs({_CLOCK} - timestamp({_CLOCK})) > 5)",
        serious=False,
    ),
    Trouble(
        "processes restarted",
        Uid.WORKERS,
        f"sum(changes(process_start_time_seconds{{{SELECTED}}}[{WINDOW}]))",
        serious=False,
    ),
    Trouble(
        "queues nobody serves",
        Uid.QUEUES,
        f"count(queue_name:celery_queue_length:max{{{SELECTED}}} > 0"
        " unless on (namespace, queue_name) queue_name:celery_worker_subscribers:count)",
    ),
    Trouble(
        "messages delivered again",
        Uid.BROKER,
        _counted("celery_task_redelivered_total"),
        serious=False,
    ),
    Trouble(
        "forged messages refused",
        Uid.BROKER,
        # Whoever floods is seen by the kept messages, a single one by the time of the last.
        f"max((time() - celery_quarantine_last_received_timestamp_seconds{{{SELECTED}}} < bool 300)"
        f" * clamp_min(delta(celery_quarantined_messages{{{SELECTED}}}[{WINDOW}]), 1))",
    ),
    Trouble(
        "messages nobody took back",
        Uid.BROKER,
        f"sum(max by (namespace) (celery_broker_unacked_past_visibility{{{SELECTED}}}))",
    ),
    Trouble(
        "etas beyond the time-out",
        Uid.BROKER,
        f"sum(max by (queue_name) (celery_broker_eta_beyond_visibility{{{SELECTED}}}))",
        serious=False,
    ),
    Trouble("duplicates ignored", Uid.BROKER, _counted("celery_task_ignored_total"), serious=False),
    Trouble("broker lost its data", Uid.BROKER, _counted("celery_relay_broker_data_losses_total")),
    Trouble("Redis evicted keys", Uid.BROKER, _counted("redis_evicted_keys_total")),
    Trouble("Redis refused clients", Uid.BROKER, _counted("redis_rejected_connections_total")),
    Trouble(
        "Redis may evict",
        Uid.BROKER,
        _present(f'redis_instance_info{{{SELECTED}, maxmemory_policy!="noeviction"}}'),
        serious=False,
    ),
    Trouble(
        "Redis cannot save",
        Uid.BROKER,
        _present(
            '{__name__=~"redis_aof_last_write_status|redis_aof_last_bgrewrite_status'
            f'|redis_rdb_last_bgsave_status", {SELECTED}}} == 0'
        ),
    ),
    Trouble(
        "deliveries overdue",
        Uid.BROKER,
        f"sum(max by (queue_name) (celery_deliveries_overdue{{{SELECTED}}}))",
    ),
    Trouble("relay rounds failed", Uid.BROKER, _counted("celery_relay_round_failures_total")),
    Trouble("unpublishable deliveries", Uid.TASKS, _counted("celery_relay_unpublishable_total")),
    Trouble(
        "publications left to relay",
        Uid.BROKER,
        _counted("web_publishing_failures_total"),
        serious=False,
    ),
    Trouble("periodic runs not sent", Uid.SCHEDULE, _counted("celery_beat_publish_failures_total")),
    Trouble("periodic runs overdue", Uid.SCHEDULE, f"count({OVERDUE})"),
    Trouble(
        "requests answered 5xx",
        Uid.WEB_DATABASE,
        _counted_from_birth(_RESPONSES, ', status=~"5.."'),
    ),
    Trouble(
        "requests answered 429",
        Uid.WEB_DATABASE,
        _counted("web_rate_limited_total"),
        serious=False,
    ),
    Trouble(
        "WebSockets refused",
        Uid.WEB_DATABASE,
        _counted("web_sockets_refused_total"),
        serious=False,
    ),
    Trouble(
        "migrations unapplied",
        Uid.WEB_DATABASE,
        f"max(web_migrations_unapplied{{{SELECTED}}})",
        serious=False,
    ),
    Trouble(
        "connections nearly used up",
        Uid.WEB_DATABASE,
        # Of a server, as PostgresTooManyConnections has it, and of the pools of a web server.
        f"count({_CROWDED} or {_DRAINED})",
        serious=False,
    ),
    Trouble("deadlocks", Uid.WEB_DATABASE, _counted("pg_stat_database_deadlocks"), serious=False),
    Trouble(
        "transactions over a minute",
        Uid.WEB_DATABASE,
        f"sum(pg_stat_activity_max_tx_duration{{{SELECTED}, {CLIENT_BACKENDS}}} > bool 60)",
        serious=False,
    ),
    Trouble(
        "slow answers to the exporter",
        Uid.WEB_DATABASE,
        # Milliseconds are usual; a quarter of a second is a lock or a machine without breath.
        "sum(max_over_time(celery_exporter_read_duration_seconds"
        f'{{{SELECTED}, source!="broker_scan"}}[1m]) > bool 0.25)',
        serious=False,
    ),
    Trouble(
        "sources the exporter cannot read",
        Uid.BROKER,
        f"count(time() - celery_exporter_last_success_timestamp_seconds{{{SELECTED}}} > 120)",
    ),
    Trouble(
        "alerts not delivered",
        Uid.OVERVIEW,
        " + ".join(
            f"({_counted(metric)} or vector(0))"
            for metric in (
                "alertmanager_notifications_failed_total",
                "prometheus_notifications_errors_total",
                "prometheus_notifications_dropped_total",
            )
        ),
    ),
    Trouble(
        "rules not evaluated",
        Uid.OVERVIEW,
        _counted("prometheus_rule_evaluation_failures_total"),
        serious=False,
    ),
)

#: Label that names the dashboard, for the link of a bar.
DASHBOARD_LABEL: Final = "dashboard"


def _bar(kind: Trouble) -> str:
    # Half an event is what extrapolation makes of one that is about to leave the window.
    whole = f"ceil({kind.expr} > 0.1)"
    with_words = f'label_replace({whole}, "trouble", "{kind.words}", "", "")'
    return f'label_replace({with_words}, "{DASHBOARD_LABEL}", "{kind.uid}", "", "")'


#: All kinds that are there now, the most frequent first; each with its words as ``trouble``.
TROUBLE: Final = f"sort_desc({' or '.join(_bar(kind) for kind in KINDS)})"
#: Ends the list. It is all that is there in health: a panel that is empty says nothing, and
#: Grafana gives a single bar no name.
NOTHING_ELSE: Final = "nothing else"
END: Final = f'label_replace(vector(0), "{DASHBOARD_LABEL}", "{Uid.OVERVIEW}", "", "")'
#: A regular expression for the bars to be red.
SERIOUS: Final = f"^({'|'.join(kind.words for kind in KINDS if kind.serious)})$"

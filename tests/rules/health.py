"""The whole stack at once: what fires when all is well, and when one thing is broken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from config.topology import QUEUES, VISIBILITY_TIMEOUT_SECONDS
from telemetry.catalogue import COUNTER, GAUGE, METRICS, Metric
from tests.rules.story import with_namespace

_TASKS = {queue.name: f"{queue.name}.work" for queue in QUEUES}
_JOBS = {
    "web": "web", "celery-beat": "beat", "celery-relay": "relay",
    "celery-exporter": "exporter", "redis": "redis-exporter", "postgres": "postgres-exporter",
    "prometheus": "prometheus", "alertmanager": "alertmanager",
}  # fmt: skip
_SERVICES = {"worker": "w1", "worker-bulk": "b1"}
_FOREIGN = {
    'redis_up{instance="redis-exporter"}': 1,
    'redis_evicted_keys_total{instance="redis-exporter"}': 0,
    'redis_rejected_connections_total{instance="redis-exporter"}': 3,
    'redis_instance_info{instance="redis-exporter", maxmemory_policy="noeviction"}': 1,
    'redis_memory_used_bytes{instance="redis-exporter"}': 5e6,
    'redis_memory_max_bytes{instance="redis-exporter"}': 400e6,
    'redis_aof_last_write_status{instance="redis-exporter"}': 1,
    'redis_aof_last_bgrewrite_status{instance="redis-exporter"}': 1,
    'redis_rdb_last_bgsave_status{instance="redis-exporter"}': 1,
    'pg_up{instance="postgres-exporter"}': 1,
    'pg_settings_max_connections{instance="postgres-exporter"}': 100,
    'pg_stat_activity_count{instance="postgres-exporter", datname="celeriac", state="idle"}': 12,
    'pg_stat_activity_max_tx_duration{instance="postgres-exporter", datname="celeriac", '
    'state="active"}': 0,
    'pg_stat_database_deadlocks{instance="postgres-exporter", datname="celeriac"}': 2,
    'django_http_responses_total_by_status_view_method_total{status="500", view="a"}': 4,
    'django_http_responses_total_by_status_view_method_total{status="200", view="a"}': 90,
    'alertmanager_notifications_failed_total{integration="webhook"}': 1,
    "prometheus_notifications_errors_total": 2,
    "prometheus_notifications_dropped_total": 0,
    'prometheus_rule_evaluation_failures_total{rule_group="a"}': 0,
    # The public exporter, down and with numbers that would fire alerts: they are not ours.
    'up{job="upstream-exporter", service="upstream-exporter", instance="upstream"}': 0,
    'upstream_celery_worker_up{job="upstream-exporter", hostname="w1"}': 0,
    'upstream_celery_queue_length{job="upstream-exporter", queue_name="default"}': 9000,
}
#: Gauges that are not 0 in a stack that is well and idle.
_VALUES = {
    "celery_worker_up": 1,
    "celery_worker_pool_slots": 4,
    "celery_worker_consuming": 1,
    "celery_worker_queue_subscription": 1,
    "celery_worker_children_rss_bytes": 3e8,
    "celery_worker_memory_limit_bytes": 1e9,
    "celery_broker_up": 1,
    "celery_database_up": 1,
    "celery_broker_visibility_timeout_seconds": VISIBILITY_TIMEOUT_SECONDS,
    "celery_dead_letters": 7,
    "celery_quarantined_messages": 2,
    "celery_beat_leader": 1,
    "celery_beat_entries": 10,
    "celeriac_build_info": 1,
}


@dataclass(frozen=True)
class Health:
    """What the stack as a whole shows.

    Attributes:
        title: What happens.
        hours: How long.
        changes: Values of series that differ from those of an idle stack; None takes one away.
        gone: Instance that ends after a third of the time: its series end, and ``up`` is 0.
        fires: The alerts that fire at some moment, beside Watchdog, and no others.
        step: Seconds between two samples and evaluations.
    """

    title: str
    hours: float
    changes: Mapping[str, str | None] = field(default_factory=dict)
    gone: str = ""
    fires: tuple[str, ...] = ()
    step: int = 60

    def as_test(self) -> dict[str, Any]:
        """Return it as promtool reads it."""
        samples = round(self.hours * 3600 / self.step)
        series = dict(_idle(samples, self.step))
        for name, values in self.changes.items():
            known = with_namespace(name)
            assert known in series, f"{name} is not in the idle stack"
            if values is None:
                del series[known]
            else:
                series[known] = values
        if self.gone:
            series |= _ended(series, self.gone, samples)
        seconds = samples * self.step
        fired = (
            'group by (alertname) (count_over_time(ALERTS{alertstate="firing"}'
            f"[{seconds + self.step}s]))"
        )
        return {
            "name": self.title,
            "interval": f"{self.step}s",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": fired,
                    "eval_time": f"{seconds}s",
                    "exp_samples": [
                        {"labels": f'{{alertname="{alert}"}}', "value": 1}
                        for alert in sorted((*self.fires, "Watchdog"))
                    ],
                }
            ],
        }


def _idle(samples: int, step: int) -> Mapping[str, str]:
    """Return every series of a stack in which nothing happens but time."""
    series = {with_namespace(name): f"{value:g}x{samples}" for name, value in _FOREIGN.items()}
    series[with_namespace('redis_uptime_in_seconds{instance="redis-exporter"}')] = (
        f"90000+{step}x{samples}"
    )
    for job, instance in _JOBS.items():
        series[with_namespace(f'up{{job="{job}", instance="{instance}"}}')] = f"1x{samples}"
    for service, instance in _SERVICES.items():
        up = f'up{{job="celery-worker", service="{service}", instance="{instance}"}}'
        start = up.replace("up{", "process_start_time_seconds{")
        series[with_namespace(up)] = series[with_namespace(start)] = f"1x{samples}"
    for metric in METRICS:
        for job in metric.served_by:
            for name, value in _series(metric, job):
                series[with_namespace(name)] = (
                    # Fresh at every scrape; a canary is never older than its period.
                    f"0+{step}x{samples}" if value is None else f"{value:g}x{samples}"
                )
    return series


def _ended(series: Mapping[str, str], instance: str, samples: int) -> dict[str, str]:
    """Return the series of an instance that is gone after a third of the samples."""
    lived = samples // 3
    ended = {
        name: values.replace(f"x{samples}", f"x{lived} ")
        + (f"0x{samples - lived}" if name.startswith("up{") else "stale")
        for name, values in series.items()
        if f'instance="{instance}"' in name
    }
    assert ended, f"{instance} is not in the idle stack"
    return ended


def _series(metric: Metric, job: str) -> list[tuple[str, float | None]]:
    """Return the series of a metric; a value of None is a timestamp that moves on."""
    if metric.kind not in {COUNTER, GAUGE}:
        return []
    value: float | None = _VALUES.get(metric.name, 5 if metric.kind == COUNTER else 0)
    if metric.name.endswith("_timestamp_seconds"):
        value = 0 if metric.name.startswith("celery_quarantine") else None
    found = []
    for own in _places(metric, job):
        labels = own | {name: _example(metric, name) for name in metric.labels if name not in own}
        text = ", ".join(f'{name}="{label}"' for name, label in labels.items())
        found.append((f"{metric.name}{{{text}}}", _of_queue(metric, labels, value)))
    return found


def _places(metric: Metric, job: str) -> list[dict[str, str]]:
    """Return the labels that tell apart the series of a metric: queues, sources, processes."""
    if "source" in metric.labels:
        sources = ("broker", "broker_scan", "database")
        return [{"instance": "exporter", "source": source} for source in sources]
    if "queue_name" not in metric.labels:
        if job == "celery-worker":
            return [
                {"job": job, "service": service, "instance": instance}
                for service, instance in _SERVICES.items()
            ]
        return [{"job": job, "instance": _JOBS[job]}]
    return [
        (
            {"job": job, "service": queue.worker, "instance": _SERVICES[queue.worker]}
            if job == "celery-worker"
            else {"job": job, "instance": _JOBS[job]}
        )
        | {"queue_name": queue.name}
        | ({"name": _TASKS[queue.name]} if "name" in metric.labels else {})
        for queue in QUEUES
    ]


def _example(metric: Metric, label: str) -> str:
    if metric.name == "celery_worker_requests":
        return "active"
    return {"exception": "ValueError", "name": "shop.work", "entry": "nightly"}.get(label, "a")


def _of_queue(metric: Metric, labels: Mapping[str, str], value: float | None) -> float | None:
    for queue in QUEUES:
        if labels.get("queue_name") == queue.name:
            if metric.name == "celery_queue_slo_seconds":
                return queue.wait_target_seconds
            if metric.name == "celery_queue_time_limit_seconds":
                return queue.hard_time_limit_seconds
    return value


_TICK = 'celery_beat_last_tick_timestamp_seconds{job="celery-beat", instance="beat"}'

STORIES = [
    # The day of a stack that nobody uses, from the first evaluation of its rules: counters have a
    # past, dead letters and refused messages are kept.
    Health("a day without traffic", hours=24, step=240),
    Health("the first hour, at the pace of production", hours=1, step=15),
    Health(
        "beat hangs",
        hours=1,
        changes={
            _TICK: "0+60x20 1200x40",
        },
        fires=("CeleryBeatStalled",),
    ),
    Health(
        "Redis does not answer",
        hours=1,
        changes={
            'redis_up{instance="redis-exporter"}': "1x20 0x40",
            'celery_broker_up{job="celery-exporter", instance="exporter"}': "1x20 0x40",
        },
        fires=("RedisDown",),
    ),
    Health(
        "the account of one exporter of Redis is refused",
        hours=1,
        changes={'redis_up{instance="redis-exporter"}': "1x20 0x40"},
        fires=("ServerMetricsMissing",),
    ),
    Health(
        "the Celery exporter is gone",
        hours=1,
        gone="exporter",
        fires=("CeleryMetricsStale", "MetricsTargetDown"),
    ),
    Health(
        "the web role is gone",
        hours=1,
        changes={'up{job="web", instance="web"}': "1x20 0x40"},
        fires=("DjangoDown", "MetricsTargetDown"),
    ),
]

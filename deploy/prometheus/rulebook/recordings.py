"""Series that dashboards and alerts share.

Names follow ``level:metric:operation``. Windows in names are those at scale 1.
"""

from __future__ import annotations

from typing import Final

from deploy.prometheus.rulebook.pace import HOUR, MINUTE, Pace
from deploy.prometheus.rulebook.promql import RULES_EVALUATED, grown, held
from deploy.prometheus.rulebook.rule import Group, Recording

#: Windows of burn rates: 5m and 1h find a fast burn, 30m and 6h a slow one.
BURN_WINDOWS: Final = {"5m": 5 * MINUTE, "30m": 30 * MINUTE, "1h": HOUR, "6h": 6 * HOUR}

_QUEUE: Final = "namespace, queue_name"
_TASK: Final = "namespace, queue_name, name"


def groups(pace: Pace) -> tuple[Group, ...]:
    """Return all recording rules."""
    return (
        # First, so that every other rule finds it.
        Group("celeriac.record.evaluation", (Recording(RULES_EVALUATED, "vector(1)"),)),
        Group("celeriac.record.queues", _queues(pace)),
        Group("celeriac.record.tasks", _tasks(pace)),
        Group("celeriac.record.web", _web(pace)),
        Group("celeriac.record.promises", _promises(pace)),
    )


def _queues(pace: Pace) -> tuple[Recording, ...]:
    five_minutes = pace.window(5 * MINUTE)
    ten_minutes = pace.window(10 * MINUTE)
    subscription = f"max by ({_QUEUE}, instance) (celery_worker_queue_subscription)"
    slots = (
        f"sum by ({_QUEUE}) (max by (namespace, instance) (celery_worker_pool_slots)"
        f" * on (namespace, instance) group_right () {subscription})"
    )
    active = (
        f"sum by ({_QUEUE}) ("
        'max by (namespace, instance) (celery_worker_requests{state="active"})'
        f" * on (namespace, instance) group_right () {subscription})"
    )
    age = held("celery_queue_oldest_message_age_seconds", pace)
    rates = tuple(
        Recording(
            f"queue_name:{recorded}:rate5m", f"sum by ({_QUEUE}) (rate({counter}[{five_minutes}]))"
        )
        for recorded, counter in (
            ("celery_task_received", "celery_task_received_total"),
            ("celery_task_started", "celery_task_started_total"),
            # Every attempt has a runtime, whatever its end.
            ("celery_task_completed", "celery_task_runtime_count"),
        )
    )
    waits = tuple(
        Recording(
            f"queue_name:celery_task_queue_wait_time:p{percent}_5m",
            f"histogram_quantile(0.{percent}, sum by ({_QUEUE}, le) "
            f"(rate(celery_task_queue_wait_time_bucket[{five_minutes}])))",
        )
        for percent in (50, 95, 99)
    )
    return (
        Recording("queue_name:celery_queue_length:max", held("celery_queue_length", pace)),
        Recording("queue_name:celery_queue_oldest_message_age_seconds:max", age),
        Recording(
            "queue_name:celery_queue_oldest_message_age:target_ratio",
            f"{age}\n/ on ({_QUEUE}) {held('celery_queue_slo_seconds', pace)}",
        ),
        *rates,
        *waits,
        Recording(
            "queue_name:celery_worker_subscribers:count",
            f"count by ({_QUEUE}) ({subscription} > 0)",
        ),
        Recording("queue_name:celery_worker_pool_slots:sum", slots),
        Recording("queue_name:celery_worker_busy:ratio", f"{active}\n/ {slots}"),
        # Only while the queue falls: a queue that grows never drains.
        Recording(
            "queue_name:celery_queue_drain_seconds:estimate",
            "queue_name:celery_queue_length:max\n"
            f"/ (-1 * (deriv(queue_name:celery_queue_length:max[{ten_minutes}]) < 0))",
        ),
        Recording(
            "queue_name:celery_canary_age_seconds:max",
            f"time() - {held('celery_canary_last_success_timestamp_seconds', pace)}",
        ),
    )


def _tasks(pace: Pace) -> tuple[Recording, ...]:
    failed = f"sum by ({_TASK}) ({grown('celery_task_failed_total', 10 * MINUTE, pace)})"
    succeeded = f"sum by ({_TASK}) ({grown('celery_task_succeeded_total', 10 * MINUTE, pace)})"
    retried = f"sum by ({_TASK}) ({grown('celery_task_retried_total', 10 * MINUTE, pace)})"
    started = f"sum by ({_TASK}) ({grown('celery_task_started_total', 10 * MINUTE, pace)})"
    return (
        Recording("name:celery_task_failed:increase10m", failed),
        # A task that only ever failed has no success to add to.
        Recording(
            "name:celery_task_failed:ratio_rate10m",
            f"{failed}\n/ ((({failed} + {succeeded})\n  or {failed}) > 0)",
        ),
        Recording("name:celery_task_retried:ratio_rate10m", f"{retried}\n/ ({started} > 0)"),
        Recording(
            "name:celery_task_runtime:p95_5m",
            f"histogram_quantile(0.95, sum by ({_TASK}, le) "
            f"(rate(celery_task_runtime_bucket[{pace.window(5 * MINUTE)}])))",
        ),
    )


def _web(pace: Pace) -> tuple[Recording, ...]:
    responses = "django_http_responses_total_by_status_view_method_total"
    latency = "django_http_requests_latency_seconds_by_view_method_bucket"
    window = pace.window(5 * MINUTE)
    return (
        Recording(
            "namespace:django_http_responses:rate5m",
            f"sum by (namespace) (rate({responses}[{window}]))",
        ),
        Recording(
            "namespace:django_http_requests_latency:p95_5m",
            f"histogram_quantile(0.95, sum by (namespace, le) (rate({latency}[{window}])))",
        ),
        Recording(
            "view:django_http_requests_latency:p95_10m",
            "histogram_quantile(0.95, sum by (namespace, view, method, le) "
            f"(rate({latency}[{pace.window(10 * MINUTE)}])))",
        ),
    )


def _promises(pace: Pace) -> tuple[Recording, ...]:
    """Return the share of broken promises, for each promise and window; nothing without traffic."""
    recordings = []
    for name, seconds in BURN_WINDOWS.items():
        for promise, level, by in (
            ("queueing", "queue_name", _QUEUE),
            ("execution", "name", _TASK),
        ):
            total, good = (
                f"sum by ({by}) (rate(celery_sli_{promise}{kind}_total[{pace.window(seconds)}]))"
                for kind in ("", "_good")
            )
            recordings.append(
                Recording(
                    f"{level}:celery_task_{promise}:burnrate{name}",
                    f"1 - ({good}\n  or 0 * {total})\n/ ({total} > 0)",
                )
            )
        responses = "django_http_responses_total_by_status_view_method_total"
        # Born with the first error of a view; the counters above are born at 0.
        errors = f'{responses}{{status=~"5.."}}'
        total, bad = (
            f"sum by (namespace) ({grown(series, seconds, pace)})" for series in (responses, errors)
        )
        recordings.append(
            Recording(
                f"namespace:django_http_responses:burnrate{name}",
                f"({bad}\n  or 0 * {total})\n/ ({total} > 0)",
            )
        )
    return tuple(recordings)

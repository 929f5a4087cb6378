"""Expressions that several dashboards share, so that they show the same number by the same words.

Where a recording rule holds the answer (``deploy/prometheus/rulebook/recordings.py``), they ask for
that. Expressions for ``OF_QUEUES`` follow the reader's choice of queues; a dashboard without that
choice uses ``every_queue``.
"""

from typing import Final

from deploy.grafana.dashboards.builder import SELECTED

#: ``namespace`` and the queues that the reader chose.
_CHOSEN: Final = ', queue_name=~"$queue_name"'
OF_QUEUES: Final = SELECTED + _CHOSEN

#: Memory of Redis, as a part of maxmemory; -1: it has no limit; -2: nobody could ask it.
BROKER_MEMORY: Final = (
    f"max(redis_memory_used_bytes{{{SELECTED}}} / (redis_memory_max_bytes{{{SELECTED}}} > 0))"
    f" or max(redis_memory_max_bytes{{{SELECTED}}}) - 1 or on () vector(-2)"
)
#: Messages that wait, by queue.
LENGTH: Final = f"max by (queue_name) (queue_name:celery_queue_length:max{{{OF_QUEUES}}})"
#: Seconds that a message of the queue may wait.
TARGET: Final = f"max by (queue_name) (celery_queue_slo_seconds{{{OF_QUEUES}}})"
#: Age of the oldest waiting work, by queue: of the message in the broker, or of the row in the
#: ledger, which is also right while the broker is down.
OLDEST: Final = (
    'max by (queue_name) ({__name__=~"celery_queue_oldest_message_age_seconds'
    f'|celery_delivery_oldest_waiting_age_seconds", {OF_QUEUES}}})'
)
#: How fast the queue grows (falls, if negative), in messages per second.
GROWTH: Final = (
    f"max by (queue_name) (deriv(queue_name:celery_queue_length:max{{{OF_QUEUES}}}[5m]))"
)
#: Attempts per second, by queue: begun, and ended in whatever way.
STARTED: Final = f"sum by (queue_name) (queue_name:celery_task_started:rate5m{{{OF_QUEUES}}})"
COMPLETED: Final = f"sum by (queue_name) (queue_name:celery_task_completed:rate5m{{{OF_QUEUES}}})"
#: What arrives: what is started, and what the queue grew by. Workers' pool processes publish too
#: and have no endpoint of their own, so that nobody can count publications exactly.
ARRIVING: Final = f"clamp_min({STARTED} + {GROWTH}, 0)"
#: Seconds until the queue is empty at the pace of the last minutes; 0: it is; -1: it does not
#: get shorter.
DRAIN: Final = (
    "max by (queue_name) "
    f"(queue_name:celery_queue_drain_seconds:estimate{{{OF_QUEUES}}})"
    f" or ({LENGTH} > 0) * 0 - 1 or {LENGTH}"
)
#: Seconds since each entry of the schedule was last sent, and between two of its occurrences.
ENTRY_AGE: Final = (
    f"time() - max by (entry) (celery_beat_entry_last_sent_timestamp_seconds{{{SELECTED}}})"
)
ENTRY_INTERVAL: Final = f"max by (entry) (celery_beat_entry_interval_seconds{{{SELECTED}}})"
#: Age of the entries that should have been sent again. Beat looks at its schedule every few
#: seconds, and Prometheus every quarter of a minute.
OVERDUE: Final = f"{ENTRY_AGE} > 1.5 * {ENTRY_INTERVAL} + 30"


def every_queue(expr: str) -> str:
    """Return the expression for all queues, whatever the reader chose elsewhere."""
    return expr.replace(_CHOSEN, "")


def budget_left(good: str, total: str, allowed: float, by: str = "") -> str:
    """Return the share of the error budget of 30 days that is left; negative: overdrawn.

    Args:
        good: Counter of what went as promised, with its selector.
        total: Counter of everything, with its selector.
        allowed: Share of bad ones that the promise allows.
        by: Labels to keep.
    """
    grouped = f" by ({by})" if by else ""
    shares = f"sum{grouped} (increase({good}[30d])) / (sum{grouped} (increase({total}[30d])) > 0)"
    return f"1 - (1 - {shares}) / {allowed:g}"

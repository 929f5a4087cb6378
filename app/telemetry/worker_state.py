"""What a worker is doing, read at each scrape from its own memory: nothing waits, nobody is asked.

A scrape comes in a thread of its own, while the worker's loop goes on. So it takes copies, and
reads nothing from the broker.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from typing import Any, Final

from celery.worker import state
from prometheus_client.core import GaugeMetricFamily

from telemetry import worker_memory
from telemetry.instruments import gauge_family

# Its stubs do not know all of it.
worker_state: Any = state

#: Times that a set is copied anew because the worker changed it meanwhile.
COPIES: Final = 100


class WorkerState:
    """A collector of prometheus-client that looks at a consumer and its pool."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing: names need not be known before the first scrape."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the gauges."""
        hostname = str(self._consumer.hostname)
        active = _copy(worker_state.active_requests)
        reserved = _copy(worker_state.reserved_requests)
        queues = self._queues()

        yield _gauge("celery_worker_up", 1, hostname)
        yield _gauge("celery_worker_tasks_active", len(active), hostname)
        requests = gauge_family("celery_worker_requests")
        requests.add_metric(["active"], len(active))
        requests.add_metric(["prefetched"], len(reserved - active))
        requests.add_metric(["scheduled"], len(worker_state.scheduled_requests))
        yield requests
        yield _gauge("celery_worker_pool_slots", self._consumer.pool.num_processes)
        takes_messages = bool(queues) and not self._consumer.paused
        yield _gauge("celery_worker_consuming", int(takes_messages))
        subscriptions = gauge_family("celery_worker_queue_subscription")
        for queue in queues:
            subscriptions.add_metric([queue], 1)
        yield subscriptions
        yield _oldest(active)
        yield _gauge("celery_worker_clock_timestamp_seconds", time.time())
        yield _gauge(
            "celery_worker_children_rss_bytes",
            worker_memory.resident_bytes(pool_processes(self._consumer.pool)),
        )
        yield _gauge("celery_worker_memory_limit_bytes", worker_memory.limit_bytes())

    def _queues(self) -> list[str]:
        """Return the names of the queues that it takes messages from now."""
        if not self._consumer.is_connected:
            return []
        return sorted(queue.name for queue in self._consumer.task_consumer.queues)


def pool_processes(pool: Any) -> list[int]:
    """Return the ids of a pool's processes; none for pools that work in the worker's own."""
    processes = getattr(getattr(pool, "_pool", None), "_pool", None) or ()
    return [process.pid for process in list(processes) if process.pid not in {None, os.getpid()}]


def _gauge(name: str, value: float, *labels: str) -> GaugeMetricFamily:
    family = gauge_family(name)
    family.add_metric(labels, value)
    return family


def _oldest(active: Collection[Any]) -> GaugeMetricFamily:
    began: dict[str, float] = {}
    now = time.time()
    for request in active:
        if request.time_start is not None:
            began[request.type] = min(request.time_start, began.get(request.type, now))
    family = gauge_family("celery_worker_oldest_active_task_seconds")
    for name, moment in sorted(began.items()):
        family.add_metric([name], max(0.0, now - moment))
    return family


def _copy(requests: Any) -> set[Any]:
    """Return the requests of one of Celery's weak sets, which the worker changes meanwhile."""
    for _ in range(COPIES):
        try:
            return set(requests)
        except RuntimeError:  # it changed its size
            continue
    return set()

"""What a worker's main process counts: each task's way from the broker to its end.

Series of a task, in the queue that it is routed to, are made before the first one comes, and start
at 0: Prometheus sees no increase in a series that begins at 1. Two kinds begin with their first
event all the same: failures by an exception that is not one of ``BORN_EXCEPTIONS``, and tasks in
another queue than their own, as the canary in all but one. Rules count a young series as grown.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry

from telemetry.instruments import counter, histogram

#: Label of failures whose exception has no series of its own.
OTHER: Final = "Other"
#: Exceptions whose series every task has from the start, because Celery raises them in any task.
BORN_EXCEPTIONS: Final = (OTHER, "SoftTimeLimitExceeded", "TimeLimitExceeded")
#: Names of exceptions that one process gives series; each is one for every task that raises it.
MAXIMUM_EXCEPTIONS: Final = 50

#: The counters of a task that have no further label, by what is counted.
_COUNTERS: Final = {
    kind: f"celery_task_{kind}_total"
    for kind in (
        "received", "started", "succeeded", "retried", "revoked", "rejected", "ignored",
        "worker_lost", "redelivered", "without_enqueue_time",
    )
}  # fmt: skip


class WorkerMetrics:
    """The counters and histograms of one worker."""

    def __init__(self, registry: CollectorRegistry, wait_targets: Mapping[str, float]) -> None:
        """Register them.

        Args:
            registry: Where they are served from.
            wait_targets: Seconds that a message may wait, by queue.
        """
        self._counters = {kind: counter(name, registry) for kind, name in _COUNTERS.items()}
        self._failed = counter("celery_task_failed_total", registry)
        self._timeouts = counter("celery_task_timeouts_total", registry)
        self._runtime = histogram("celery_task_runtime", registry)
        self._wait = histogram("celery_task_queue_wait_time", registry)
        self._queueing = counter("celery_sli_queueing_total", registry)
        self._queueing_good = counter("celery_sli_queueing_good_total", registry)
        self._execution = counter("celery_sli_execution_total", registry)
        self._execution_good = counter("celery_sli_execution_good_total", registry)
        self._unknown = counter("celery_task_unknown_total", registry)
        self._wait_targets = wait_targets
        self._tasks: dict[tuple[str, str], TaskMetrics] = {}
        self._queues: dict[str, QueueMetrics] = {}
        self._exceptions = set(BORN_EXCEPTIONS)
        # Tasks of a thread pool end in its threads.
        self._lock = threading.Lock()

    def give_birth(self, tasks: Mapping[str, str], queues: Collection[str]) -> None:
        """Make all series, at 0, of the queues that the worker takes messages from.

        Args:
            tasks: The queue of each task that it knows, by the task's name.
            queues: Those it takes messages from.
        """
        for queue in queues:
            self.queue(queue)
        for name, queue in tasks.items():
            # Celery's own tasks steer the canvas; most are never sent, and would fill every menu.
            if queue in queues and not name.startswith("celery."):
                self.task(name, queue)

    def task(self, name: str, queue: str) -> TaskMetrics:
        """Return the series of a task in a queue; they are made if it comes there unexpectedly."""
        found = self._tasks.get((name, queue))
        if found is None:
            with self._lock:
                found = self._tasks.setdefault((name, queue), self._new_task(name, queue))
        return found

    def queue(self, name: str) -> QueueMetrics:
        """Return the series of a queue."""
        found = self._queues.get(name)
        if found is None:
            found = self._queues.setdefault(
                name,
                QueueMetrics(
                    self._wait.labels(name),
                    self._queueing.labels(name),
                    self._queueing_good.labels(name),
                    self._unknown.labels(name),
                    self._wait_targets.get(name, float("inf")),
                ),
            )
        return found

    def exception_label(self, name: str) -> str:
        """Return the label for the name of an exception's class: one of a bounded number."""
        if name in self._exceptions:
            return name
        with self._lock:
            if len(self._exceptions) >= MAXIMUM_EXCEPTIONS:
                return OTHER
            self._exceptions.add(name)
        return name

    def _new_task(self, name: str, queue: str) -> TaskMetrics:
        for exception in BORN_EXCEPTIONS:
            self._failed.labels(name, queue, exception)
        return TaskMetrics(
            self,
            counters={kind: metric.labels(name, queue) for kind, metric in self._counters.items()},
            failed=lambda label: self._failed.labels(name, queue, label),
            timeouts={kind: self._timeouts.labels(name, queue, kind) for kind in ("soft", "hard")},
            runtime=self._runtime.labels(name, queue),
            execution=self._execution.labels(name, queue),
            execution_good=self._execution_good.labels(name, queue),
        )


class QueueMetrics:
    """The series of one queue."""

    def __init__(
        self, wait: Any, queueing: Any, queueing_good: Any, unknown: Any, target: float
    ) -> None:
        self._wait = wait
        self._queueing = queueing
        self._queueing_good = queueing_good
        self._unknown = unknown
        self._target = target

    def waited(self, seconds: float) -> None:
        """Note how long a message has waited for the start of its attempt."""
        self._wait.observe(seconds)
        self._queueing.inc()
        if seconds <= self._target:
            self._queueing_good.inc()

    def met_unknown_task(self) -> None:
        """Count a message whose task the worker does not know."""
        self._unknown.inc()


class TaskMetrics:
    """The series of one task in one queue."""

    def __init__(
        self,
        worker: WorkerMetrics,
        *,
        counters: Mapping[str, Any],
        failed: Any,
        timeouts: Mapping[str, Any],
        runtime: Any,
        execution: Any,
        execution_good: Any,
    ) -> None:
        self._worker = worker
        self._counters = counters
        self._failed = failed
        self._timeouts = timeouts
        self._runtime = runtime
        self._execution = execution
        self._execution_good = execution_good

    def count(self, kind: str) -> None:
        """Count something that has no further label (``_COUNTERS``), except a success."""
        self._counters[kind].inc()

    def timed_out(self, kind: str) -> None:
        """Count a time limit that was met: ``soft`` or ``hard``."""
        self._timeouts[kind].inc()

    def succeeded(self) -> None:
        """Count an end with success."""
        self._counters["succeeded"].inc()
        self._execution.inc()
        self._execution_good.inc()

    def failed(self, exception: str) -> None:
        """Count an end without success; gets the name of the exception's class."""
        self._failed(self._worker.exception_label(exception)).inc()
        self._execution.inc()

    def ran(self, seconds: float) -> None:
        """Note how long an attempt ran."""
        self._runtime.observe(seconds)

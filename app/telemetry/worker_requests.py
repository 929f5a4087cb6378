"""Counts what becomes of each message, where Celery's main process learns of it.

Not from events: a task that raises ``Ignore`` has none, nor has a soft time limit; a hard one has
two; and anybody can switch them off from outside (``celery control disable_events``). The request
sees all of it, in the one process that also outlives a killed task.
"""

from __future__ import annotations

import time
from typing import Any

from celery.exceptions import Ignore, Reject, Retry, WorkerLostError
from celery.worker import state as worker_state

from delivery.requests import DeliveryRequest, cause_of
from delivery.tasks import BaseTask
from telemetry.worker_metrics import TaskMetrics, WorkerMetrics


class MeasuredRequest(DeliveryRequest):
    """A message on its way; notes its beginning once, and its end once.

    Attributes:
        worker_metrics: Where it counts (``install``).
    """

    worker_metrics: WorkerMetrics
    #: The name of the exception that a following "failed" is about.
    _exception = ""
    _has_ended = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        place = self.delivery_info
        self._queue = str(place["routing_key"])
        # Not its name, which a sender can replace ("shadow").
        self._metrics: TaskMetrics = self.worker_metrics.task(self.type, self._queue)
        self._metrics.count("received")
        if place["redelivered"]:
            self._metrics.count("redelivered")
        if self.request_dict.get("enqueued_at") is None:
            self._metrics.count("without_enqueue_time")

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Note the start of the attempt, and how long it was waited for."""
        self._metrics.count("started")
        enqueued_at = self.request_dict.get("enqueued_at")
        if enqueued_at is not None:
            due_at = enqueued_at if self.eta is None else max(enqueued_at, self.eta.timestamp())
            started_at = time.time() - (time.monotonic() - time_accepted)
            # Two machines, two clocks.
            self.worker_metrics.queue(self._queue).waited(max(0.0, started_at - due_at))
        super().on_accepted(pid, time_accepted)

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - as Celery calls it
        """Count a time limit. A hard one ends the attempt, unless the worker is being stopped."""
        if soft or not worker_state.should_terminate:
            self._metrics.timed_out("soft" if soft else "hard")
        if not soft:
            self._exception = "TimeLimitExceeded"
        super().on_timeout(soft, timeout)

    def on_failure(
        self,
        exc_info: Any,
        send_failed_event: bool = True,  # noqa: FBT001, FBT002 - as Celery calls it
        return_ok: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        """Note what the end of the attempt is, where Celery announces none or several."""
        error = cause_of(exc_info)
        # One that cannot be pickled comes in a wrapper that has kept its name.
        self._exception = str(getattr(error, "exc_cls_name", type(error).__name__))
        match error:
            case Ignore():
                self._end("ignored")
            case Reject() | Retry():
                pass  # announced
            case WorkerLostError() | SystemExit() | KeyboardInterrupt():
                # What follows is announced: another attempt, or a success stored before.
                if not (self._already_cancelled or self._already_revoked):
                    self._metrics.count("worker_lost")
            case MemoryError():
                # Celery raises it again, and announces nothing.
                self._end("failed")
        super().on_failure(exc_info, send_failed_event, return_ok)

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - as Celery calls it
        """Note what Celery announces, whether or not anybody wants its events."""
        match type:
            case "task-succeeded":
                self._end("succeeded", fields.get("runtime"))
            case "task-failed":
                self._end("failed")
            case "task-retried" | "task-cancelled":
                # Cancelled is what the stop of a worker cuts off: its message is given back.
                self._end("retried")
            case "task-revoked":
                self._end("revoked")
            case "task-rejected":
                # Follows "failed" where the message is not wanted back.
                self._metrics.count("rejected")
                self._note_end()
        super().send_event(type, **fields)

    def _end(self, how: str, runtime: float | None = None) -> None:
        """Note an end; the first one counts. ``runtime`` is the task's own, in seconds."""
        if self._has_ended:
            return
        self._note_end(runtime)
        match how:
            case "succeeded":
                self._metrics.succeeded()
            case "failed":
                self._metrics.failed(self._exception)
            case _:
                self._metrics.count(how)

    def _note_end(self, runtime: float | None = None) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if self.time_start is not None:
            seconds = time.time() - self.time_start if runtime is None else runtime
            self._metrics.ran(max(0.0, seconds))


def install(metrics: WorkerMetrics) -> None:
    """Have every task of this process measured; before the consumer starts."""
    MeasuredRequest.worker_metrics = metrics
    # The attribute is the name of a class, or one.
    task: Any = BaseTask
    task.Request = MeasuredRequest

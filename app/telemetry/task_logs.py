"""What every line of the log says while a task runs: which task, of whom, in which queue.

The names are fixed, so that one ``grep`` follows a request through all roles (docs/operations.md):
``request_id``, ``task_id``, ``parent_task_id``, ``job_id``, ``queue``, ``attempt``. Most come with
the message (``delivery.origin``); ``BaseTask`` adds the attempt when it has begun one.
"""

from __future__ import annotations

from typing import Any

import structlog
from celery import bootsteps
from celery import signals as celery_signals
from django_structlog.celery import signals
from django_structlog.celery.receivers import CeleryReceiver


class TaskLogs(bootsteps.Step):
    """A worker's lines about tasks: begun, succeeded, failed, to be retried, revoked."""

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._receiver = CeleryReceiver()
        self._receiver.connect_worker_signals()
        # As a Django app it listens to these in every process: each line would be there twice.
        for signal, receiver in (
            (celery_signals.before_task_publish, self._receiver.receiver_before_task_publish),
            (celery_signals.after_task_publish, self._receiver.receiver_after_task_publish),
        ):
            signal.disconnect(receiver)
        signals.bind_extra_task_metadata.connect(_bind_place, dispatch_uid="telemetry-task-logs")
        celery_signals.task_postrun.connect(_forget, weak=False, dispatch_uid="telemetry-task-logs")


def _bind_place(task: Any, **_: Any) -> None:
    request = task.request
    place: dict[str, Any] = {"queue": request.delivery_info.get("routing_key")}
    if not task.is_durable:
        place["attempt"] = (request.retries or 0) + 1
    structlog.contextvars.bind_contextvars(**place)


def _forget(**_: Any) -> None:
    """What the process says after a task is not about that task."""
    structlog.contextvars.clear_contextvars()

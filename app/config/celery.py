"""The Celery app: wiring only. Settings are in settings.py, queues in topology.py."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, signals

from delivery import celery_guards, graceful_stop
from telemetry import error_reports, task_logs, tracing

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("celeriac", task_cls="delivery.tasks:BaseTask")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["worker"].add(task_logs.TaskLogs)

# Not in a signal of Celery, which would log an error and go on without the guards.
celery_guards.install()
graceful_stop.install()
tracing.install()
error_reports.install()


@signals.setup_logging.connect
def keep_logging(**_: Any) -> None:
    """Keep the logging that Django configured; connecting is enough to stop Celery's own."""

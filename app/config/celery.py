"""The Celery app: wiring only. Settings are in settings.py, queues in topology.py."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, signals
from django_structlog.celery.steps import DjangoStructLogInitStep

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("celeriac", task_cls="delivery.tasks:BaseTask")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["worker"].add(DjangoStructLogInitStep)


@app.on_configure.connect
def install(**_: Any) -> None:
    """Install what every process that uses Celery needs."""
    from delivery import celery_guards, graceful_stop  # noqa: PLC0415 - need Django's settings

    celery_guards.install()
    graceful_stop.install()


@signals.setup_logging.connect
def keep_logging(**_: Any) -> None:
    """Keep the logging that Django configured; connecting is enough to stop Celery's own."""

"""A Celery app with the settings that a popular Django template ships, and one task.

The settings are those of cookiecutter-django (config/settings/base.py, 2025): JSON, time limits,
results that are retried, task events; everything about acknowledgement, prefetching and visibility
is Celery's default.
"""

from __future__ import annotations

import os
import time

import psycopg
from celery import Celery

app = Celery("plain", broker=os.environ["PLAIN_BROKER_URL"], set_as_current=False)
app.conf.update(
    result_backend=os.environ["PLAIN_BROKER_URL"],
    result_extended=True,
    result_backend_always_retry=True,
    result_backend_max_retries=10,
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    task_time_limit=5 * 60,
    task_soft_time_limit=60,
    worker_send_task_events=True,
    task_send_sent_event=True,
    worker_hijack_root_logger=False,
)


@app.task(name="plain.record", bind=True)
def record(self, run: str, number: int, seconds: float = 0.0) -> None:
    """Take a while, then make the effect."""
    time.sleep(seconds)
    with psycopg.connect(os.environ["PLAIN_DATABASE_URL"]) as connection:
        connection.execute(
            "INSERT INTO fault_effects (run, number, delivery) VALUES (%s, %s, %s)",
            (run, number, self.request.id),
        )

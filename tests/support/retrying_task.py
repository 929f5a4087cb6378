"""A plain task that tries again, for workers that are started with ``--include``."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from delivery.tasks import BaseTask
from tests.support.sleeping_task import note


@shared_task(name="tests.try_again", base=BaseTask, bind=True, durable=False, max_retries=2)
def try_again(self: Any, notes: str) -> None:
    """Note the number of retries in a file; give up trying after the second."""
    note(notes, str(self.request.retries))
    if self.request.retries < 2:
        raise self.retry(countdown=0)

"""Tasks of the newsletter workload (queue: mail)."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from celery import shared_task
from celery.app.task import Task
from celery.exceptions import SoftTimeLimitExceeded

from delivery import canvas
from delivery.tasks import run_once
from jobs.services import job_start
from jobs.tasks import JobTask
from newsletters.services import Batch, batch_send, newsletter_batches, newsletter_progress

#: A mail server may be away for an hour: these last for about two, 2.5 minutes apart.
MAXIMUM_RETRIES: Final = 50


@shared_task(name="newsletters.send_newsletter", base=JobTask)
def send_newsletter(job_id: str) -> int:
    """Enter a task for each batch that has pending recipients; returns how many.

    Queue: mail. The batches and this task's success are committed together, so they are entered
    once. Retries: as every task.
    """
    newsletter_id = UUID(job_id)
    with run_once() as outcome:
        batches = newsletter_batches(newsletter_id) if job_start(newsletter_id) else []
        canvas.group(send_batch.si(job_id, batch.first, batch.end) for batch in batches)
        if not batches:
            newsletter_progress(newsletter_id)
        outcome.result = len(batches)
    return len(batches)


@shared_task(
    name="newsletters.send_batch",
    base=JobTask,
    bind=True,
    # A slow mail server: whoever has a mail keeps it, the rest is for the next attempt.
    autoretry_for=(*JobTask.autoretry_for, SoftTimeLimitExceeded),
    max_retries=MAXIMUM_RETRIES,
    retry_backoff_max=300,
)
def send_batch(self: Task[Any, Any], job_id: str, first: int, end: int) -> None:
    """Write to the pending recipients from position ``first`` up to, not including, ``end``.

    Queue: mail. Idempotent because each recipient's state is committed with the mail. Retries:
    when the server is away or postpones somebody; after the last attempt those have failed.
    """
    batch_send(
        Batch(UUID(job_id), first, end), last_attempt=self.request.retries >= MAXIMUM_RETRIES
    )

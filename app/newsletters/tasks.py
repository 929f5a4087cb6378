"""Tasks of the newsletter workload (queue: mail)."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID, uuid5

import structlog
from celery import shared_task
from celery.app.task import Task
from celery.exceptions import SoftTimeLimitExceeded
from django.db import DatabaseError

from delivery import canvas
from delivery.buffering import BatchTask, BufferedTask
from delivery.tasks import run_once
from jobs.services import job_fail, job_reopen, job_retried, job_start
from jobs.tasks import JobTask
from newsletters import services
from newsletters.services import Batch, Mixture

logger = structlog.get_logger(__name__)

#: A mail server may be away for an hour: these last for about two, 2.5 minutes apart.
MAXIMUM_RETRIES: Final = 50
#: Ceiling of the pause between two of them.
LONGEST_PAUSE_SECONDS: Final = 300


@shared_task(name="newsletters.send_newsletter", base=JobTask)
def send_newsletter(job_id: str) -> int:
    """Enter tasks for the first batches that have pending recipients; returns how many.

    Queue: mail. The batches and this task's success are committed together, so they are entered
    once. Retries: as every task.
    """
    newsletter_id = UUID(job_id)
    with run_once() as outcome:
        batches = services.newsletter_batches(newsletter_id) if job_start(newsletter_id) else []
        canvas.group(send_batch.si(job_id, batch.first, batch.end, batch.step) for batch in batches)
        if not batches:
            services.newsletter_progress(newsletter_id)
        outcome.result = len(batches)
    return len(batches)


@shared_task(
    name="newsletters.send_batch",
    base=JobTask,
    bind=True,
    # A slow mail server: whoever has a mail keeps it, the rest is for the next attempt.
    autoretry_for=(*JobTask.autoretry_for, SoftTimeLimitExceeded),
    max_retries=MAXIMUM_RETRIES,
    retry_backoff_max=LONGEST_PAUSE_SECONDS,
)
def send_batch(self: Task[Any, Any], job_id: str, first: int, end: int, step: int = 0) -> None:
    """Write to the pending recipients from position ``first`` up to, not including, ``end``.

    Queue: mail. Idempotent because each recipient's state is committed with the mail. Retries:
    when the server is away or postpones somebody; after the last attempt those have failed. The
    batch ``step`` positions on is entered after the first attempt, however that ended: a large
    newsletter has few messages in the queue at a time, and small ones do not wait behind all of it.
    """
    batch = Batch(UUID(job_id), first, end, step)
    try:
        services.batch_send(batch, last_attempt=self.request.retries >= MAXIMUM_RETRIES)
    finally:
        following = services.batch_following(batch)
        if following is not None:
            send_batch.apply_on_commit(
                (job_id, following.first, following.end, step),
                # The same for each attempt: it is entered once.
                task_id=str(uuid5(UUID(self.request.id), "following")),
            )


@shared_task(name="newsletters.mix_waiting", base=BufferedTask, bind=True)
def mix_waiting(self: BufferedTask) -> int:
    """Put recipients of small newsletters that wait into one batch; returns how many.

    Queue: mail. They leave the buffer and get their task in one commit. Retries: as every task.
    """
    with run_once() as outcome:
        keys = services.recipients_mix(self.flush_every)
        if keys:
            send_mixture.delay_on_commit(keys)
        self.flush_again(len(keys))
        outcome.result = len(keys)
    return len(keys)


class MixtureTask(BatchTask):
    """Works for the jobs of several newsletters, as a ``JobTask`` works for one."""

    abstract = True

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Count the attempt for those that need it; without a database it is not counted."""
        try:
            for job_id in services.mixture_jobs(Mixture(args[0])):
                job_retried(job_id)
        except DatabaseError as error:
            logger.warning("attempt_not_counted", error=str(error))

    def on_given_up(self, error: str, *args: Any, **kwargs: Any) -> None:
        """Fail the jobs that are not done with the reason; end those that are."""
        unfinished = services.mixture_jobs(Mixture(args[0]))
        for job_id in services.mixture_jobs(Mixture(args[0]), unfinished=False):
            if job_id in unfinished:
                job_fail(job_id, error)
            else:
                services.newsletter_progress(job_id)

    def on_replayed(self, *args: Any, **kwargs: Any) -> None:
        """Have the failed jobs go on."""
        for job_id in services.mixture_jobs(Mixture(args[0]), unfinished=False):
            job_reopen(job_id)


@shared_task(
    name="newsletters.send_mixture",
    base=MixtureTask,
    bind=True,
    autoretry_for=(*MixtureTask.autoretry_for, SoftTimeLimitExceeded),
    max_retries=MAXIMUM_RETRIES,
    retry_backoff_max=LONGEST_PAUSE_SECONDS,
)
def send_mixture(self: Task[Any, Any], keys: list[int]) -> None:
    """Write to the pending ones of these recipients, over one connection.

    Queue: mail. Idempotent, and tried again, as ``send_batch``.
    """
    services.batch_send(Mixture(keys), last_attempt=self.request.retries >= MAXIMUM_RETRIES)

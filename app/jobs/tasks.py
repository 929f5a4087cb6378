"""The base of tasks that work for a job, and the task that resumes what was interrupted."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import structlog
from celery import shared_task
from django.db import DatabaseError

from delivery.tasks import BaseTask
from jobs.services import job_fail, job_retried, jobs_resume_interrupted

logger = structlog.get_logger(__name__)


class JobTask(BaseTask):
    """A task whose first argument is the id of its job; a failure of the task fails the job."""

    abstract = True

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Count the attempt.

        An exception here would make a failure of the retry, whose message is already published;
        so without a database the attempt is not counted.
        """
        try:
            job_retried(UUID(args[0]))
        except DatabaseError as error:
            logger.warning("attempt_not_counted", job_id=args[0], error=str(error))

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Fail the job with the reason, unless it is one that may pass.

        Celery also comes here when it could not store that the task is tried again (the database
        is away): its message is published then, and the job stays open.
        """
        if isinstance(exc, self.autoretry_for) and self.request.retries < (self.max_retries or 0):
            logger.warning("job_left_open", job_id=args[0], error=str(exc))
            return
        try:
            job_fail(UUID(args[0]), f"{type(exc).__name__}: {exc}")
        except DatabaseError as error:
            logger.warning("job_left_open", job_id=args[0], error=str(error))


@shared_task(name="jobs.resume_interrupted")
def resume_interrupted() -> int:
    """Enqueue again the jobs that show no sign of life.

    Queue: maintenance. Idempotent because a second message for a job finds its rows further on.
    Retries: as every task.
    """
    return jobs_resume_interrupted()

"""The base of tasks that work for a job, and the task that resumes what was interrupted."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from celery import shared_task

from delivery.tasks import BaseTask
from jobs.models import Job, State
from jobs.services import job_finish, job_retried, jobs_resume_interrupted


class JobTask(BaseTask):
    """A task whose first argument is the id of its job; a failure of the task fails the job."""

    abstract = True

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Count the attempt."""
        job_retried(UUID(args[0]))

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Fail the job with the reason."""
        job = Job.objects.filter(id=args[0]).first()
        if job is not None:
            job_finish(
                job.id, state=State.FAILED, done=job.done, error=f"{type(exc).__name__}: {exc}"
            )


@shared_task(name="jobs.resume_interrupted", ignore_result=False)
def resume_interrupted() -> int:
    """Enqueue again the jobs that show no sign of life.

    Queue: maintenance. Idempotent because a second message for a job finds its rows further on.
    Retries: as every task.
    """
    return jobs_resume_interrupted()

"""The base of tasks that work for a job."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import structlog
from django.db import DatabaseError

from delivery.tasks import BaseTask
from jobs.services import job_fail, job_reopen, job_retried

logger = structlog.get_logger(__name__)


class JobTask(BaseTask):
    """A durable task whose first argument is the id of its job; its end is the job's business.

    A task that ends without success fails its job in the same transaction, so no job stays open
    that nothing works for.
    """

    abstract = True

    def log_context(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        """Have the log name the job."""
        return {"job_id": str(args[0])} if args else {}

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Count the attempt; without a database it is not counted."""
        try:
            job_retried(UUID(args[0]))
        except DatabaseError as error:
            logger.warning("attempt_not_counted", error=str(error))

    def on_given_up(self, error: str, *args: Any, **kwargs: Any) -> None:
        """Fail the job with the reason."""
        job_fail(UUID(args[0]), error)

    def on_replayed(self, *args: Any, **kwargs: Any) -> None:
        """Have the failed job go on."""
        job_reopen(UUID(args[0]))

"""The base of every task: bounded retries, and enqueuing that follows the commit."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import structlog
from celery.contrib.django.task import DjangoTask
from django.db import InterfaceError, OperationalError, transaction
from kombu.exceptions import OperationalError as BrokerError

from delivery.errors import PermanentError, TransientError

logger = structlog.get_logger(__name__)


if TYPE_CHECKING:
    # Celery's classes are generic for type checkers only.
    Task = DjangoTask[Any, Any]
else:
    Task = DjangoTask


class BaseTask(Task):
    """Celery's Django task with this project's retry policy.

    A task is tried again after errors that may pass: ``TransientError``, a lost database or
    network connection, a time-out. The n-th retry comes after a random time between 0 and
    min(2^n, ``retry_backoff_max``) seconds (exponential with full jitter, so that tasks that failed
    together do not come back together), at most ``max_retries`` times. Any other exception fails
    the task at once: a bug does not get better by repetition.
    """

    abstract = True

    autoretry_for: ClassVar[tuple[type[Exception], ...]] = (
        TransientError,
        OperationalError,
        InterfaceError,
        ConnectionError,
        TimeoutError,
        BrokerError,
    )
    dont_autoretry_for: ClassVar[tuple[type[Exception], ...]] = (PermanentError,)
    max_retries = 8
    #: Seconds; doubles with each retry.
    retry_backoff = 1
    #: Ceiling in seconds. Far below the broker's visibility timeout: a countdown beyond it would
    #: run the task several times.
    retry_backoff_max = 120
    retry_jitter = True
    #: Seconds before a task is tried again whose pool process was killed.
    default_retry_delay = 10

    def apply_async_on_commit(  # type: ignore[override]  # the stubs promise a result
        self, *args: Any, **kwargs: Any
    ) -> None:
        """Publish the task once the current transaction has committed; nothing after a rollback.

        A broker that is down is logged and does not reach the caller: what had to be stored is
        stored, and ``jobs.resume_interrupted`` publishes it later.
        """
        transaction.on_commit(partial(self._publish, args, kwargs))

    def delay_on_commit(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> None:
        """Like ``apply_async_on_commit``, with the task's own arguments only."""
        transaction.on_commit(partial(self._publish, (args, kwargs), {}))

    def _publish(self, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        try:
            self.apply_async(*args, **options)
        except BrokerError as error:
            logger.warning("task_not_published", task_name=self.name, error=str(error))

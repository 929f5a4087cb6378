"""The base of every task: in the ledger until it has ended, with bounded retries."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final
from uuid import UUID, uuid4

import structlog
from celery.contrib.django.task import DjangoTask
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.time import get_exponential_backoff_interval
from django.db import InterfaceError, OperationalError, transaction
from kombu.exceptions import OperationalError as BrokerError

from delivery import attempts, ledger, origin, publishing
from delivery.attempts import run_once
from delivery.errors import PermanentError, SupersededError, TransientError
from delivery.ledger import Entry, Message

__all__ = ["BaseTask", "run_once"]

logger = structlog.get_logger(__name__)

#: Of Celery's options, those that the message of a durable task keeps.
KEPT_OPTIONS: Final = frozenset(
    {"headers", "priority", "shadow", "time_limit", "soft_time_limit", "ignore_result"}
)
#: Those that say how to publish. The ledger decides on that.
PUBLISHING_OPTIONS: Final = frozenset(
    {"add_to_parent", "compression", "connection", "parent_id", "periodic_task_name", "producer",
     "publisher", "reply_to", "result_cls", "retry", "retry_policy", "root_id", "router",
     "serializer", "stamped_headers", "task_type"}
)  # fmt: skip
#: Headers that say something of one message only, and nothing of the one that follows it.
HEADERS_OF_ONE_MESSAGE: Final = frozenset({"enqueued_at", "redelivered"})
#: Attempts of a task without ``max_retries``: PostgreSQL's largest integer.
WITHOUT_LIMIT: Final = 2**31 - 1

if TYPE_CHECKING:
    # Celery's classes are generic for type checkers only.
    Task = DjangoTask[Any, Any]
else:
    Task = DjangoTask


class BaseTask(Task):
    """Celery's Django task, durable: a row of the ledger from the caller's commit to its end.

    Call it as ever (``delay``, ``apply_async``, ``delay_on_commit`` ...): each enters a row in the
    caller's transaction, and the message follows the commit. A task without ``run_once`` runs at
    least once; with it, its effect is committed exactly once. A task with ``durable = False`` is
    plain Celery, for work that may be lost.

    An attempt fails with an exception. Another one follows after errors that may pass:
    ``TransientError``, a lost database or network connection, a time-out. The n-th comes after a
    random time between 0 and min(2^n, ``retry_backoff_max``) seconds (exponential with full jitter,
    so that tasks that failed together do not come back together), or after what the other side
    asked for (``TransientError(retry_after=...)``); at most ``max_retries`` times. Any other
    exception makes a dead letter at once: a bug does not get better by repetition.
    """

    abstract = True

    #: Whether it goes through the ledger.
    durable: ClassVar[bool] = True
    Request = "delivery.requests:DeliveryRequest"

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
    #: Ceiling in seconds. For a plain task far below the broker's visibility timeout: a countdown
    #: beyond it would run the task several times.
    retry_backoff_max = 120
    retry_jitter = True
    #: Seconds before a plain task is tried again whose pool process was killed.
    default_retry_delay = 10

    # --- Calling -----------------------------------------------------------------------------

    @property
    def is_durable(self) -> bool:
        """Whether it goes through the ledger. Celery's own tasks steer the canvas, and do not."""
        return self.durable and not self.name.startswith("celery.")

    def apply_async(  # type: ignore[override]  # the stubs name each option
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Enter the task (durable), or publish it (plain); returns its ``AsyncResult``.

        Raises:
            TypeError: The arguments do not fit the task, or an option has no meaning for a durable
                one.
        """
        if not self.is_durable or self.app.conf.task_always_eager:
            return super().apply_async(args, kwargs, **options)  # type: ignore[arg-type]
        return self.AsyncResult(self.apply_on_commit(args, kwargs, **options))

    def apply_on_commit(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> str:
        """Have the task done if and when the current transaction commits; returns its id at once.

        A broker that is away does not reach the caller. A durable task is published by the relay
        later; of a plain one only a line in the log is left.

        Args:
            args: Positional arguments of the task.
            kwargs: Its keyword arguments.
            **options: As for Celery's ``apply_async``; for durable tasks ``task_id`` (an
                idempotency key: an id that is known enters nothing), ``countdown`` (seconds, as
                many as you like), ``eta``, ``expires``, ``queue``, ``headers``, ``priority``,
                ``shadow``, ``time_limit``, ``soft_time_limit``.

        Raises:
            TypeError: As ``apply_async``.
            ValueError: An argument cannot be stored, or ``task_id`` is not a UUID.
        """
        if self.app.conf.task_always_eager:
            options.setdefault("task_id", str(uuid4()))
            transaction.on_commit(partial(self.apply_async, args, kwargs, **options))
            return str(options["task_id"])
        if self.is_durable:
            entry = self.entry(args, kwargs, **options)
            publishing.publish_after_commit(ledger.enter([entry]))
            return str(entry.id)
        options.setdefault("task_id", str(uuid4()))
        transaction.on_commit(partial(self._publish_plain, args, kwargs, options))
        return str(options["task_id"])

    #: Celery's own name for it.
    apply_async_on_commit = apply_on_commit  # type: ignore[assignment]

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> str:  # type: ignore[override]
        """Like ``apply_on_commit``, with the task's own arguments only."""
        return self.apply_on_commit(args, kwargs)

    def entry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        task_id: str | UUID | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        expires: float | datetime | None = None,
        queue: str | None = None,
        check_arguments: bool = True,
        **options: Any,
    ) -> Entry:
        """Return what ``ledger.enter`` takes for a call of this task (see ``apply_on_commit``).

        ``check_arguments=False`` is for a call whose first arguments come later (canvas).

        Raises:
            TypeError: As ``apply_async``.
        """
        refused = {
            name
            for name, value in options.items()
            if value and name not in KEPT_OPTIONS and name not in PUBLISHING_OPTIONS
        }
        if refused:
            raise TypeError(
                f"{self.name} is durable and does not take {', '.join(sorted(refused))}: enter "
                "what follows inside run_once(), or use delivery.canvas"
            )
        args, kwargs = list(args or ()), dict(kwargs or {})
        if self.typing and check_arguments:
            getattr(self, "__header__")(*args, **kwargs)  # noqa: B009 - set by Celery
        now = datetime.now(UTC)
        if isinstance(expires, int | float):
            expires = now + timedelta(seconds=expires)
        delay = float(countdown or 0)
        if eta is not None:
            delay = (_aware(eta) - now).total_seconds()
        limit = self.max_retries
        kept = {name: value for name, value in options.items() if name in KEPT_OPTIONS and value}
        return Entry(
            id=_id(task_id) if task_id else uuid4(),
            task=self.name,
            args=args,
            kwargs=kwargs,
            queue=self._queue(queue),
            max_failures=WITHOUT_LIMIT if limit is None else limit + 1,
            options={**kept, **self._origin(args, kwargs)},
            delay=max(0.0, delay),
            expires_at=None if expires is None else _aware(expires),
        )

    def _origin(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        noted = origin.captured()
        noted[origin.LOG] = {**noted.get(origin.LOG, {}), **self.log_context(*args, **kwargs)}
        return noted

    def _queue(self, name: str | None) -> str:
        wanted = name or getattr(self, "queue", None)
        options = {"queue": wanted} if wanted else {}
        return str(self.app.amqp.router.route(options, self.name)["queue"].name)

    def publish(self, message: Message, producer: Any) -> None:
        """Publish the message of a delivery (``delivery.publishing``).

        Once: Celery's retry waits for two more time-outs of a frozen broker. For a connection that
        the broker has closed there is no need of it: redis-py opens another before it sends.
        """
        kept = origin.without(message.options)
        headers = {
            **kept.pop("headers", {}),
            "durable": True,
            "enqueued_at": message.dispatched_at,
        }
        super().apply_async(
            tuple(message.args), dict(message.kwargs), task_id=str(message.id), producer=producer,
            queue=message.queue, headers=headers, add_to_parent=False, retry=False, **kept,
        )  # fmt: skip

    def signature_from_request(self, *arguments: Any, **options: Any) -> Any:
        """Return the next message of a plain task that is tried again.

        Celery hands on every header that it does not know. Then that message would seem to have
        waited since the first one was published, and to have been delivered before.
        """
        signature: Any = super().signature_from_request(*arguments, **options)
        headers = signature.options.get("headers") or {}
        signature.options["headers"] = {
            name: value for name, value in headers.items() if name not in HEADERS_OF_ONE_MESSAGE
        }
        return signature

    def _publish_plain(self, args: Any, kwargs: Any, options: dict[str, Any]) -> None:
        try:
            super().apply_async(args, kwargs, **options)
        except BrokerError as error:
            logger.warning("task_not_published", task_name=self.name, error=str(error))

    # --- Working -----------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make one attempt, if the message's delivery wants one. Called directly: just run."""
        request = self.request
        if request.called_directly:
            return super().__call__(*args, **kwargs)
        if request.is_eager or not self.is_durable:
            return self.run(*args, **kwargs)
        try:
            claim = attempts.patiently(
                attempts.CLAIM_PATIENCE_SECONDS, lambda: self._claim(args, kwargs)
            )
        except (OperationalError, InterfaceError) as error:
            # Nothing has begun; the message waits in its queue for the database.
            raise Reject(error, requeue=True) from error
        if claim is None:
            raise Ignore("the delivery has ended, or is not due, or another worker holds it")
        request.retries = claim.failures
        structlog.contextvars.bind_contextvars(attempt=claim.attempt)
        with attempts.begun(claim) as attempt:
            return self._attempt(attempt, args, kwargs)

    def _claim(self, args: Any, kwargs: Any) -> ledger.Claim | None:
        request = self.request
        if not getattr(request, "durable", False):
            # Sent by its name, past this class. From here on it is a delivery like any other.
            ledger.enter([self.entry(args, kwargs, task_id=request.id, check_arguments=False)])
            request.durable = True  # type: ignore[attr-defined]  # headers become attributes
        return ledger.claim(UUID(request.id), f"{request.hostname}:{os.getpid()}")

    def _attempt(self, attempt: attempts.Attempt, args: Any, kwargs: Any) -> Any:
        try:
            result = self.run(*args, **kwargs)
        except (Retry, SupersededError) as ending:
            if isinstance(ending, Retry):
                raise  # noted by retry()
            logger.info("attempt_superseded")
            raise Ignore(str(ending)) from None
        except Ignore:
            result = None
        except Reject as error:
            rejection: Any = error  # its attributes have no types
            if rejection.requeue:
                self._note_retry(attempt, self.default_retry_delay, "rejected")
                # Not Ignore: who watches must see an attempt that is made again.
                when: Any = self.default_retry_delay  # the stubs want a Real
                raise Retry("rejected", when=when) from None
            self._note_death(attempt, f"rejected: {rejection.reason}")
            raise
        except Exception as error:
            if attempt.committed:
                # Its effect exists; a failure now would only be misunderstood.
                logger.exception("failed_after_success", task_name=self.name)
                return None
            self._note_death(attempt, _describe(error))
            raise
        if not attempt.committed:
            self._note_success(attempt, result)
        return result

    def retry(self, *arguments: Any, **options: Any) -> Any:
        """Fail this attempt and have another one: as Celery's, but kept in the ledger.

        For a durable task: ``exc``, ``countdown`` (seconds, as many as you like), ``eta``,
        ``max_retries``, ``throw``. Without a time the policy of the class decides.

        Raises:
            Retry: Always, unless ``throw`` is False (then it is returned).
            Exception: ``exc``, when there have been ``max_retries`` retries.
            TypeError: Another option was given.
        """
        attempt = attempts.current()
        if attempt is None or not getattr(self.request, "durable", False):
            asked = getattr(options.get("exc"), "retry_after", None)
            if asked is not None:
                options["countdown"] = min(asked, self.retry_backoff_max)
            return super().retry(*arguments, **options)
        return self._retry(attempt, *arguments, **options)

    def _retry(
        self,
        attempt: attempts.Attempt,
        *,
        exc: Exception | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
    ) -> Retry:
        limit = self.max_retries if max_retries is None else max_retries
        if attempt.committed or (limit is not None and attempt.claim.failures >= limit):
            raise exc or self.MaxRetriesExceededError(f"{self.name}: no attempts are left")
        delay = self._delay(attempt.claim.failures, exc, countdown, eta)
        self._note_retry(attempt, delay, _describe(exc) if exc else "tried again")
        ending = Retry(exc=exc, when=delay)  # type: ignore[arg-type]  # the stubs want a Real
        if throw:
            raise ending
        return ending

    def _delay(
        self, failures: int, error: Exception | None, countdown: float | None, eta: datetime | None
    ) -> float:
        """Return the seconds until the next attempt."""
        asked = getattr(error, "retry_after", None)
        if asked is not None:
            # A little later than asked, so that not everybody comes back in the same moment.
            return float(asked) * random.uniform(1.0, 1.1)  # noqa: S311 - not a secret
        if eta is not None:
            return max(0.0, (_aware(eta) - datetime.now(UTC)).total_seconds())
        if countdown is not None:
            return float(countdown)
        return get_exponential_backoff_interval(
            factor=int(self.retry_backoff),
            retries=failures,
            maximum=self.retry_backoff_max,
            full_jitter=self.retry_jitter,
        )

    # --- Noting: without a database the lease runs out, and the work is done again --------------

    def _note_success(self, attempt: attempts.Attempt, result: Any) -> None:
        stored = None if self.ignore_result else _storable(result)
        try:
            noted = attempts.patiently(
                attempts.SUCCESS_PATIENCE_SECONDS,
                lambda: attempts.succeed(attempt.claim, stored),
            )
        except (OperationalError, InterfaceError) as error:
            raise Ignore(f"the success could not be noted: {error}") from error
        if not noted:
            logger.warning("attempt_superseded")

    def _note_failure(self, note: Callable[[], bool]) -> None:
        try:
            attempts.patiently(attempts.FAILURE_PATIENCE_SECONDS, note)
        except (OperationalError, InterfaceError) as unnoted:
            logger.warning("failure_not_noted", error=str(unnoted))

    def _note_retry(self, attempt: attempts.Attempt, delay: float, error: str) -> None:
        self._note_failure(lambda: ledger.retry(attempt.claim, delay=delay, error=error))

    def _note_death(self, attempt: attempts.Attempt, error: str) -> None:
        self._note_failure(lambda: ledger.bury(attempt.claim, error))

    # --- Hooks -------------------------------------------------------------------------------

    def log_context(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        """Return what every line of the log about a call with these arguments says as well."""
        return {}

    def on_given_up(self, error: str, *args: Any, **kwargs: Any) -> None:
        """Do what has to follow when a delivery ends without success: dead, cancelled, expired.

        Runs once, in the transaction that ends it, wherever that is (worker, relay, admin). Gets
        the reason and the task's own arguments. Only for changes in the database.
        """

    def on_replayed(self, *args: Any, **kwargs: Any) -> None:
        """Do what has to precede when a dead letter is replayed, in that transaction."""


def _id(task_id: str | UUID) -> UUID:
    try:
        return UUID(str(task_id))
    except ValueError:
        raise ValueError(
            f"the id of a durable task is a UUID, not {task_id!r}; make one of a name with "
            "uuid.uuid5(namespace, name)"
        ) from None


def _aware(moment: datetime) -> datetime:
    """Read a time without a zone as UTC, as Celery does with ``enable_utc``."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _storable(result: Any) -> Any:
    """Return the result, or nothing when it cannot be stored: the work is done all the same."""
    try:
        ledger.encode(result)
    except (TypeError, ValueError) as error:
        logger.warning("result_not_stored", error=str(error))
        return None
    return result

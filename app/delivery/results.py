"""Results in the Django ORM: written once, kept through restarts and repetitions.

A durable task has its result in its ledger row (``delivery.models.Delivery``), and nothing else is
written for it. This backend stores what plain Celery tasks return, and reads both.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, Final

import structlog
from celery import maybe_signature, states
from celery.app.task import Context
from celery.exceptions import ChordError, Reject, TaskRevokedError
from celery.result import GroupResult, allow_join_result
from django.db import (
    InterfaceError,
    OperationalError,
    close_old_connections,
    connections,
    router,
    transaction,
)
from django_celery_results.backends import DatabaseBackend as StockDatabaseBackend
from django_celery_results.models import (  # type: ignore[attr-defined]  # stub without a counter
    ChordCounter,
    TaskResult,
)
from kombu.exceptions import OperationalError as BrokerError

from delivery.models import Delivery, State

logger = structlog.get_logger(__name__)

#: One statement for insert and update; a result that says SUCCESS stays as it is, because a message
#: that is delivered again may fail or answer differently (celery/backends/base.py does the same in
#: BaseKeyValueStoreBackend). Django's ``bulk_create(update_conflicts=True)`` has no such condition.
STORE_RESULT: Final = """
INSERT INTO django_celery_results_taskresult AS stored (
    task_id, status, content_type, content_encoding, result, traceback, meta, periodic_task_name,
    task_name, task_args, task_kwargs, worker, date_created, date_started, date_done
) VALUES (
    %(task_id)s, %(status)s, %(content_type)s, %(content_encoding)s, %(result)s, %(traceback)s,
    %(meta)s, %(periodic_task_name)s, %(task_name)s, %(task_args)s, %(task_kwargs)s, %(worker)s,
    now(), CASE WHEN %(status)s = 'STARTED' THEN now() END, now()
)
ON CONFLICT (task_id) DO UPDATE SET
    status = excluded.status,
    content_type = excluded.content_type,
    content_encoding = excluded.content_encoding,
    result = excluded.result,
    traceback = excluded.traceback,
    meta = excluded.meta,
    periodic_task_name = excluded.periodic_task_name,
    task_name = excluded.task_name,
    task_args = excluded.task_args,
    task_kwargs = excluded.task_kwargs,
    worker = excluded.worker,
    date_started = coalesce(excluded.date_started, stored.date_started),
    date_done = excluded.date_done
WHERE stored.status <> 'SUCCESS'
"""


class DeadDeliveryError(Exception):
    """What ``AsyncResult.get`` raises for a durable task that failed for good: its last error."""


class DatabaseBackend(StockDatabaseBackend):
    """django-celery-results, made to survive what it does not.

    A restart of PostgreSQL: the stock backend gives a result up when the server closes the
    connection (it retries InterfaceError only), and a worker's main process, which no task signal
    reaches, then keeps the dead connection for ever. Remove ``exception_safe_to_retry`` when the
    stock one does the same (2.6.0 does not).

    A header task of a chord that is delivered twice, or ignores its result: the stock backend
    counts returns, so the body never ran. Here the members that have ended are counted. Upstream:
    django-celery-results PR #397, open since 2023. Remove ``on_chord_part_return`` and what it
    calls when a release passes the chord tests of ``tests/integration/test_results.py``.
    """

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Say whether storing may be tried again, and let go of connections that are broken."""
        if not isinstance(exc, (OperationalError, InterfaceError)):
            return False
        close_old_connections()
        return True

    # --- one task ---------------------------------------------------------------------------

    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Context | None = None,
        **options: Any,
    ) -> Any:
        """Store the result of a plain task; for a durable one the ledger has it already."""
        if getattr(request, "durable", False):
            return result
        return super().store_result(
            task_id, result, state, traceback=traceback, request=request, **options
        )

    def _store_result(  # noqa: PLR0917 - Celery passes them by position
        self,
        task_id: str,
        result: Any,
        status: str,
        traceback: str | None = None,
        request: Context | None = None,
        using: str | None = None,
    ) -> Any:
        """Write the row in one statement; returns the encoded result."""
        content_type, content_encoding, content = self.encode_content(result)
        meta = {
            **self._get_meta_from_request(request),
            "children": self.current_task_children(request),
        }
        row = {
            "task_id": task_id,
            "status": status,
            "content_type": content_type,
            "content_encoding": content_encoding,
            "result": content,
            "meta": self.encode_content(meta)[2],
            **self._get_extended_properties(request, traceback),
            "traceback": traceback,
        }
        with connections[using or router.db_for_write(TaskResult)].cursor() as cursor:
            cursor.execute(STORE_RESULT, row)
        return content

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        """Return what is known of a task: from the ledger if it is durable, else what was stored.

        Durable ids are UUIDs. A plain task has one too, which costs it a look-up by primary key.
        """
        try:
            delivery = Delivery.objects.filter(id=uuid.UUID(task_id)).first()
        except ValueError:
            delivery = None
        if delivery is not None:
            return _meta_of(delivery)
        meta: dict[str, Any] = super()._get_task_meta_for(task_id)
        return meta

    # --- chords of plain tasks ----------------------------------------------------------------

    def on_chord_part_return(
        self, request: Context, state: str, result: Any, **options: Any
    ) -> None:
        """Note that a header task ended; the last one sends the body."""
        if request.id and request.group:
            self._ensure_retryable(self._end_chord_part, request, state, result)

    def _end_chord_part(self, request: Context, state: str, result: Any) -> None:
        """Send the body when no member is left, while a lock keeps the other members out.

        The counter goes after the body was sent, in the same transaction: if this process dies in
        between, the member's message comes back and the body is sent again, with the same task id.
        """
        with transaction.atomic(using=router.db_for_write(ChordCounter)):
            counter = (
                ChordCounter.objects.select_for_update().filter(group_id=request.group).first()
            )
            if counter is None:
                logger.info("chord_has_ended_before", group_id=request.group, task_id=request.id)
                return
            header = counter.group_result(app=self.app)
            unfinished = _unfinished(header)
            if request.id in unfinished:
                # A task that ignores its result: its row says that it ended, with None as value.
                value = None if state == states.SUCCESS else self.encode_result(result, state)
                self._store_result(request.id, value, state, request=request)
                unfinished.remove(request.id)
            if unfinished:
                counter.count = len(unfinished)
                counter.save(update_fields=["count"])
                return
            body: Any = request.chord
            self._send_body(maybe_signature(body, app=self.app), header)
            counter.delete()

    def _send_body(self, body: Any, header: GroupResult) -> None:
        """Enqueue the body with the members' values, or fail it with the first member's error.

        Raises:
            Reject: The broker is away: the last member goes back to its queue and tries again.
        """
        try:
            with allow_join_result():
                values = header.join(timeout=self.app.conf.result_chord_join_timeout)
        except Exception as error:  # noqa: BLE001 - whatever a member raised
            self.chord_error_from_stack(body, ChordError(f"A member raised {error!r}"))
            return
        try:
            body.delay(values)
        except BrokerError as error:
            raise Reject(
                f"the body of chord {header.id} was not sent: {error}", requeue=True
            ) from (error)
        except Exception as error:  # noqa: BLE001 - values that cannot be encoded, for instance
            self.chord_error_from_stack(body, ChordError(f"The body was not sent: {error!r}"))


def _meta_of(delivery: Delivery) -> dict[str, Any]:
    """Return a ledger row in the words of Celery's results."""
    status, result = _outcome_of(delivery)
    return {
        "task_id": str(delivery.id),
        "status": status,
        "result": result,
        "traceback": delivery.error or None,
        "date_done": delivery.finished_at,
        "children": [],
        "name": delivery.task,
        "args": delivery.args,
        "kwargs": delivery.kwargs,
        "worker": delivery.worker or None,
        "queue": delivery.queue,
        "retries": max(0, delivery.attempts - 1),
    }


def _outcome_of(delivery: Delivery) -> tuple[str, Any]:
    """Return Celery's state, and the value or the exception that belongs to it."""
    match delivery.state:
        case State.SUCCEEDED:
            return states.SUCCESS, delivery.result
        case State.DEAD:
            return states.FAILURE, DeadDeliveryError(delivery.error)
        case State.CANCELLED:
            return states.REVOKED, TaskRevokedError(delivery.error or "cancelled")
        case State.RUNNING:
            return states.STARTED, None
        case _ if delivery.attempts and delivery.error:
            return states.RETRY, DeadDeliveryError(delivery.error)
        case _:
            return states.PENDING, None


def _member_ids(header: GroupResult) -> Iterator[str]:
    """Yield the task ids of a header, also of groups inside it."""
    member: Any
    for member in header.results or []:
        if isinstance(member, GroupResult):
            yield from _member_ids(member)
        else:
            yield member.id


def _unfinished(header: GroupResult) -> set[str]:
    """Return the ids of the members that have not ended."""
    members = set(_member_ids(header))
    ended = TaskResult.objects.filter(task_id__in=members, status__in=states.READY_STATES)
    return members - set(ended.values_list("task_id", flat=True))

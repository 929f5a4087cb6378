"""The ledger: every change of a delivery's row is made here, and nowhere else.

Each function is one short transaction, or part of the caller's. Time is the database's, so that
clocks of machines may differ. An attempt is fenced by its number: an earlier one, whose lease
another worker has taken over, changes nothing any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from celery import current_app
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now
from kombu.utils.json import JSONEncoder

from delivery import origin
from delivery.models import OPEN_STATES, Delivery, Group, State

logger = structlog.get_logger(__name__)

#: Seconds that a worker holds a delivery without renewing. A killed worker costs this much.
LEASE_SECONDS: Final = 30.0
#: Seconds after its publication in which a message is normally taken. The relay looks then.
TAKEN_WITHIN_SECONDS: Final = 15.0
#: Longest time in seconds until the relay looks again for a message that may still be waiting.
MAXIMUM_PATIENCE_SECONDS: Final = 300.0
#: A task that kills its worker must end somewhere; a fleet that is restarted often must not end it.
MAXIMUM_INTERRUPTIONS: Final = 10
#: Longest pause in seconds after an interruption.
MAXIMUM_INTERRUPTION_DELAY_SECONDS: Final = 20.0
#: On this channel PostgreSQL tells relays that something is due sooner than they know.
NOTIFY_CHANNEL: Final = "delivery_due"
#: Characters of a delivery's arguments, as JSON. More does not belong into a queue.
MAXIMUM_ARGUMENTS_LENGTH: Final = 1_000_000
#: Characters of an error that are kept.
MAXIMUM_ERROR_LENGTH: Final = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A delivery to be entered into the ledger.

    Attributes:
        id: Task id and idempotency key.
        max_failures: With so many failures it is a dead letter.
        options: Options of its message (``Delivery.options``).
        delay: Seconds until it is due; 0: at once.
        takes_results: What the body of a group gets as its first argument: ``list`` of all results,
            the ``one`` result of a chain's step before, or ``nothing``.
        expires_at: Cancelled if it has not succeeded by then.
    """

    id: UUID
    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    queue: str
    max_failures: int
    options: Mapping[str, Any] = field(default_factory=dict)
    delay: float = 0.0
    takes_results: str = "nothing"
    expires_at: datetime | None = None
    group_id: UUID | None = None
    position: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return what ``from_json`` reads, and what ``enter`` hands to PostgreSQL."""
        return {
            "id": str(self.id),
            "task": self.task,
            "args": list(self.args),
            "kwargs": dict(self.kwargs),
            "queue": self.queue,
            "max_failures": self.max_failures,
            "options": dict(self.options),
            "delay": self.delay,
            "takes_results": self.takes_results,
            "expires_at": self.expires_at and self.expires_at.isoformat(),
            "group_id": self.group_id and str(self.group_id),
            "position": self.position,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *arguments: Any) -> Entry:
        """Return the entry that was stored, with more arguments in front of its own."""
        own = {
            "id": UUID(values["id"]),
            "args": [*arguments, *values["args"]],
            "expires_at": values["expires_at"] and datetime.fromisoformat(values["expires_at"]),
            "group_id": values["group_id"] and UUID(values["group_id"]),
        }
        return cls(**{**values, **own})


@dataclass(frozen=True, slots=True)
class Message:
    """What is published for a delivery.

    Attributes:
        dispatched_at: Seconds since the epoch, by the database's clock.
    """

    id: UUID
    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    queue: str
    options: Mapping[str, Any]
    dispatched_at: float


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker knows of the delivery it has claimed."""

    id: UUID
    attempt: int
    failures: int
    max_failures: int
    group_id: UUID | None
    interruptions: int = 0


# --- Enter ---------------------------------------------------------------------------------------


def enter(entries: Sequence[Entry]) -> list[Message]:
    """Enter deliveries in the caller's transaction; returns what to publish after its commit.

    An id that is known already is left alone, so entering twice is harmless.

    Raises:
        TypeError: An argument cannot be written as JSON.
        ValueError: An argument holds U+0000 or a number that is none (NaN, infinity), or they are
            longer than ``MAXIMUM_ARGUMENTS_LENGTH``.
    """
    rows = [encode(entry.as_json()) for entry in entries]
    for entry, row in zip(entries, rows, strict=True):
        if len(row) > MAXIMUM_ARGUMENTS_LENGTH:
            raise ValueError(
                f"the arguments of {entry.task} have {len(row)} characters; allowed are "
                f"{MAXIMUM_ARGUMENTS_LENGTH}: store the data and pass its id"
            )
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO delivery_delivery (
                id, task, args, kwargs, queue, options, attempts, failures, interruptions,
                max_failures, created_at, expires_at, group_id, position, worker, error,
                state, dispatched_at, due_at)
            SELECT row.id, task, args, kwargs, queue, options, 0, 0, 0,
                max_failures, statement_timestamp(), expires_at, group_id, position, '', '',
                CASE WHEN delay > 0 THEN 'pending' ELSE 'dispatched' END,
                CASE WHEN delay > 0 THEN NULL ELSE statement_timestamp() END,
                statement_timestamp()
                    + make_interval(secs => CASE WHEN delay > 0 THEN delay ELSE %s END)
            FROM jsonb_to_recordset(%s::jsonb) AS row(
                id uuid, task text, args jsonb, kwargs jsonb, queue text, options jsonb,
                max_failures int, expires_at timestamptz, group_id uuid, position int, delay float8)
            ON CONFLICT (id) DO NOTHING
            RETURNING id, extract(epoch FROM dispatched_at)::float8
            """,
            [TAKEN_WITHIN_SECONDS, f"[{','.join(rows)}]"],
        )
        dispatched = dict(cursor.fetchall())
    if any(entry.delay > 0 for entry in entries):
        notify_relays()
    return [
        Message(entry.id, entry.task, entry.args, entry.kwargs, entry.queue, entry.options, moment)
        for entry in entries
        if (moment := dispatched.get(entry.id)) is not None
    ]


def hold_pending(task: str, *, within: float) -> bool:
    """Keep a delivery that waits for its time from beginning before this transaction ends.

    So what the transaction commits is there when it begins. Any number of transactions hold one at
    the same time. What is due already, or in other hands, is left alone.

    Args:
        task: Name of its task.
        within: Seconds from now in which it is due.

    Returns:
        False when there is none to hold.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT id FROM delivery_delivery
            WHERE task = %s AND state = 'pending' AND due_at > statement_timestamp()
                AND due_at <= statement_timestamp() + make_interval(secs => %s)
            ORDER BY due_at LIMIT 1
            FOR SHARE SKIP LOCKED
            """,
            [task, within],
        )
        return cursor.fetchone() is not None


def encode(value: Any) -> str:
    """Write JSON as Celery does: UUIDs, dates and decimals are kept.

    Raises:
        TypeError, ValueError: It cannot be written, or PostgreSQL could not store it.
    """
    text = json.dumps(value, cls=JSONEncoder, allow_nan=False, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds a lone surrogate, which is no text") from None
    # An escaped backslash before it means the six characters, not U+0000.
    if "\\u0000" in text.replace("\\\\", ""):
        raise ValueError("it holds U+0000, which PostgreSQL cannot store")
    return text


def notify_relays() -> None:
    """Tell relays, at the commit, that something is due sooner than they know."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, '')", [NOTIFY_CHANNEL])


# --- Work ----------------------------------------------------------------------------------------


def claim(delivery_id: UUID, worker: str) -> Claim | None:
    """Begin an attempt: take the lease. None when there is nothing to do for this message.

    That is so when the delivery has ended or is not known, when another worker holds it, and when
    it waits for its time. One statement, committed before the work begins, so that attempts are
    counted whatever happens next.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE delivery_delivery SET
                interruptions = interruptions + (state = 'running')::int,
                state = 'running', attempts = attempts + 1, worker = %(worker)s,
                started_at = statement_timestamp(),
                due_at = statement_timestamp() + make_interval(secs => %(lease)s)
            WHERE id = %(id)s
                AND (state = 'dispatched'
                    OR state IN ('pending', 'running') AND due_at <= statement_timestamp())
                AND interruptions + (state = 'running')::int < %(interruptions)s
                AND (expires_at IS NULL OR expires_at > statement_timestamp())
            RETURNING id, attempts, failures, max_failures, group_id, interruptions
            """,
            {
                "id": delivery_id,
                "worker": worker,
                "lease": LEASE_SECONDS,
                "interruptions": MAXIMUM_INTERRUPTIONS,
            },
        )
        row = cursor.fetchone()
    return None if row is None else Claim(*row)


def renew(claim: Claim) -> bool:
    """Extend the lease; returns False when the attempt has lost the delivery."""
    return bool(
        _held_by(claim)
        .filter(state__in=[State.RUNNING, State.DISPATCHED])
        .update(state=State.RUNNING, due_at=_from_now(LEASE_SECONDS))
    )


def succeed(claim: Claim, result: Any = None) -> bool:
    """End the delivery with success; returns False when the attempt has lost it.

    Commit together with the effect, where that is in the database (``run_once``).
    """
    return bool(
        _held_by(claim).update(state=State.SUCCEEDED, finished_at=Now(), result=result, error="")
    )


def store_result(claim: Claim, result: Any) -> None:
    """Store the result of a delivery that this transaction has ended with success."""
    Delivery.objects.filter(id=claim.id).update(result=result)


def join(group_id: UUID) -> list[Message]:
    """Count a member that this transaction has ended with success; the last one enters the body.

    A member has one such transaction, however often its message arrives; so each is counted once,
    and the body is entered once, by the same commit.

    Returns:
        What to publish after the commit.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE delivery_group SET remaining = remaining - 1,
                finished_at = CASE WHEN remaining = 1 THEN statement_timestamp() END
            WHERE id = %s RETURNING remaining
            """,
            [group_id],
        )
        row = cursor.fetchone()
    if row is None or row[0]:
        return []
    body = Group.objects.values_list("body", flat=True).get(id=group_id)
    if body is None:
        return []
    return enter([Entry.from_json(body, *_results(group_id, body["takes_results"]))])


def _results(group_id: UUID, takes: str) -> list[Any]:
    if takes == "nothing":
        return []
    members = Delivery.objects.filter(group_id=group_id).order_by("position")
    results = list(members.values_list("result", flat=True))
    return [results] if takes == "list" else results[:1]


def retry(claim: Claim, *, delay: float, error: str) -> bool:
    """End the attempt as failed and have another one after so many seconds.

    Returns:
        False when the attempt has lost the delivery.
    """
    with transaction.atomic():
        changed = _held_by(claim).update(
            state=State.PENDING,
            failures=F("failures") + 1,
            due_at=_from_now(delay),
            error=_storable(error),
        )
        if changed:
            notify_relays()
    return bool(changed)


def bury(claim: Claim, error: str) -> bool:
    """End the delivery as a dead letter; returns False when the attempt has lost it."""
    return bool(_end(_held_by(claim), State.DEAD, error, failures=F("failures") + 1))


def bury_held_by(delivery_id: UUID, worker: str, error: str) -> bool:
    """Bury what a worker's process held when it was killed for its time limit."""
    held = _open().filter(id=delivery_id, worker=worker, state=State.RUNNING)
    return bool(_end(held, State.DEAD, error, failures=F("failures") + 1))


def interrupt_held_by(delivery_id: UUID, worker: str, error: str) -> int:
    """Let go of what a worker's process held when it died, instead of waiting for its lease.

    Returns:
        The number of the attempt that was interrupted; 0 when the process held nothing.

    The next attempt comes after a pause that doubles with each interruption, with full jitter; the
    relay buries what has had enough of them.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE delivery_delivery SET
                state = 'pending', interruptions = interruptions + 1, error = %s,
                due_at = statement_timestamp() + CASE
                    WHEN interruptions + 1 < %s
                    THEN make_interval(secs => random() * least(%s, power(2, interruptions)))
                    ELSE make_interval() END
            WHERE id = %s AND worker = %s AND state = 'running'
            RETURNING attempts
            """,
            [
                _storable(error),
                MAXIMUM_INTERRUPTIONS,
                MAXIMUM_INTERRUPTION_DELAY_SECONDS,
                delivery_id,
                worker,
            ],
        )
        row = cursor.fetchone()
    if row is None:
        return 0
    notify_relays()
    return int(row[0])


def _storable(error: str) -> str:
    """Return the beginning of a text, with what PostgreSQL cannot store as escapes."""
    text = error[:MAXIMUM_ERROR_LENGTH].replace("\0", "\\x00")
    return text.encode("utf-8", "backslashreplace").decode()


def _open() -> QuerySet[Delivery]:
    return Delivery.objects.filter(state__in=OPEN_STATES)


def _held_by(claim: Claim) -> QuerySet[Delivery]:
    """Return the delivery while no later attempt has begun.

    A lease that has run out is no reason to refuse: until somebody else begins, the work counts.
    """
    return _open().filter(id=claim.id, attempts=claim.attempt)


def _from_now(seconds: float) -> Any:
    return Now() + timedelta(seconds=seconds)


# --- Dispatch ------------------------------------------------------------------------------------


def take_due(heads: Mapping[str, float], limit: int) -> tuple[int, list[Message], list[Delivery]]:
    """Decide on deliveries that are due, oldest first; other relays skip them meanwhile.

    Marks them before they are published: a relay that dies in between costs
    ``TAKEN_WITHIN_SECONDS``, and no lock is held while the broker is asked.

    Args:
        heads: For each queue that is not empty, when its oldest message was published (seconds
            since the epoch). What was published after that may still be waiting behind it.
        limit: Rows at most.

    Returns:
        How many rows were looked at, what to publish now, and what was buried.
    """
    with transaction.atomic():
        rows = list(
            _open()
            .filter(due_at__lte=Now())
            .annotate(now=Now())
            .order_by("due_at")
            .select_for_update(skip_locked=True, of=("self",))[:limit]
        )
        if not rows:
            return 0, [], []
        now: datetime = getattr(rows[0], "now")  # noqa: B009 - annotated
        publish: list[Delivery] = []
        buried: list[Delivery] = []
        waiting: dict[str, list[UUID]] = {}
        for row in rows:
            row.interruptions += row.state == State.RUNNING
            if row.expires_at is not None and row.expires_at <= now:
                _end(_open().filter(id=row.id), State.CANCELLED, "It has expired.")
            elif row.interruptions >= MAXIMUM_INTERRUPTIONS:
                reason = f"Its worker died {row.interruptions} times. Last: {row.error or 'silent'}"
                buried += _end(_open().filter(id=row.id), State.DEAD, reason)
            elif row.state == State.DISPATCHED and _may_wait(row, heads.get(row.queue)):
                waiting.setdefault(row.queue, []).append(row.id)
            else:
                publish.append(row)
        for queue, ids in waiting.items():
            # As long again as the queue's head has waited: a long queue is asked about seldom.
            waited = now.timestamp() - heads[queue]
            patience = min(max(TAKEN_WITHIN_SECONDS, waited), MAXIMUM_PATIENCE_SECONDS)
            _open().filter(id__in=ids).update(due_at=_from_now(patience))
        interrupted = [row.id for row in publish if row.state == State.RUNNING]
        if interrupted:
            _open().filter(id__in=interrupted).update(interruptions=F("interruptions") + 1)
        _open().filter(id__in=[row.id for row in publish]).update(
            state=State.DISPATCHED, dispatched_at=now, due_at=_from_now(TAKEN_WITHIN_SECONDS)
        )
    messages = [
        Message(row.id, row.task, row.args, row.kwargs, row.queue, row.options, now.timestamp())
        for row in publish
    ]
    return len(rows), messages, buried


def _may_wait(row: Delivery, head: float | None) -> bool:
    """Whether the message may still be in its queue, which is first in, first out."""
    return (
        head is not None and row.dispatched_at is not None and row.dispatched_at.timestamp() >= head
    )


def postpone(ids: Iterable[UUID], seconds: float) -> None:
    """Have the relay look at dispatched deliveries again after so many seconds."""
    _open().filter(id__in=list(ids), state=State.DISPATCHED).update(due_at=_from_now(seconds))


def bury_dispatched(ids: Iterable[UUID], error: str, *, older_than: float) -> list[Delivery]:
    """Bury what cannot be published, if it was entered so many seconds ago; returns what it was."""
    rows = _open().filter(
        id__in=list(ids), state=State.DISPATCHED, created_at__lte=_from_now(-older_than)
    )
    return _end(rows, State.DEAD, error)


def dispatch_everything_again() -> int:
    """Make all dispatched deliveries due: the broker has lost its data. Returns how many."""
    return _open().filter(state=State.DISPATCHED).update(due_at=Now(), dispatched_at=None)


def seconds_until_next(limit: float) -> float:
    """Return the seconds until the next delivery is due: from 0 to the limit."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT extract(epoch FROM min(due_at) - statement_timestamp())::float8
            FROM delivery_delivery WHERE state IN ('pending', 'dispatched', 'running')
            """
        )
        (seconds,) = cursor.fetchone()
    return limit if seconds is None else min(max(seconds, 0.0), limit)


# --- End without success, and what people do -----------------------------------------------------


def cancel(ids: Iterable[UUID], reason: str = "Cancelled.") -> int:
    """Cancel open deliveries; returns how many.

    One that a worker runs is cancelled as well: its effect in the database is not committed any
    more (``run_once``). Effects outside of it cannot be taken back.
    """
    return len(_end(_open().filter(id__in=list(ids)), State.CANCELLED, reason))


def replay(ids: Iterable[UUID]) -> int:
    """Give dead letters a new life with all their attempts; returns how many.

    The task's ``on_replayed`` runs in the same transaction.
    """
    with transaction.atomic():
        rows = list(_dead(ids).select_for_update())
        Delivery.objects.filter(id__in=[row.id for row in rows]).update(
            state=State.PENDING, failures=0, interruptions=0, finished_at=None, due_at=Now(),
            expires_at=None,
        )  # fmt: skip
        for row in rows:
            task: Any = current_app.tasks.get(row.task)
            if task is not None:
                task.on_replayed(*row.args, **row.kwargs)
        notify_relays()
    return len(rows)


def discard(ids: Iterable[UUID]) -> int:
    """Give dead letters up; they are deleted with other ended deliveries. Returns how many."""
    return _dead(ids).update(state=State.CANCELLED)


def _dead(ids: Iterable[UUID]) -> QuerySet[Delivery]:
    return Delivery.objects.filter(id__in=list(ids), state=State.DEAD)


def _end(rows: QuerySet[Delivery], state: State, error: str, **values: Any) -> list[Delivery]:
    """End open deliveries without success; their tasks and groups learn of it in the same commit.

    Returns:
        Them, as they were before.
    """
    error = _storable(error)
    with transaction.atomic():
        ended = list(rows.order_by("id").select_for_update(of=("self",)))
        Delivery.objects.filter(id__in=[row.id for row in ended]).update(
            state=state, finished_at=Now(), error=error, **values
        )
        for row in ended:
            with origin.log_context(**_log_context(row)):
                logger.warning("delivery_ended", task_name=row.task, state=str(state), error=error)
                # Rows of the application before the group, as run_once locks them.
                _tell_task(row, error)
            if row.group_id is not None:
                _fail_group(row.group_id, row.id, error)
    return ended


def _fail_group(group_id: UUID, member: UUID, error: str) -> None:
    """Enter the error callback with the first member that fails; the relay publishes it."""
    failed = Group.objects.filter(id=group_id, failed_at=None).update(failed_at=Now())
    if not failed:
        return
    on_error = Group.objects.values_list("on_error", flat=True).get(id=group_id)
    if on_error is not None:
        arguments = [] if on_error["takes_results"] == "nothing" else [str(member), error]
        enter([Entry.from_json({**on_error, "delay": 0.001}, *arguments)])


def _tell_task(row: Delivery, error: str) -> None:
    task: Any = current_app.tasks.get(row.task)
    if task is None:
        return
    try:
        with transaction.atomic():
            task.on_given_up(error, *row.args, **row.kwargs)
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        # A fault of the hook must not keep the row open for ever.
        logger.exception("on_given_up_failed", task_name=row.task)


def _log_context(row: Delivery) -> dict[str, Any]:
    """Return what its own lines of the log say, for those that others write about it."""
    context = dict(row.options.get(origin.LOG, {}))
    parent = context.pop("task_id", None)
    if parent is not None:
        context["parent_task_id"] = parent
    return {**context, "task_id": str(row.id), "queue": row.queue, "attempt": row.attempts}

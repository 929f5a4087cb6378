"""Every change of a job's state, guarded by the row.

A late or repeated message finds the job already further on, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import structlog
from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from delivery import ledger
from delivery.models import OPEN_STATES as OPEN_DELIVERY_STATES
from delivery.models import Delivery
from delivery.models import State as DeliveryState
from jobs import kinds, live
from jobs.kinds import kind_named
from jobs.models import OPEN_STATES, Job, State

logger = structlog.get_logger(__name__)

#: Tasks of a job that are listed where it is shown.
DELIVERIES_LISTED: Final = 50


class IdempotencyKeyReusedError(Exception):
    """The Idempotency-Key was used before, for a different request."""


def job_submit(
    *,
    kind: str,
    total: int,
    requested_by: str,
    fingerprint: str,
    idempotency_key: str | None,
    create_details: Callable[[Job], None],
) -> Job:
    """Store a job with its details in one transaction, and enqueue it after the commit.

    A second call with the same caller and idempotency key returns the first job.

    Args:
        kind: Name of a registered kind.
        total: Units of work.
        requested_by: Name of the caller.
        fingerprint: SHA-256 of the request, to tell a repetition from a reuse of the key.
        idempotency_key: The caller's key, or None.
        create_details: Creates the workload's own rows for the job.

    Raises:
        IdempotencyKeyReusedError: The key belongs to a different request.
        LookupError: No app has registered the kind.
    """
    registered = kind_named(kind)
    if registered is None:
        raise LookupError(f"no app has registered jobs of kind {kind!r} (jobs.kinds.register)")
    try:
        with transaction.atomic():
            job = Job.objects.create(
                kind=kind,
                total=total,
                requested_by=requested_by,
                request_fingerprint=fingerprint,
                idempotency_key=idempotency_key,
            )
            # From here on the lines of this request name it, also those of the tasks it enqueues.
            structlog.contextvars.bind_contextvars(job_id=str(job.id))
            create_details(job)
            registered.enqueue(job.id)
            live.announce(job.id)
    except IntegrityError:
        if idempotency_key is None:
            raise
        first = Job.objects.filter(
            requested_by=requested_by, idempotency_key=idempotency_key
        ).first()
        if first is None:
            raise
        if first.request_fingerprint != fingerprint or first.kind != kind:
            raise IdempotencyKeyReusedError from None
        structlog.contextvars.bind_contextvars(job_id=str(first.id))
        return first
    logger.info("job_submitted", kind=kind, total=total)
    return job


def job_start(job_id: UUID) -> bool:
    """Note that work on the job begins; returns False when there is nothing left to do."""
    now = timezone.now()
    open_jobs = Job.objects.filter(id=job_id, state__in=OPEN_STATES)
    begun = open_jobs.update(
        state=State.RUNNING,
        attempts=F("attempts") + 1,
        started_at=Coalesce("started_at", now),
        updated_at=now,
    )
    if begun:
        live.announce(job_id)
    return bool(begun)


def job_retried(job_id: UUID) -> None:
    """Count an attempt that follows a failed one."""
    Job.objects.filter(id=job_id, state__in=OPEN_STATES).update(
        attempts=F("attempts") + 1, updated_at=timezone.now()
    )
    live.announce(job_id)


def job_progress(job_id: UUID, *, done: int) -> None:
    """Store how many units have ended. Concurrent parts may report out of order: it never falls."""
    behind = Job.objects.filter(id=job_id, state__in=OPEN_STATES, done__lt=done)
    if behind.update(done=done, updated_at=timezone.now()):
        live.announce(job_id)


def job_finish(
    job_id: UUID, *, state: State, done: int, result: Any = None, error: str = ""
) -> bool:
    """Give an open job its final state; returns False when it had one already."""
    now = timezone.now()
    changed = Job.objects.filter(id=job_id, state__in=OPEN_STATES).update(
        state=state, done=done, result=result, error=error, finished_at=now, updated_at=now
    )
    if changed:
        logger.info("job_finished", job_id=str(job_id), state=str(state), error=error)
        live.announce(job_id)
    return bool(changed)


def job_fail(job_id: UUID, error: str) -> None:
    """End an open job with a reason, and close what is left of it. Others stay as they are."""
    _end_early(job_id, State.FAILED, error)


def job_recount(job_id: UUID, *, done: int, result: Any) -> None:
    """Correct the figures of a job that ended early, while its last units were under way."""
    Job.objects.filter(id=job_id, state__in=[State.CANCELLED, State.FAILED]).update(
        done=done, result=result
    )
    live.announce(job_id)


def job_cancel(job_id: UUID) -> Job:
    """Stop an open job: workers leave it within one unit of work. Others stay as they are.

    Raises:
        Job.DoesNotExist: There is no such job.
    """
    _end_early(job_id, State.CANCELLED, "")
    return Job.objects.get(id=job_id)


def _end_early(job_id: UUID, state: State, error: str) -> None:
    with transaction.atomic():
        job = Job.objects.select_for_update().filter(id=job_id).first()
        if job is None or not job.is_open:
            return
        job_finish(job_id, state=state, done=job.done, error=error)
        kind = kind_named(job.kind)
        if kind is not None:
            kind.release(job_id)


def job_reopen(job_id: UUID) -> None:
    """Have a failed job go on, because one of its tasks is replayed. Others stay as they are."""
    with transaction.atomic():
        job = Job.objects.select_for_update().filter(id=job_id, state=State.FAILED).first()
        if job is None:
            return
        Job.objects.filter(id=job_id).update(
            state=State.RUNNING, error="", finished_at=None, updated_at=timezone.now()
        )
        kind = kind_named(job.kind)
        if kind is not None:
            kind.reopen(job_id)
        logger.info("job_reopened", job_id=str(job_id))
    live.announce(job_id)


def job_replay(job_id: UUID) -> int:
    """Replay the dead letters of a job, which reopens it; returns how many there were.

    None are left of a job whose units failed one by one (no recipient could be reached), and of
    one whose dead letters were discarded.
    """
    job = Job.objects.get(id=job_id)
    dead = Delivery.objects.filter(_work_for(job), state=DeliveryState.DEAD)
    return ledger.replay(dead.values_list("id", flat=True))


def job_deliveries(job: Job) -> list[Delivery]:
    """Return durable tasks that work for a job, oldest first, at most ``DELIVERIES_LISTED``.

    There is no index on arguments, because each task would pay for it. So the rows are those that
    partial indexes find: open, dead, and ended while the job ran.
    """
    own = Delivery.objects.filter(_work_for(job)).defer("args", "kwargs", "options", "result")
    ended = own.filter(
        state__in=[DeliveryState.SUCCEEDED, DeliveryState.CANCELLED],
        finished_at__gte=job.created_at,
        finished_at__lte=job.finished_at or timezone.now(),
    )
    with transaction.atomic():
        found = [
            *own.filter(state__in=OPEN_DELIVERY_STATES)[:DELIVERIES_LISTED],
            *own.filter(state=DeliveryState.DEAD)[:DELIVERIES_LISTED],
            *ended[:DELIVERIES_LISTED],
        ]
    return sorted(found, key=lambda delivery: delivery.created_at)[:DELIVERIES_LISTED]


def _work_for(job: Job) -> Q:
    kind = kind_named(job.kind)
    return (kinds.named_by_first_argument if kind is None else kind.deliveries)(job.id)

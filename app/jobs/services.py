"""Every change of a job's state, guarded by the row.

A late or repeated message finds the job already further on, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from django.db import IntegrityError, transaction
from django.db.models import (
    DurationField,
    ExpressionWrapper,
    F,
    Q,
    QuerySet,
    Value,
)
from django.db.models.functions import Coalesce, Least, Now, Power
from django.utils import timezone

from jobs import live
from jobs.kinds import kind_named
from jobs.models import OPEN_STATES, Job, State

logger = structlog.get_logger(__name__)

#: A job without a sign of life for so long is enqueued again; the time doubles each time, up to 32
#: times as long. A running job shows life at least each time one of its tasks is tried again.
RESUME_QUEUED_AFTER = timedelta(seconds=120)
RESUME_RUNNING_AFTER = timedelta(seconds=360)
MAXIMUM_DOUBLINGS = 5
#: Times that a running job is enqueued again without any progress, before it is given up.
MAXIMUM_RESUMES = 20


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
            create_details(job)
            registered.enqueue(job.id)
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
        return first
    logger.info("job_submitted", job_id=str(job.id), kind=kind, total=total)
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
    now = timezone.now()
    open_jobs = Job.objects.filter(id=job_id, state__in=OPEN_STATES)
    if not open_jobs.filter(done__lt=done).update(done=done, resumes=0, updated_at=now):
        open_jobs.update(updated_at=now)
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


def jobs_resume_interrupted() -> int:
    """Enqueue again the open jobs that show no sign of life; returns how many.

    That is how a job whose message was never published (broker down at the commit) or was lost
    with the broker's memory is brought to its end.
    """
    resumed = 0
    for job_id in _silent_jobs().values_list("id", flat=True)[:1000]:
        with transaction.atomic():
            job = (
                Job.objects.select_for_update(skip_locked=True)
                .filter(id=job_id, state__in=OPEN_STATES)
                .first()
            )
            if job is None:
                continue
            kind = kind_named(job.kind)
            if kind is None:
                job_fail(job_id, f"No app that is installed handles jobs of kind {job.kind}.")
                continue
            # One that is still queued may just be waiting its turn: that is no fault of its own.
            if job.state == State.RUNNING and job.resumes >= MAXIMUM_RESUMES:
                job_fail(job_id, f"Given up: it fell silent {job.resumes + 1} times.")
                continue
            job.resumes += 1
            job.save(update_fields=["resumes", "updated_at"])
            kind.enqueue(job.id)
            resumed += 1
            logger.warning("job_resumed", job_id=str(job.id), state=job.state)
    return resumed


def _silent_jobs() -> QuerySet[Job]:
    """Return the open jobs that show no sign of life for longer than is usual, oldest first."""
    doubled = Power(Value(2.0), Least(F("resumes"), Value(MAXIMUM_DOUBLINGS)))

    def silent(state: State, after: timedelta) -> Q:
        patience = ExpressionWrapper(Value(after) * doubled, output_field=DurationField())
        return Q(state=state, updated_at__lt=Now() - patience)

    return Job.objects.filter(
        silent(State.QUEUED, RESUME_QUEUED_AFTER) | silent(State.RUNNING, RESUME_RUNNING_AFTER)
    ).order_by("updated_at")

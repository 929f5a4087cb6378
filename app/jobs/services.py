"""Every change of a job's state, guarded by the row.

A late or repeated message finds the job already further on, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from jobs import live
from jobs.kinds import kind_named
from jobs.models import OPEN_STATES, Job, State

logger = structlog.get_logger(__name__)

#: A job without a sign of life for so long is enqueued again. A running one may be in the hands of
#: a worker until the broker gives its message to another.
RESUME_QUEUED_AFTER = timedelta(seconds=120)
RESUME_RUNNING_AFTER = timedelta(
    seconds=settings.CELERY_BROKER_TRANSPORT_OPTIONS["visibility_timeout"] + 60
)
#: Times that a running job is enqueued again after it fell silent, before it is given up.
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
    if not open_jobs.update(state=State.RUNNING, attempts=F("attempts") + 1, updated_at=now):
        return False
    Job.objects.filter(id=job_id, started_at__isnull=True).update(started_at=now)
    live.announce(job_id)
    return True


def job_retried(job_id: UUID) -> None:
    """Count an attempt that follows a failed one."""
    Job.objects.filter(id=job_id, state__in=OPEN_STATES).update(
        attempts=F("attempts") + 1, updated_at=timezone.now()
    )
    live.announce(job_id)


def job_progress(job_id: UUID, *, done: int) -> None:
    """Store how many units have ended. Concurrent parts may report out of order: it never falls."""
    Job.objects.filter(id=job_id, state__in=OPEN_STATES, done__lte=done).update(
        done=done, updated_at=timezone.now()
    )
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


def job_cancel(job_id: UUID) -> Job:
    """Stop an open job: workers leave it within one unit of work. Others stay as they are.

    Raises:
        Job.DoesNotExist: There is no such job.
    """
    now = timezone.now()
    with transaction.atomic():
        job = Job.objects.select_for_update().get(id=job_id)
        if not job.is_open:
            return job
        job.state = State.CANCELLED
        job.finished_at = now
        job.save(update_fields=["state", "finished_at", "updated_at"])
        kind = kind_named(job.kind)
        if kind is not None:
            kind.on_cancel(job.id)
    logger.info("job_cancelled", job_id=str(job_id))
    live.announce(job_id)
    return job


def jobs_resume_interrupted() -> int:
    """Enqueue again the open jobs that show no sign of life; returns how many.

    That is how a job whose message was never published (broker down at the commit) or was lost
    with the broker's memory is brought to its end.
    """
    now = timezone.now()
    silent = Job.objects.filter(
        state=State.QUEUED, updated_at__lt=now - RESUME_QUEUED_AFTER
    ) | Job.objects.filter(state=State.RUNNING, updated_at__lt=now - RESUME_RUNNING_AFTER)
    resumed = 0
    for job_id in silent.order_by("updated_at").values_list("id", flat=True)[:1000]:
        with transaction.atomic():
            job = (
                Job.objects.select_for_update(skip_locked=True)
                .filter(id=job_id, state__in=OPEN_STATES)
                .first()
            )
            if job is None:
                continue
            kind = kind_named(job.kind)
            if kind is None or job.resumes >= MAXIMUM_RESUMES:
                error = (
                    f"Given up: it fell silent {job.resumes + 1} times."
                    if kind
                    else f"No app that is installed handles jobs of kind {job.kind}."
                )
                job_finish(job_id, state=State.FAILED, done=job.done, error=error)
                continue
            # One that is still queued may just be waiting its turn: that is no fault of its own.
            job.resumes += job.state == State.RUNNING
            job.save(update_fields=["resumes", "updated_at"])
            kind.enqueue(job.id)
            resumed += 1
            logger.warning("job_resumed", job_id=str(job.id), state=job.state)
    return resumed

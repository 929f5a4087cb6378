"""Deleting what is old, a few rows at a time: one large delete would hold locks for long.

And the trace that a canary leaves.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone
from django_celery_results.models import TaskResult

from delivery.models import Delivery, Group, State
from housekeeping.models import Canary
from jobs.models import Job

#: Rows for each statement. A job takes up to 10,000 rows of its workload with it.
BATCH_ROWS = 500
BATCH_JOBS = 10
#: Statements for each run; the next run goes on.
MAXIMUM_BATCHES = 200


def delete_in_batches(rows: QuerySet[Any], batch_rows: int = BATCH_ROWS) -> int:
    """Delete the rows that match, oldest batches first; returns how many objects were deleted."""
    deleted = 0
    for _ in range(MAXIMUM_BATCHES):
        keys = list(rows.values_list("pk", flat=True)[:batch_rows])
        if not keys:
            break
        deleted += rows.model._base_manager.filter(pk__in=keys).delete()[0]  # noqa: SLF001
    return deleted


def old_jobs() -> QuerySet[Job]:
    """Return jobs that ended longer ago than they are kept."""
    oldest = timezone.now() - timedelta(seconds=settings.JOB_RETENTION_SECONDS)
    return Job.objects.filter(finished_at__lt=oldest).order_by("finished_at")


def old_deliveries() -> QuerySet[Delivery]:
    """Return deliveries that ended longer ago than they are kept.

    Dead letters stay until somebody decides on them, and members as long as their chord may still
    need their results.
    """
    oldest = timezone.now() - timedelta(seconds=settings.DELIVERY_RETENTION_SECONDS)
    ended = Delivery.objects.filter(
        state__in=[State.SUCCEEDED, State.CANCELLED], finished_at__lt=oldest
    )
    needed = Q(group__isnull=False, group__finished_at__isnull=True, group__failed_at__isnull=True)
    return ended.exclude(needed).order_by("finished_at")


def empty_groups() -> QuerySet[Group]:
    """Return groups whose members are all deleted."""
    oldest = timezone.now() - timedelta(seconds=settings.DELIVERY_RETENTION_SECONDS)
    members = Delivery.objects.filter(group_id=OuterRef("id"))
    return Group.objects.filter(~Exists(members), created_at__lt=oldest).order_by("created_at")


def expired_results() -> QuerySet[TaskResult]:
    """Return task results that are older than they are kept."""
    oldest = timezone.now() - timedelta(seconds=settings.CELERY_RESULT_EXPIRES)
    return TaskResult.objects.filter(date_done__lt=oldest).order_by("date_done")


def expired_sessions() -> QuerySet[Session]:
    """Return sessions that nobody can use any more."""
    return Session.objects.filter(expire_date__lt=timezone.now()).order_by("expire_date")


def note_canary(queue: str) -> None:
    """Note that a canary has come through this queue, now; one row for each queue."""
    Canary.objects.bulk_create(
        [Canary(queue=queue, succeeded_at=Now())],
        update_conflicts=True,
        unique_fields=["queue"],
        update_fields=["succeeded_at"],
    )

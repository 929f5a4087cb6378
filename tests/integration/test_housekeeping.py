"""Retention: what is old goes, in small pieces; what is not stays."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from django_celery_results.models import TaskResult

from housekeeping import services, tasks
from jobs.models import Job, State
from newsletters.models import Newsletter, Recipient

pytestmark = pytest.mark.django_db

LONG_AGO = timezone.now() - timedelta(days=365)


def test_old_jobs_go_with_their_rows_and_open_ones_stay() -> None:
    old = Job.objects.create(kind="newsletter", state=State.SUCCEEDED, finished_at=LONG_AGO)
    newsletter = Newsletter.objects.create(job=old, subject="s", body="b")
    Recipient.objects.create(newsletter=newsletter, position=0, address="a@b.de")
    young = Job.objects.create(kind="newsletter", state=State.FAILED, finished_at=timezone.now())
    still_open = Job.objects.create(kind="newsletter", state=State.RUNNING)
    Job.objects.filter(id=still_open.id).update(created_at=LONG_AGO)

    assert tasks.delete_old_jobs() == 3
    assert set(Job.objects.values_list("id", flat=True)) == {young.id, still_open.id}


def test_expired_results_go() -> None:
    for number in range(3):
        TaskResult.objects.create(task_id=f"t{number}")
    TaskResult.objects.filter(task_id__in=["t0", "t1"]).update(date_done=LONG_AGO)

    assert tasks.delete_expired_results() == 2
    assert TaskResult.objects.get().task_id == "t2"


def test_large_deletes_are_cut_into_small_ones() -> None:
    Job.objects.bulk_create(
        Job(kind="newsletter", state=State.SUCCEEDED, finished_at=LONG_AGO) for _ in range(25)
    )

    assert services.delete_in_batches(services.old_jobs(), batch_rows=10) == 25

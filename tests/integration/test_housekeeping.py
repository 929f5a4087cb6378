"""Retention: what is old goes, in small pieces; what is not stays."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_celery_results.models import TaskResult

from delivery.models import OPEN_STATES, Delivery, Group, QuarantinedMessage
from delivery.models import State as Ledger
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


def delivery(state: str, **values: Any) -> Delivery:
    ended = None if state in OPEN_STATES else LONG_AGO
    times = {"due_at": LONG_AGO, "created_at": LONG_AGO, "finished_at": ended}
    return Delivery.objects.create(
        task="t", queue="default", max_failures=9, state=state, **{**times, **values}
    )


def test_old_deliveries_go_but_not_dead_letters_nor_what_a_chord_still_needs() -> None:
    chords = [Group.objects.create(size=2, remaining=n) for n in (0, 1)]
    Group.objects.update(created_at=LONG_AGO)
    Group.objects.filter(id=chords[0].id).update(finished_at=LONG_AGO)
    for state in (Ledger.SUCCEEDED, Ledger.CANCELLED):
        delivery(state)
    delivery(Ledger.SUCCEEDED, group=chords[0])
    kept = {
        delivery(Ledger.SUCCEEDED, finished_at=timezone.now()).id,
        delivery(Ledger.SUCCEEDED, group=chords[1]).id,
        delivery(Ledger.DEAD).id,
        delivery(Ledger.RUNNING).id,
    }

    assert tasks.delete_old_deliveries() == 3 + 1
    assert set(Delivery.objects.values_list("id", flat=True)) == kept
    assert Group.objects.get() == chords[1]


def test_old_refused_messages_go() -> None:
    for _ in range(2):
        QuarantinedMessage.objects.create(queue="mail", reason="unsigned", size=1, content="x")
    first = QuarantinedMessage.objects.values("id")[:1]
    QuarantinedMessage.objects.filter(id__in=first).update(received_at=LONG_AGO)

    assert tasks.delete_old_quarantine() == 1
    assert QuarantinedMessage.objects.count() == 1

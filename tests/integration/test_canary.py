"""The canary: from a real beat through every queue and its worker into the table."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from django_celery_beat.models import PeriodicTask, PeriodicTasks
from redis import Redis

from config import topology
from delivery.models import Delivery
from housekeeping.models import Canary
from housekeeping.services import note_canary
from tests.support.roles import Role, running_role, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_canary_comes_through_every_queue(
    role_settings: dict[str, str],
    worker: Role,
    bulk_worker: Role,
    empty_broker: Redis,
    tmp_path: Path,
) -> None:
    with running_role(tmp_path, "beat", **role_settings) as beat:
        wait_until(lambda: "beat_leads" in beat.log, what=beat.log)
        # As if it had been sent a minute ago.
        PeriodicTask.objects.filter(name__startswith="canary-").update(
            last_run_at=timezone.now() - timedelta(seconds=topology.CANARY_PERIOD_SECONDS)
        )
        PeriodicTasks.update_changed()
        queues = {queue.name for queue in topology.QUEUES}
        wait_until(
            lambda: set(Canary.objects.values_list("queue", flat=True)) == queues,
            what=f"a trace of each: {beat.log}",
        )
    for canary in Canary.objects.all():
        assert timezone.now() - canary.succeeded_at < timedelta(minutes=1)
    rows = Delivery.objects.filter(task="housekeeping.canary")
    assert set(rows.values_list("queue", "args__0")) == {(name, name) for name in queues}


def test_a_canary_leaves_one_row_for_each_queue() -> None:
    note_canary("mail")
    Canary.objects.update(succeeded_at=timezone.now() - timedelta(hours=1))
    note_canary("mail")
    note_canary("bulk")

    assert Canary.objects.count() == 2
    assert timezone.now() - Canary.objects.get(queue="mail").succeeded_at < timedelta(minutes=1)

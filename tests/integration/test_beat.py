"""Two beats: one sends, the other takes over, and nothing is sent twice or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from operator import add
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.db import connection
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from delivery.leadership import IDLE_LIMIT_SECONDS, AdvisoryLock
from delivery.models import Delivery
from deploy.embedded.servers import PostgresServer, RedisServer, free_port, running
from housekeeping.tasks import delete_expired_sessions
from telemetry.schedulers import LEADER_LOCK, STANDBY_SECONDS, WatchedDatabaseScheduler
from tests.support.environment import PASSWORD
from tests.support.other_broker import publish_to
from tests.support.roles import (
    ENTRYPOINT,
    Role,
    role_environment,
    running_beat,
    running_role,
    wait_until,
)

pytestmark = pytest.mark.django_db(transaction=True)

#: A durable task that no beat of these tests has a reason to send, but for the entry made here.
TASK = delete_expired_sessions.name
EVERY_SECONDS = 2
#: Seconds in which a standby sends after a leader was killed: its look at the lock, the schedule it
#: reads first, and an entry that is due. The machine of the tests is slow.
TAKEOVER_SECONDS = 12.0


@pytest.fixture
def entry() -> PeriodicTask:
    """Enter a periodic task that is due every two seconds."""
    every, _ = IntervalSchedule.objects.get_or_create(every=EVERY_SECONDS, period="seconds")
    return PeriodicTask.objects.create(
        name="often", task=TASK, interval=every, expire_seconds=3600, headers='{"from": "test"}'
    )


@pytest.fixture
def beats(
    role_settings: dict[str, str], tmp_path: Path, entry: PeriodicTask
) -> Iterator[tuple[Role, Role]]:
    """Run two beats: the first leads, the second stands by."""
    with running_role(tmp_path, "beat", name="first", **role_settings) as first:
        wait_until(lambda: "beat_entry_sent" in first.log, what=f"it sends: {first.log}")
        with running_beat(tmp_path, name="second", **role_settings) as second:
            yield first, second


def sent() -> list[datetime]:
    """Return when the entry's deliveries were entered, in this order."""
    rows = Delivery.objects.filter(task=TASK).order_by("created_at")
    return list(rows.values_list("created_at", flat=True))


def assert_one_per_slot() -> None:
    moments = sent()
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    # Entered a little later than decided, sometimes more and sometimes less; doubled ones at once.
    assert min(gaps) > timedelta(seconds=EVERY_SECONDS / 4), gaps
    # One that came later in its slot makes two gaps of one.
    assert min(map(add, gaps, gaps[1:])) > timedelta(seconds=1.5 * EVERY_SECONDS), gaps


def test_one_beat_sends_and_the_other_takes_over_when_it_is_killed(
    beats: tuple[Role, Role],
) -> None:
    first, second = beats
    before = len(sent())
    wait_until(lambda: len(sent()) >= before + 3, what="the leader goes on")
    assert "beat_entry_sent" not in second.log

    os.killpg(first.process.pid, signal.SIGKILL)
    killed, before = time.monotonic(), len(sent())
    wait_until(lambda: len(sent()) > before, what=f"the standby sends: {second.log}")
    assert time.monotonic() - killed < TAKEOVER_SECONDS

    wait_until(lambda: len(sent()) >= before + 3, what="it goes on")
    assert_one_per_slot()
    row = Delivery.objects.filter(task=TASK).latest("created_at")
    assert row.options["headers"] == {
        "celery_beat_task": True, "from": "test", "periodic_task_name": "often",
    }  # fmt: skip
    assert row.expires_at is not None
    assert second.stop(timeout=15) == 0


def test_a_frozen_beat_loses_the_lead_and_sends_nothing_when_it_thaws(
    beats: tuple[Role, Role],
) -> None:
    first, second = beats
    before = len(sent())
    wait_until(lambda: len(sent()) > before, what="the leader goes on")
    time.sleep(0.5)  # between two sends: in a transaction it would keep the entry's row
    os.killpg(first.process.pid, signal.SIGSTOP)
    frozen, before = time.monotonic(), len(sent())
    try:
        wait_until(lambda: len(sent()) > before, what=f"the standby sends: {second.log}")
        assert time.monotonic() - frozen < IDLE_LIMIT_SECONDS + TAKEOVER_SECONDS
    finally:
        os.killpg(first.process.pid, signal.SIGCONT)

    wait_until(lambda: "beat_stands_by" in first.log, what="the thawed one steps down")
    lines = first.log.count("beat_entry_sent")
    before = len(sent())
    wait_until(lambda: len(sent()) >= before + 3, what="the new leader goes on")
    assert first.log.count("beat_entry_sent") == lines
    assert_one_per_slot()


def test_a_beat_waits_for_the_database_and_never_ends_because_of_it(
    redis: RedisServer, tmp_path: Path
) -> None:
    server = PostgresServer(tmp_path / "postgres", free_port(), PASSWORD)
    url = f"postgres://celeriac:{PASSWORD}@127.0.0.1:{server.port}/celeriac"
    settings = {"DATABASE_URL": url}
    try:
        with running_beat(tmp_path, **settings) as beat:
            with running(server):
                migrate = [str(ENTRYPOINT), "manage", "migrate"]
                environment = role_environment(tmp_path, "manage", settings)
                subprocess.run(migrate, env=environment, check=True, capture_output=True)
                wait_until(lambda: beat.log.count("beat_leads") == 1, what=beat.log)
            wait_until(lambda: "beat_stands_by" in beat.log, what=beat.log)
            assert beat.probe("live") == 0
            with running(server):
                wait_until(lambda: beat.log.count("beat_leads") == 2, what=beat.log)
    finally:
        server.remove()


# --- the scheduler itself, without a process of its own ------------------------------------------


@contextmanager
def scheduler() -> Iterator[WatchedDatabaseScheduler]:
    """Yield a scheduler of this process; its lock goes with it."""
    found = WatchedDatabaseScheduler(app=current_app)
    try:
        yield found
    finally:
        found._lock.release()
        found._finalize.cancel()


def tick_until_idle(one: WatchedDatabaseScheduler) -> float:
    """Tick until nothing more is due; returns the seconds it wants to sleep."""
    for _ in range(20):
        seconds = one.tick()
        if seconds > 0:
            return seconds
    raise AssertionError("it never sleeps")


def make_due(entry: PeriodicTask) -> None:
    PeriodicTask.objects.filter(pk=entry.pk).update(
        last_run_at=datetime.now(UTC) - timedelta(seconds=60)
    )


def test_only_the_holder_of_the_lock_reads_and_sends(entry: PeriodicTask) -> None:
    make_due(entry)
    with scheduler() as leader, scheduler() as standby:
        tick_until_idle(leader)
        assert len(sent()) == 1
        make_due(entry)
        assert standby.tick() == STANDBY_SECONDS
        assert standby._schedule is None
        assert len(sent()) == 1


def test_a_new_leader_sends_nothing_that_was_sent_just_now(entry: PeriodicTask) -> None:
    make_due(entry)
    with scheduler() as leader:
        tick_until_idle(leader)
    # Like a kill: the old one had no time to write its schedule, but for what it has sent.
    entry.refresh_from_db()
    assert datetime.now(UTC) - entry.last_run_at < timedelta(seconds=30)
    with scheduler() as successor:
        tick_until_idle(successor)

    assert len(sent()) == 1


def test_one_that_slept_between_decision_and_sending_finds_it_sent(entry: PeriodicTask) -> None:
    make_due(entry)
    with scheduler() as sleeper:
        sleeper._lead()
        slow = sleeper.schedule["often"]
        assert slow.is_due().is_due
        sleeper._lock.release()
        with scheduler() as leader:
            tick_until_idle(leader)
        # Minutes later it goes on where it was: in another slot, so the id would be another too.
        sleeper.reserve(slow)
        slow.model.last_run_at += timedelta(minutes=5)
        sleeper.apply_entry(slow)

    assert len(sent()) == 1


@pytest.fixture
def unwilling_database() -> Iterator[Any]:
    """Have PostgreSQL refuse deliveries as it does while it shuts down; yields what ends that."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'shutting down' USING ERRCODE = '57P03'; END $$"
        )
        cursor.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON delivery_delivery "
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
        )

    def end() -> None:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION IF EXISTS refuse CASCADE")

    yield end
    end()


def test_a_database_error_while_sending_loses_no_occurrence(
    entry: PeriodicTask, unwilling_database: Any
) -> None:
    make_due(entry)
    with scheduler() as leader:
        assert tick_until_idle(leader) == STANDBY_SECONDS
        assert not sent()

        unwilling_database()
        tick_until_idle(leader)
    assert len(sent()) == 1


def test_without_a_broker_a_durable_entry_is_stored_at_once(
    entry: PeriodicTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_to(f"redis://127.0.0.1:{free_port()}/0", monkeypatch)
    make_due(entry)
    began = time.monotonic()
    with scheduler() as leader:
        tick_until_idle(leader)

    assert len(sent()) == 1
    assert time.monotonic() - began < 20


def test_celery_adds_no_clean_up_of_its_own(entry: PeriodicTask) -> None:
    with scheduler() as leader:
        tick_until_idle(leader)

    names = set(PeriodicTask.objects.values_list("name", flat=True))
    assert "delete-expired-results" in names
    assert "celery.backend_cleanup" not in names


# --- the lock ------------------------------------------------------------------------------------


def terminate_sessions(application_name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            [application_name],
        )


def test_the_lock_has_one_holder_and_goes_with_its_session() -> None:
    first = AdvisoryLock(LEADER_LOCK, application_name="first")
    second = AdvisoryLock(LEADER_LOCK, application_name="second")
    assert first.acquire() and first.acquire()
    assert not second.acquire()

    terminate_sessions("first")
    assert not first.held()
    assert second.acquire()
    assert not first.acquire()

    second.release()
    wait_until(first.acquire, timeout=5, what="the server ended the session")
    first.release()


def test_a_lock_without_a_server_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = AdvisoryLock(LEADER_LOCK, application_name="nowhere")
    with monkeypatch.context() as patch:
        patch.setitem(connection.settings_dict, "PORT", str(free_port()))
        assert not lock.acquire()
    assert not lock.held()

"""Durable tasks from the call to the effect: a real broker, worker and relay, and what breaks."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
from celery.exceptions import TaskRevokedError
from django.core.management import call_command
from django.db import connection
from redis import Redis

from config.celery import app
from delivery import canvas, ledger, publishing
from delivery.models import Delivery, State
from delivery.relay import BOOKMARK
from deploy.embedded.servers import free_port
from tests.support import environment
from tests.support.durable_tasks import (
    add,
    effects,
    fail,
    fail_for_good,
    failed,
    kill_process,
    leave_effect,
    leave_effect_once,
    linger,
    overstay,
    session,
    total,
    watched,
)
from tests.support.roles import DURABLE_TASKS, Role, running_relay, running_role, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes"
    path.touch()
    path.chmod(0o666)
    return path


def row(delivery_id: str | UUID) -> Delivery:
    return Delivery.objects.get(id=delivery_id)


def ended(delivery_id: str | UUID, timeout: float = 30) -> Delivery:
    wait_until(
        lambda: Delivery.objects.filter(id=delivery_id, finished_at__isnull=False).exists(),
        timeout=timeout,
        what=f"{Delivery.objects.filter(id=delivery_id).values()} ends",
    )
    return row(delivery_id)


def test_a_task_runs_once_and_its_result_is_read_like_any_other(worker: Role) -> None:
    result = add.delay(1, 2)
    assert result.get(timeout=20) == 3
    assert (row(result.id).state, row(result.id).attempts) == (State.SUCCEEDED, 1)

    once = leave_effect_once.delay("x")
    assert once.get(timeout=20) == "x"
    assert effects("x") == 1


def test_a_message_that_comes_twice_makes_one_effect(worker: Role, broker: Redis) -> None:
    delivery_id = leave_effect_once.delay_on_commit("twice")
    ended(delivery_id)
    message = row(delivery_id)
    again = ledger.Message(
        message.id, message.task, message.args, message.kwargs, message.queue, message.options, 0.0
    )
    publishing.publish([again] * 5)
    wait_until(lambda: not broker.llen("default") and not broker.hlen("unacked"), what="all taken")
    assert (effects("twice"), row(delivery_id).attempts) == (1, 1)


def end_sessions_of_the_worker() -> int:
    """End them, as a restarted server would; returns how many there were."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'celeriac-worker'"
        )
        return int(cursor.fetchone()[0])


def test_a_process_keeps_its_database_session_and_survives_its_loss(worker: Role) -> None:
    """The guard of T7 (celery_guards.py): without it each task has a session of its own."""
    ran = [tuple(session.delay().get(timeout=20)) for _ in range(8)]
    assert len(set(ran)) == len({process for process, _session in ran})
    assert end_sessions_of_the_worker() >= 1
    for _ in range(4):
        delivery_id = session.delay().id
        assert ended(delivery_id, 40).state == State.SUCCEEDED


def test_a_durable_task_that_is_sent_by_its_name_is_entered_on_arrival(worker: Role) -> None:
    delivery_id = str(uuid4())
    for _ in range(3):
        app.send_task("tests.leave_effect_once", ["by name"], task_id=delivery_id)
    assert app.AsyncResult(delivery_id).get(timeout=20) == "by name"
    assert (effects("by name"), row(delivery_id).attempts) == (1, 1)


def test_failures_that_may_pass_are_retried_with_jitter_and_bounded(
    worker: Role, notes: Path
) -> None:
    passing = ended(fail.delay_on_commit(str(notes), times=2))
    assert (passing.state, passing.result, passing.failures) == (State.SUCCEEDED, 2, 2)
    assert [line.split()[0] for line in notes.read_text().splitlines()] == ["0", "1", "2"]

    hopeless = ended(fail.delay_on_commit(str(notes)))
    assert (hopeless.state, hopeless.attempts) == (State.DEAD, 3)
    assert hopeless.error == "TransientError: not yet"


def test_the_other_side_says_when_to_come_back(worker: Role, notes: Path) -> None:
    ended(fail.delay_on_commit(str(notes), times=1, retry_after=3))
    first, second = (float(line.split()[1]) for line in notes.read_text().splitlines())
    assert 3 <= second - first < 8


def test_an_error_that_does_not_pass_makes_a_dead_letter_at_once(worker: Role, notes: Path) -> None:
    dead = ended(fail_for_good.delay_on_commit(str(notes)))
    assert (dead.state, dead.error) == (State.DEAD, "PermanentError: never")
    assert notes.read_text() == "tried\n"
    with pytest.raises(Exception, match="never"):
        app.AsyncResult(str(dead.id)).get(timeout=5)


def test_a_dead_letter_is_replayed_after_the_repair(worker: Role, capsys: Any) -> None:
    delivery_id = watched.delay_on_commit("letter")
    assert ended(delivery_id).error == "ValueError: broken"
    assert effects("letter was given up: ValueError: broken") == 1

    leave_effect("letter is mended")
    call_command("deadletters", "list")
    assert delivery_id in capsys.readouterr().out
    call_command("deadletters", "replay", delivery_id)
    wait_until(lambda: effects("letter") == 1, what="the effect")
    assert ended(delivery_id).state == State.SUCCEEDED
    assert effects("letter was replayed") == 1


def test_a_task_that_kills_its_process_does_not_stop_the_others(worker: Role, notes: Path) -> None:
    delivery_id = kill_process.delay_on_commit(str(notes))
    wait_until(lambda: notes.read_text().count("tried") >= 2, what="a second attempt")
    assert add.delay(1, 2).get(timeout=20) == 3
    killed = row(delivery_id)
    assert killed.state != State.SUCCEEDED and killed.interruptions >= 1
    assert killed.error.startswith("WorkerLostError")
    Delivery.objects.filter(id=delivery_id).update(interruptions=9)
    dead = ended(delivery_id, 40)
    assert (dead.state, dead.error.split(":")[0]) == (State.DEAD, "Its worker died 10 times. Last")


def test_a_killed_process_costs_seconds_not_the_lease(worker: Role, notes: Path) -> None:
    # The second time the worker's main process has lost the session in which it noted the first.
    for name in ("slow", "slow again"):
        notes.write_text("")
        delivery_id = linger.delay_on_commit(str(notes), 2.0, name)
        wait_until(lambda: "start" in notes.read_text(), what="it runs")
        killed_at = time.monotonic()
        os.kill(int(notes.read_text().split()[1]), signal.SIGKILL)
        assert ended(delivery_id, 60).state == State.SUCCEEDED
        assert time.monotonic() - killed_at < ledger.LEASE_SECONDS
        assert effects(name) == 1
        assert (row(delivery_id).attempts, row(delivery_id).interruptions) == (2, 1)
        end_sessions_of_the_worker()


@pytest.mark.parametrize(
    ("stubborn", "reason"), [(False, "SoftTimeLimitExceeded"), (True, "TimeLimitExceeded: 4 s")]
)
def test_time_limits_make_a_dead_letter_and_no_loop(
    worker: Role, notes: Path, *, stubborn: bool, reason: str
) -> None:
    dead = ended(
        overstay.apply_on_commit(
            (str(notes),), {"stubborn": stubborn}, soft_time_limit=2, time_limit=4
        )
    )
    assert dead.state == State.DEAD
    assert dead.error.startswith(reason)
    assert notes.read_text() == "tried\n"


def test_a_task_that_lasts_longer_than_its_lease_is_not_started_twice(
    worker: Role, notes: Path
) -> None:
    delivery_id = linger.apply_on_commit(
        (str(notes), ledger.LEASE_SECONDS + 4, "long"), soft_time_limit=60, time_limit=60
    )
    done = ended(delivery_id, ledger.LEASE_SECONDS + 20)
    assert (done.state, done.attempts, effects("long")) == (State.SUCCEEDED, 1, 1)
    assert notes.read_text().count("start") == 1


def test_a_revoked_task_is_cancelled(worker: Role, notes: Path) -> None:
    delivery_id = linger.delay_on_commit(str(notes), 20.0, "revoked")
    wait_until(lambda: "start" in notes.read_text(), what="it runs")
    app.control.revoke(delivery_id, terminate=True, signal="SIGKILL")
    assert ended(delivery_id).state == State.CANCELLED
    with pytest.raises(TaskRevokedError):
        app.AsyncResult(delivery_id).get(timeout=5)


def test_a_chord_joins_real_results(worker: Role) -> None:
    body = canvas.chord([add.s(n, n) for n in range(20)], total.s("sum"), failed.s("no"))
    assert ended(body).result == sum(2 * n for n in range(20))
    assert effects("sum") == 1


def test_the_error_callback_of_a_chord_runs_once(worker: Role, notes: Path) -> None:
    body = canvas.chord(
        [fail_for_good.s(str(notes)), add.s(1, 1), fail_for_good.s(str(notes))],
        total.s("sum"),
        failed.s("no"),
    )
    wait_until(lambda: effects("no: PermanentError: never") == 1, what="the error callback")
    wait_until(lambda: notes.read_text().count("tried") == 2, what="both members")
    assert effects("no: PermanentError: never") == 1
    assert not Delivery.objects.filter(id=body).exists()


def test_what_the_broker_lost_is_published_again(
    worker: Role, broker: Redis, role_settings: dict[str, str], tmp_path: Path
) -> None:
    ids = [leave_effect_once.apply_on_commit((f"lost-{n}",), queue="bulk") for n in range(50)]
    assert broker.llen("bulk") == 50, "published, and nobody consumes that queue yet"
    broker.delete("bulk")
    broker.delete(BOOKMARK)  # as FLUSHALL does
    wait_until(lambda: broker.llen("bulk") == 50, timeout=10, what="all are published again")
    settings = {**role_settings, "WORKER_SERVICE": "worker-bulk"}
    with running_role(tmp_path, "worker", tasks=DURABLE_TASKS, **settings):
        for delivery_id in ids:
            assert ended(delivery_id, 60).attempts == 1
        # Acknowledged after the commit; what a killed worker has not is held for 15 minutes.
        wait_until(lambda: not broker.hlen("unacked"), what="all are acknowledged")
    assert all(effects(f"lost-{n}") == 1 for n in range(50))


def test_relay_survives_the_loss_of_the_broker_and_of_its_own_process(
    role_settings: dict[str, str], tmp_path: Path, transactional_db: None, monkeypatch: Any
) -> None:
    monkeypatch.setattr(publishing, "publish_or_leave", lambda _messages: None)
    url = f"redis://:{environment.PASSWORD}@127.0.0.1:{free_port()}/0"
    settings = {**role_settings, "BROKER_URL": url}
    with running_relay(tmp_path, tasks=DURABLE_TASKS, **settings) as relay:
        delivery_id = add.delay_on_commit(1, 2)
        wait_until(lambda: relay.log.count("relay_round_failed") >= 3, what="rounds that fail")
        assert relay.probe("live") == 0, "a broker that is away is no reason for a restart"
        assert row(delivery_id).state == State.DISPATCHED
        assert relay.stop(timeout=15) == 0
        assert psutil.pid_exists(relay.process.pid) is False

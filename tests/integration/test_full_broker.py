"""A Redis without room: it refuses whatever needs memory, and gives out what it has."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from celery import current_app
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import OutOfMemoryError

from delivery.models import Delivery, State
from housekeeping.tasks import delete_expired_sessions
from tests.integration.conftest import post_newsletter
from tests.support import plain_tasks, sleeping_task
from tests.support.durable_tasks import effects, leave_effect_once
from tests.support.roles import DURABLE_TASKS, Role, Web, running_role, running_worker, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

TASKS = f"{DURABLE_TASKS},tests.support.plain_tasks,tests.support.sleeping_task"


@contextmanager
def full(broker: Redis) -> Iterator[None]:
    """Leave Redis no room at all: it has reached ``maxmemory``, and may evict nothing."""
    assert broker.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    broker.config_set("maxmemory", 1)
    try:
        with pytest.raises(OutOfMemoryError):
            broker.set("anything", 1)
        yield
    finally:
        broker.config_set("maxmemory", 0)


@pytest.fixture
def worker_settings(role_settings: dict[str, str]) -> dict[str, str]:
    """Return the environment of a worker of the queue bulk that soon gives back its tasks."""
    return {
        **role_settings,
        "WORKER_SERVICE": "worker-bulk",
        "WORKER_CONCURRENCY": "2",
        "WORKER_WARM_SHUTDOWN_SECONDS": "1",
    }


@pytest.fixture
def worker(worker_settings: dict[str, str], empty_broker: Redis, tmp_path: Path) -> Iterator[Role]:
    """Run a worker of the queue bulk, with tasks of the tests."""
    with running_worker(tmp_path, name="worker-bulk", tasks=TASKS, **worker_settings) as role:
        yield role


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").split() if file.exists() else []


def events(role: Role) -> Counter[str]:
    lines = (line for line in role.log.splitlines() if line.startswith("{"))
    return Counter(json.loads(line)["event"] for line in lines)


def submit(*names: str) -> None:
    for name in names:
        leave_effect_once.apply_on_commit((name,), queue="bulk")


def test_a_worker_empties_a_full_redis_and_nothing_is_lost_or_doubled(
    worker: Role, relay_process: Role, empty_broker: Redis, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    before = [f"before-{number}" for number in range(30)]
    during = [f"during-{number}" for number in range(10)]
    worker.process.send_signal(signal.SIGSTOP)
    submit(*before)
    for number in range(30):
        plain_tasks.note.delay(number, str(notes))
    with full(empty_broker):
        worker.process.send_signal(signal.SIGCONT)
        submit(*during)
        with pytest.raises(OperationalError):
            plain_tasks.note.delay("refused", str(notes))
        wait_until(lambda: len(lines(notes)) == 30, what=f"plain tasks: {worker.log[-3000:]}")
        wait_until(lambda: all(map(effects, before)), what="durable tasks")
        wait_until(lambda: events(relay_process)["relay_round_failed"] >= 3, what="relay")
        assert worker.probe("ready") == relay_process.probe("live") == 0
    wait_until(lambda: all(map(effects, during)), what=f"the rest: {relay_process.log[-3000:]}")
    wait_until(lambda: events(worker)["broker_has_room_again"], what="it notices")

    assert worker.process.poll() is relay_process.process.poll() is None, "nobody was restarted"
    assert {effects(name) for name in (*before, *during)} == {1}
    assert sorted(map(int, lines(notes))) == list(range(30))
    assert not Delivery.objects.exclude(state=State.SUCCEEDED).exists()
    assert events(worker)["broker_is_full"] == 1
    assert "Traceback" not in worker.log
    wait_until(lambda: not empty_broker.exists("unacked", "unacked_index"), what="all acknowledged")


def test_a_worker_survives_a_question_that_it_cannot_answer(
    worker: Role, empty_broker: Redis
) -> None:
    worker.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        answers = thread.submit(current_app.control.ping, timeout=6)
        wait_until(lambda: empty_broker.exists("_kombu.binding.reply.celery.pidbox"), what="asked")
        with full(empty_broker):
            worker.process.send_signal(signal.SIGCONT)
            wait_until(lambda: "Control command error" in worker.log, what=worker.log[-3000:])
            assert answers.result() == []
            assert worker.probe("ready") == 0
    assert worker.process.poll() is None
    wait_until(lambda: current_app.control.ping(timeout=2), what="it answers the next one")


def test_a_message_that_could_not_be_noted_is_noted_once_there_is_room(
    worker: Role, empty_broker: Redis, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    worker.process.send_signal(signal.SIGSTOP)
    sleeping_task.sleep.delay(60, str(notes))
    with full(empty_broker):
        worker.process.send_signal(signal.SIGCONT)
        wait_until(lambda: lines(notes), what="the task begins")
        assert not empty_broker.exists("unacked")
    wait_until(lambda: empty_broker.hlen("unacked") == 1, timeout=20, what="it is noted")
    assert empty_broker.zcard("unacked_index") == 1

    worker.stop(timeout=30)
    assert empty_broker.llen("bulk") == 1, "and was given back"


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_message_that_cannot_be_given_back_does_not_hold_up_the_next(
    worker_settings: dict[str, str], empty_broker: Redis, tmp_path: Path, *, is_noted: bool
) -> None:
    slept, noted = tmp_path / "slept", tmp_path / "noted"
    settings = {**worker_settings, "WORKER_CONCURRENCY": "1"}
    with running_worker(tmp_path, name="worker-bulk", tasks=TASKS, **settings) as worker:
        if not is_noted:
            worker.process.send_signal(signal.SIGSTOP)
        sleeping_task.sleep.delay(60, str(slept))
        if is_noted:
            wait_until(lambda: lines(slept), what="the task begins")
            worker.process.send_signal(signal.SIGSTOP)
        for number in range(3):
            plain_tasks.note.delay(number, str(noted))
        with full(empty_broker):
            worker.process.send_signal(signal.SIGCONT)
            wait_until(lambda: lines(slept), what="the task begins")
            [child] = psutil.Process(worker.process.pid).children()
            os.kill(child.pid, signal.SIGKILL)
            wait_until(lambda: len(lines(noted)) == 3, what=f"the others: {worker.log[-5000:]}")
            assert worker.process.poll() is None
        # As what a dead worker has left: until the visibility timeout, or a stop in order.
        wait_until(lambda: empty_broker.hlen("unacked") == 1, timeout=20, what="it is noted")


def test_a_worker_stops_in_order_while_redis_is_full(
    worker: Role, empty_broker: Redis, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    sleeping_task.sleep.delay(60, str(notes))
    wait_until(lambda: lines(notes), what="the task begins")
    with full(empty_broker):
        worker.stop(timeout=30)
        assert events(worker)["messages_not_put_back"] == 1
        assert empty_broker.hlen("unacked") == 1, "left for the sweep of another worker"


def test_a_worker_starts_while_redis_is_full(
    worker_settings: dict[str, str], empty_broker: Redis, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    plain_tasks.note.delay("waited", str(notes))  # binds the queue
    with (
        full(empty_broker),
        running_worker(tmp_path, name="worker-bulk", tasks=TASKS, **worker_settings) as worker,
    ):
        wait_until(lambda: lines(notes) == ["waited"], what=f"the task: {worker.log[-3000:]}")
        assert "Traceback" not in worker.log


def test_a_worker_waits_for_room_for_what_it_needs(
    worker_settings: dict[str, str], empty_broker: Redis, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    # The binding of its queue, which a Redis that has lost its data does not have.
    empty_broker.delete("_kombu.binding.default", "_kombu.binding_permanent.default")
    with (
        full(empty_broker),
        running_role(
            tmp_path, "worker", name="worker-bulk", tasks=TASKS, **worker_settings
        ) as worker,
    ):
        wait_until(lambda: worker.log.count("FullBrokerError") >= 3, what=worker.log[-3000:])
        assert worker.probe("live") == 0
        assert worker.probe("ready") == 1
        empty_broker.config_set("maxmemory", 0)
        worker.wait_for_probe("ready")
        plain_tasks.note.delay("done", str(notes))
        wait_until(lambda: lines(notes) == ["done"], what=f"the task: {worker.log[-3000:]}")


def test_web_and_beat_go_on_and_their_work_is_published_later(
    role_settings: dict[str, str],
    web: Web,
    relay_process: Role,
    empty_broker: Redis,
    tmp_path: Path,
) -> None:
    every, _ = IntervalSchedule.objects.get_or_create(every=1, period="seconds")
    PeriodicTask.objects.create(name="often", task=delete_expired_sessions.name, interval=every)
    with full(empty_broker), running_role(tmp_path, "beat", **role_settings) as beat:
        status, _job = post_newsletter(web.url, "ada@example.com")
        assert status == 202
        sent = Delivery.objects.filter(task=delete_expired_sessions.name)
        wait_until(lambda: sent.count() >= 3, what=f"beat sends: {beat.log[-3000:]}")
        assert beat.probe("live") == relay_process.probe("live") == 0
        places = set(Delivery.objects.values_list("queue", flat=True))
        assert not empty_broker.exists(*places)
        assert beat.stop(timeout=15) == 0
    accepted = Delivery.objects.count()
    wait_until(
        lambda: sum(int(empty_broker.llen(place)) for place in places) >= accepted,
        what=f"relay: {relay_process.log[-3000:]}",
    )
    assert web.role.process.poll() is None

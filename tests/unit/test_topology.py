"""The table of queues, and everything that has to agree with it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import yaml
from celery.app.task import Task
from django.conf import settings

from config import topology
from config.celery import app
from delivery.tasks import BaseTask
from tests.support.roles import ROOT

OURS = ("console", "delivery", "housekeeping", "jobs", "newsletters", "telemetry")


def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def our_tasks() -> list[Task[Any, Any]]:
    app.loader.import_default_modules()
    return [task for name, task in app.tasks.items() if name.split(".")[0] in OURS]


def seconds(text: str) -> int:
    assert text.endswith("s"), text
    return int(text[:-1])


def test_names_and_targets_are_sensible() -> None:
    names = [queue.name for queue in topology.QUEUES]
    assert len(set(names)) == len(names)
    for queue in topology.QUEUES:
        assert queue.wait_target_seconds > 0
        assert queue.soft_time_limit_seconds < queue.hard_time_limit_seconds


def test_a_message_stays_hidden_longer_than_any_task_may_run() -> None:
    longest = max(queue.hard_time_limit_seconds for queue in topology.QUEUES)
    assert longest + topology.STOP_GRACE_SECONDS < topology.VISIBILITY_TIMEOUT_SECONDS
    assert BaseTask.retry_backoff_max < topology.VISIBILITY_TIMEOUT_SECONDS


def test_a_worker_has_time_to_stop() -> None:
    stall = 32  # seconds; docs/decisions/0008-worker-settings.md
    assert topology.LONGEST_WARM_SHUTDOWN_SECONDS + stall < topology.STOP_GRACE_SECONDS


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("newsletters.send_batch", "mail"),
        ("images.render", "bulk"),
        ("capacity.simulate", "bulk"),
        ("housekeeping.delete_old_jobs", "maintenance"),
        ("celery.backend_cleanup", "maintenance"),
        ("anything.else", "default"),
    ],
)
def test_tasks_are_routed_by_their_name(task: str, queue: str) -> None:
    assert topology.queue_for(task).name == queue
    assert app.amqp.router.route({}, task)["queue"].name == queue


def test_celery_knows_exactly_these_queues() -> None:
    assert set(app.amqp.queues) == {queue.name for queue in topology.QUEUES}
    with pytest.raises(Exception, match="mial"):
        app.amqp.router.route({"queue": "mial"}, "newsletters.send_batch")


def test_every_task_of_ours_has_the_retry_policy_and_the_limits_of_its_queue() -> None:
    tasks = our_tasks()
    assert len(tasks) >= 6
    for task in tasks:
        queue = topology.queue_for(task.name)
        assert isinstance(task, BaseTask), task.name
        assert task.acks_late and task.reject_on_worker_lost, task.name
        assert 0 < task.max_retries <= 50 and task.retry_jitter, task.name
        assert task.retry_backoff_max <= 600, task.name
        assert task.soft_time_limit == queue.soft_time_limit_seconds, task.name
        assert task.time_limit == queue.hard_time_limit_seconds, task.name


def test_every_scheduled_task_exists() -> None:
    names = {task.name for task in our_tasks()}
    assert {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()} <= names


def test_compose_runs_each_worker_service_with_its_grace() -> None:
    services = compose()["services"]
    for worker in {queue.worker for queue in topology.QUEUES}:
        service = services[worker]
        assert service["environment"]["WORKER_SERVICE"] == worker
        assert seconds(service["stop_grace_period"]) == topology.STOP_GRACE_SECONDS


def test_every_queue_is_consumed_by_one_worker_service() -> None:
    consumed = [
        queue.name
        for worker in sorted({queue.worker for queue in topology.QUEUES})
        for queue in topology.queues_of(worker)
    ]
    assert sorted(consumed) == sorted(queue.name for queue in topology.QUEUES)


def test_the_table_can_be_read_by_shell_scripts() -> None:
    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "config.topology", *arguments]
        return subprocess.run(
            command, cwd=ROOT / "app", capture_output=True, text=True, check=False
        )

    assert ask("queues", "worker").stdout == "default,mail,maintenance\n"
    assert ask("queues", "worker-bulk").stdout == "bulk\n"
    assert ask("queues", "wroker").returncode == 2
    assert "known: worker, worker-bulk" in ask("queues", "wroker").stderr
    assert ask().returncode == 2

"""What the worker's metrics rely on: Celery's private parts, the kernel's files, bounded labels."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any
from weakref import WeakSet

import psutil
import pytest
from celery.concurrency.base import BasePool
from celery.concurrency.prefork import TaskPool
from celery.worker import request, state, strategy
from celery.worker.consumer import Consumer
from prometheus_client import CollectorRegistry

from config import settings
from config.celery import app
from delivery.celery_guards import GUARDED_VERSIONS
from delivery.requests import DeliveryRequest
from telemetry import worker_memory
from telemetry.consumer import WatchedConsumer
from telemetry.worker_metrics import BORN_EXCEPTIONS, MAXIMUM_EXCEPTIONS, WorkerMetrics
from telemetry.worker_requests import MeasuredRequest

# Its stubs leave out what is private.
celery_request: Any = request
base_pool: Any = BasePool
prefork_pool: Any = TaskPool

# --- Celery --------------------------------------------------------------------------------------


def test_celery_is_the_version_that_this_was_checked_with() -> None:
    """With another one: read worker/request.py anew, then this file, then the integration test."""
    assert GUARDED_VERSIONS == {"celery": "5.7.0", "kombu": "5.7.0"}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("on_accepted", ["self", "pid", "time_accepted"]),
        ("on_timeout", ["self", "soft", "timeout"]),
        ("on_failure", ["self", "exc_info", "send_failed_event", "return_ok"]),
        ("send_event", ["self", "type", "fields"]),
    ],
)
def test_celery_calls_a_request_as_ours_expects(name: str, parameters: list[str]) -> None:
    for owner in (celery_request.Request, MeasuredRequest):
        assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def test_celery_calls_a_consumer_as_ours_expects() -> None:
    for owner in (Consumer, WatchedConsumer):
        parameters = list(inspect.signature(owner.on_unknown_task).parameters)
        assert parameters == ["self", "body", "message", "exc"]


def test_celery_announces_the_ends_that_ours_knows_and_no_other() -> None:
    announced = re.findall(r"'(task-\w+)'", inspect.getsource(celery_request))
    ours = re.findall(r'"(task-\w+)"', inspect.getsource(MeasuredRequest.send_event))
    assert set(announced) == {*ours, "task-started"}


def test_what_is_read_of_celery_is_there() -> None:
    unsent = celery_request.Request
    assert (unsent._already_revoked, unsent._already_cancelled, unsent.time_start) == (
        False, False, None,
    )  # fmt: skip
    for name in ("active_requests", "reserved_requests", "scheduled_requests"):
        assert isinstance(getattr(state, name), WeakSet)
    assert isinstance(base_pool.num_processes, property)
    assert base_pool._pool is None
    assert "for p in self._pool._pool" in inspect.getsource(prefork_pool._get_info)
    assert "consume_from" in dir(app.amqp.queues)
    assert "symbol_by_name(task.Request)" in inspect.getsource(strategy.default)
    assert "add_task_queue" in vars(Consumer)


def test_success_is_announced_because_events_are_on() -> None:
    """The class that Celery makes of ours announces it only if they were on at the start."""
    assert settings.CELERY_WORKER_SEND_TASK_EVENTS is True
    made = inspect.getsource(celery_request.create_request_cls)
    assert "events = eventer and eventer.enabled" in made
    assert (
        "if events:\n                self.send_event(\n                    'task-succeeded'" in made
    )


def test_every_task_has_the_request_that_is_replaced_by_the_measured_one() -> None:
    app.loader.import_default_modules()
    assert app.tasks
    for task in app.tasks.values():
        assert task.Request in {"delivery.requests:DeliveryRequest", DeliveryRequest}, task.name


# --- Labels --------------------------------------------------------------------------------------


def test_names_of_exceptions_are_bounded() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, {"default": 5})
    series = metrics.task("tests.add", "default")
    for number in range(10 * MAXIMUM_EXCEPTIONS):
        series.failed(f"Error{number}")

    [failed] = [family for family in registry.collect() if family.name == "celery_task_failed"]
    by_exception = {sample.labels["exception"]: sample.value for sample in failed.samples}
    assert len(by_exception) == MAXIMUM_EXCEPTIONS
    assert sum(by_exception.values()) == 10 * MAXIMUM_EXCEPTIONS
    assert by_exception["Other"] == 9 * MAXIMUM_EXCEPTIONS + len(BORN_EXCEPTIONS)


# --- Memory --------------------------------------------------------------------------------------


def test_resident_memory_is_that_of_the_kernel_and_of_processes_that_are_there() -> None:
    ours = worker_memory.resident_bytes([os.getpid(), 2**22 + 1])
    assert ours == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)


@pytest.mark.parametrize(
    ("groups", "limits", "limit"),
    [
        ("0::/", {"memory.max": "1000\n"}, 1000),
        ("0::/", {"memory.max": "max\n"}, 0),
        ("0::/", {}, 0),
        ("", {"memory.max": "1000\n"}, 0),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "500", "memory.max": "900"}, 500),
        (
            "5:cpu:/x\n4:memory:/a\n0::/",
            {"memory/a/memory.limit_in_bytes": "700", "memory/memory.limit_in_bytes": "800"},
            700,
        ),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 0),
    ],
    ids=["version 2", "no limit", "no file", "no groups", "nested", "version 1", "1, no limit"],
)
def test_the_limit_is_the_smallest_of_all_control_groups_around(
    tmp_path: Path, groups: str, limits: dict[str, str], limit: int
) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(groups, encoding="utf-8")
    for name, text in limits.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    assert worker_memory.limit_bytes(tmp_path / "proc", tmp_path / "groups") == limit

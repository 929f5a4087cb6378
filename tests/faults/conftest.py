"""The systems under test, the frame of a scenario, and the table at the end."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.load import RECOVERY_SECONDS, Load
from tests.faults.report import Row, table
from tests.faults.targets import containers, embedded, plain
from tests.faults.targets.target import Target
from tests.stack.conftest import engine_fault

RUNNERS = {
    "containers": containers.running,
    "embedded": embedded.running,
    "plain": plain.running,
}
ROWS: pytest.StashKey[list[Row]] = pytest.StashKey()

Experiment = Callable[..., AbstractContextManager[Load]]


def pytest_configure(config: pytest.Config) -> None:
    """Begin an empty table."""
    config.stash[ROWS] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a scenario on each system that its mark names."""
    if "target" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("targets")
    assert marker, f"{metafunc.function.__name__} does not say which targets it is for"
    metafunc.parametrize("running_target", marker.args, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the systems that are not wanted."""
    left_out = [
        item
        for item in items
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and item.callspec.params.get("running_target", "") not in ("", *wanted_targets(item))
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def wanted_targets(item: pytest.Item) -> list[str]:
    """Return the systems that ``FAULT_TARGETS`` names.

    Without it, as in CI: both runtimes of the stack, but a scenario that is marked with ``once``
    runs on that one only (README.md).
    """
    if named := os.environ.get("FAULT_TARGETS"):
        return named.split(",")
    once = item.get_closest_marker("once")
    return [*once.args] if once else ["containers", "embedded"]


@pytest.fixture(scope="session")
def running_target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """Run a system for all scenarios that hurt it."""
    name = request.param
    fault = engine_fault() if name == "containers" else None
    if fault and not os.environ.get("CI"):
        pytest.skip(f"needs a Docker engine: {fault}")
    assert not fault, f"CI must run the fault suite, but there is no Docker engine: {fault}"
    with RUNNERS[name](tmp_path_factory.mktemp(name)) as target:
        yield target
        target.assert_nothing_came_late()


@pytest.fixture
def target(running_target: Target) -> Iterator[Target]:
    """Return the system, ready for the next fault; afterwards undo what is left of the last."""
    running_target.wait_until_ready()
    yield running_target
    running_target.heal()


@pytest.fixture
def experiment(target: Target, request: pytest.FixtureRequest) -> Experiment:
    """Return the frame of a scenario.

    ``with experiment("redis killed") as load:`` submits work while the body injects the fault. When
    the body ends, so does the fault: what follows is the wait for the last effect, the count, a row
    in the table, and the assertion that nothing was lost and nothing was doubled. With
    ``plain_loses`` plain Celery must lose something: else the suite would see nothing.
    """
    rows = request.config.stash[ROWS]

    @contextmanager
    def run(
        fault: str, *, submit: bool = True, plain_loses: bool = False, **options: Any
    ) -> Iterator[Load]:
        load = Load(target, **options)
        thread = load.start() if submit else None
        passed = False
        try:
            yield load
            ended = time.time()
            if thread:
                thread.join(RECOVERY_SECONDS)
            load.wait_for_all()
            passed = True
        finally:
            load.leave()
            count = load.settle()
            target.counts[fault] = load.run, count
            seconds = max(0.0, count.last_effect - ended) if passed else math.nan
            kept = count.lost == count.doubled == count.unasked == 0
            expected = kept if target.keeps_promises else count.lost or not plain_loses
            passed = passed and bool(expected)
            numbers = (count.submitted, count.lost, count.doubled)
            rows.append(Row(fault, target.name, *numbers, seconds, passed))
        assert load.accepted <= target.ledger.submissions(load.run), "accepted, but not stored"
        assert expected, f"{fault}: {count}"
        if target.keeps_promises:
            assert count.submitted == load.total, "not everything could be submitted"

    return run


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table, and write it to the file that ``FAULTS_REPORT`` names."""
    rows = config.stash[ROWS]
    if not rows:
        return
    text = table(rows)
    terminalreporter.write_sep("=", "faults")
    terminalreporter.write_line(text)
    if path := os.environ.get("FAULTS_REPORT"):
        Path(path).write_text(f"{text}\n", encoding="utf-8")

"""Tasks that hurt the system from inside: they kill their process, fail, or never end."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest

from tests.faults.conftest import Experiment
from tests.faults.load import Load
from tests.faults.targets.containers import ContainersTarget
from tests.faults.targets.target import Target, delivery_id
from tests.support.roles import wait_until

pytestmark = pytest.mark.timeout(600)

#: Of each kind.
BAD_TASKS = 3
#: Seconds until the last of them is a dead letter: ten deaths with growing pauses (ledger.py).
END_SECONDS = 300.0


def all_are_dead_letters(target: Target, load: Load) -> bool:
    """Whether the application's ledger has given up every number of a run."""
    keys = [delivery_id(load.run, number) for number in range(load.total)]
    [(dead,)] = target.ledger.ask(
        "SELECT count(*) FROM delivery_delivery WHERE id::text = ANY(%s) AND state = 'dead'", [keys]
    )
    return bool(dead == load.total)


@pytest.mark.targets("containers", "embedded")
@pytest.mark.once("embedded")
def test_tasks_that_end_badly_end_and_hold_up_nobody(
    target: Target, experiment: Experiment
) -> None:
    limits = {"soft_time_limit": 3, "time_limit": 6}
    bad = {
        "poison": Load(target, BAD_TASKS, "kill_own_process", {}),
        "failure": Load(target, BAD_TASKS, "fail", {}),
        "soft limit": Load(target, BAD_TASKS, "sleep_past_limits", {"stubborn": False}, limits),
        "hard limit": Load(target, BAD_TASKS, "sleep_past_limits", {"stubborn": True}, limits),
    }
    mains = target.mains()
    with experiment("tasks that kill, fail and never end"):
        for load in bad.values():
            load.submit_all()

    for what, load in bad.items():
        wait_until(
            partial(all_are_dead_letters, target, load),
            timeout=END_SECONDS,
            what=f"all tasks with {what} are dead letters",
        )
    starts = {what: target.ledger.starts(load.run) for what, load in bad.items()}
    once = dict.fromkeys(range(BAD_TASKS), 1)
    assert starts["failure"] == starts["soft limit"] == starts["hard limit"] == once
    assert starts["poison"] == dict.fromkeys(range(BAD_TASKS), 10)
    assert target.mains() == mains


@pytest.mark.targets("containers")
def test_the_image_holds_the_versions_that_the_guards_are_for(target: ContainersTarget) -> None:
    code = "from importlib.metadata import version; print(version('celery'), version('kombu'))"
    assert target.run("worker", "python", "-c", code).split() == ["5.7.0", "5.7.0"]


def test_no_package_contradicts_another() -> None:
    subprocess.run([sys.executable, "-m", "pip", "check"], check=True, capture_output=True)

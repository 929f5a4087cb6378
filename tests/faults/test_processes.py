"""Processes that are killed, stopped and frozen in mid-load."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.conftest import Experiment
from tests.faults.load import TASKS, batches
from tests.faults.targets.containers import ContainersTarget
from tests.faults.targets.target import StackTarget, Target
from tests.support.roles import wait_until

pytestmark = pytest.mark.timeout(600)

#: Seconds for which workers stand still: longer than the lease of a delivery.
FREEZE_SECONDS = 40.0
#: Longer than that: who sleeps through the time limit of its task is killed, and its task is dead.
LIMITS = {"soft_time_limit": 100, "time_limit": 120}


@pytest.mark.targets("containers", "embedded", "plain")
def test_worker_killed(target: Target, experiment: Experiment) -> None:
    with experiment("workers killed, twice (kill -9)", plain_loses=True) as load:
        for share in (0.15, 0.4):
            load.reach(share)
            for service in target.workers:
                target.send_to_main(service, signal.SIGKILL)


@pytest.mark.targets("containers", "embedded", "plain")
@pytest.mark.once("embedded")
def test_pool_processes_killed(target: Target, experiment: Experiment) -> None:
    mains = target.mains()
    with experiment("all pool processes killed, 3 times (kill -9)") as load:
        for share in (0.1, 0.3, 0.5):
            load.reach(share)
            for service in target.workers:
                target.send_to_children(service, signal.SIGKILL)
    if target.keeps_promises:
        assert target.mains() == mains, "the main processes live on"


@pytest.mark.targets("containers", "embedded")
@pytest.mark.once("embedded")
def test_tasks_that_fail_at_first_in_workers_that_are_killed(
    target: Target, experiment: Experiment
) -> None:
    with experiment(
        "tasks that fail twice, workers killed",
        kind="fail_at_first",
        options={"failures": 2},
        total=TASKS // 4,
    ) as load:
        load.reach(0.1)
        target.send_to_main("worker", signal.SIGKILL)
    assert min(target.ledger.starts(load.run).values()) >= 3


@pytest.mark.targets("containers", "embedded", "plain")
def test_workers_stopped_in_load(target: Target, experiment: Experiment) -> None:
    with experiment("workers stopped and started (TERM)") as load:
        load.reach(0.3)
        stale = target.broker.hlen("unacked")
        statuses = {service: target.stop(service) for service in target.workers}
        assert set(statuses.values()) == {0}, statuses
        if target.keeps_promises:
            left = target.broker.hlen("unacked")
            assert left <= stale, "the messages in their hands were given back"
        for service in target.workers:
            target.start(service)


@pytest.mark.targets("containers")
def test_tasks_longer_than_the_grace_of_a_stop(target: Target, experiment: Experiment) -> None:
    """The stack of this suite gives running tasks 5 s."""
    with experiment(
        "workers stopped, tasks longer than the grace",
        options={"seconds": 10},
        total=12,
    ) as load:
        wait_until(lambda: len(load.accepted) == load.total, what="all are accepted")
        time.sleep(3)
        began = time.monotonic()
        assert target.stop("worker") == 0
        assert time.monotonic() - began < 45, "5 s, and at most 32 s of a known stall"
        target.start("worker")


@pytest.mark.targets("containers", "embedded")
@pytest.mark.once("embedded")
def test_workers_frozen_beyond_their_leases(target: Target, experiment: Experiment) -> None:
    with experiment(
        f"workers frozen for {FREEZE_SECONDS:g} s (STOP)", message_options=LIMITS
    ) as load:
        load.reach(0.2)
        for service in target.workers:
            target.freeze(service)
        time.sleep(FREEZE_SECONDS)
        for service in target.workers:
            target.thaw(service)


@pytest.mark.targets("containers")
def test_pool_processes_frozen_beyond_their_leases(
    target: ContainersTarget, experiment: Experiment
) -> None:
    """Another worker takes over meanwhile; then the frozen ones wake up in mid-task."""
    target.second("worker")
    target.wait_until_ready()
    try:
        with experiment(
            f"pool frozen for {FREEZE_SECONDS:g} s, another worker", message_options=LIMITS
        ) as load:
            load.reach(0.1)
            replica = target.processes("worker")[0]
            target.send_signal(replica, signal.SIGSTOP, *replica.children)
            time.sleep(FREEZE_SECONDS)
            target.send_signal(replica, signal.SIGCONT, *replica.children)
    finally:
        target.only("worker")


@pytest.mark.targets("containers", "embedded", "plain")
@pytest.mark.once("embedded")
def test_crash_between_commit_and_publish(target: Target, experiment: Experiment) -> None:
    with experiment(
        "web killed between commit and publish", submit=False, plain_loses=True
    ) as load:
        for numbers in batches(range(load.total)):
            while not target.ledger.submissions(load.run).issuperset(numbers):
                assert not load.submit(numbers, crash=True), "a dead process answers nobody"


@pytest.mark.targets("containers")
def test_relays_killed_at_work(target: ContainersTarget, experiment: Experiment) -> None:
    """Nothing but the relays publishes here: the orders came while there was no broker."""
    target.second("relay")
    try:
        with experiment("two relays, killed at work (kill -9)") as load:
            target.stop("redis")
            wait_until(
                lambda: len(load.accepted) == load.total, timeout=120, what="all are accepted"
            )
            target.start("redis")
            for share in (0.01, 0.2):
                load.reach(share)
                for replica in target.processes("relay"):
                    target.send_signal(replica, signal.SIGKILL, replica.main)
    finally:
        target.only("relay")


@pytest.mark.targets("embedded")
def test_relay_killed_at_work(target: StackTarget, experiment: Experiment) -> None:
    with experiment("the relay killed at work (kill -9)") as load:
        target.stop("redis")
        wait_until(lambda: len(load.accepted) == load.total, timeout=120, what="all are accepted")
        target.start("redis")
        for share in (0.01, 0.2):
            load.reach(share)
            target.send_to_main("relay", signal.SIGKILL)

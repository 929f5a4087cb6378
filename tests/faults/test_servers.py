"""Redis and PostgreSQL that stop, die, freeze and forget."""

from __future__ import annotations

import os
import time

import pytest

from tests.faults.conftest import Experiment
from tests.faults.targets.target import ANSWER_SECONDS, Target
from tests.support.roles import wait_until

pytestmark = pytest.mark.timeout(600)

#: Seconds that Redis is frozen.
FREEZE_SECONDS = float(os.environ.get("FAULT_FREEZE_SECONDS", "30"))
#: Seconds that Redis is away: longer than a heartbeat may be old (telemetry/probes.py).
OUTAGE_SECONDS = float(os.environ.get("FAULT_OUTAGE_SECONDS", "75"))
#: Seconds that Redis is full: some sweeps of the workers, which come every 5 s.
FULL_SECONDS = 15
#: In order. That a server comes back with its data is harder after a kill.
STOP = pytest.param("stop", marks=pytest.mark.once("embedded"))


@pytest.mark.targets("containers", "embedded", "plain")
@pytest.mark.parametrize("how", [STOP, "kill"])
def test_redis_goes_away_for_seconds(target: Target, experiment: Experiment, how: str) -> None:
    word = {"stop": "stopped", "kill": "killed (kill -9)"}[how]
    mains = target.mains()
    with experiment(f"Redis {word}, 8 s down") as load:
        load.reach(0.2)
        getattr(target, how)("redis")
        time.sleep(8)
        target.start("redis")
    if target.keeps_promises:
        assert target.mains() == mains, "no worker was restarted"
        assert load.slowest_answer < ANSWER_SECONDS


@pytest.mark.targets("containers")
def test_ten_restarts_of_redis(target: Target, experiment: Experiment) -> None:
    mains = target.mains()
    with experiment("Redis restarted, 10 times") as load:
        load.reach(0.1)
        for _ in range(10):
            target.restart("redis")
            time.sleep(0.5)
    assert target.mains() == mains, "no worker was restarted"
    assert target.stop("worker") == 0, "and it still stops in order"


@pytest.mark.targets("containers", "embedded", "plain")
@pytest.mark.once("embedded")
def test_redis_forgets_everything(target: Target, experiment: Experiment) -> None:
    with experiment("FLUSHALL, twice", plain_loses=True) as load:
        for share in (0.15, 0.4):
            load.reach(share)
            target.broker.flushall()


@pytest.mark.targets("containers", "embedded")
@pytest.mark.once("embedded")
def test_redis_frozen(target: Target, experiment: Experiment) -> None:
    # Orders come all the time, so that some meet the frozen broker.
    with experiment(f"Redis frozen for {FREEZE_SECONDS:g} s", orders_per_second=0.5) as load:
        load.reach(0.1)
        target.freeze("redis")
        before = len(load.accepted)
        time.sleep(FREEZE_SECONDS)
        assert len(load.accepted) > before, "what is asked for is accepted"
        target.thaw("redis")
    assert load.slowest_answer < ANSWER_SECONDS, "nobody waits for a frozen broker"


@pytest.mark.targets("containers", "embedded")
@pytest.mark.once("embedded")
def test_redis_full(target: Target, experiment: Experiment) -> None:
    mains = target.mains()
    room = str(target.broker.config_get("maxmemory")["maxmemory"])
    with experiment(f"Redis full for {FULL_SECONDS} s") as load:
        load.reach(0.2)
        try:
            target.broker.config_set("maxmemory", 1)
            time.sleep(FULL_SECONDS)
            for service in target.loops:
                assert target.probe(service, "live"), f"{service}: a restart would help nobody"
        finally:
            target.broker.config_set("maxmemory", room)
    assert target.mains() == mains, "no worker was restarted"
    assert load.slowest_answer < ANSWER_SECONDS


@pytest.mark.targets("containers", "embedded", "plain")
@pytest.mark.once("embedded")
def test_orders_without_a_broker(target: Target, experiment: Experiment) -> None:
    target.stop("redis")
    with experiment("no Redis while orders come", plain_loses=True) as load:
        if target.keeps_promises:
            wait_until(
                lambda: len(load.accepted) == load.total, timeout=120, what="all are accepted"
            )
            assert load.refusals == 0, "each request was accepted at once"
            assert load.slowest_answer < ANSWER_SECONDS
        else:
            wait_until(lambda: load.refusals >= 3, timeout=120, what="requests fail")
        target.start("redis")


@pytest.mark.targets("containers")
def test_no_worker_is_restarted_in_a_long_outage_of_redis(
    target: Target, experiment: Experiment
) -> None:
    mains = target.mains()
    with experiment(f"Redis stopped, {OUTAGE_SECONDS:g} s down") as load:
        load.reach(0.2)
        target.stop("redis")
        for _ in range(int(OUTAGE_SECONDS / 5)):
            time.sleep(5)
            for service in target.workers:
                assert target.probe(service, "live"), f"{service}: a restart would help nobody"
        target.start("redis")
    assert target.mains() == mains


@pytest.mark.targets("containers", "embedded", "plain")
@pytest.mark.parametrize("how", [STOP, "kill"])
def test_postgresql_goes_away_for_seconds(target: Target, experiment: Experiment, how: str) -> None:
    word = {"stop": "stopped", "kill": "killed (kill -9)"}[how]
    mains = target.mains()
    with experiment(f"PostgreSQL {word}, 5 s down, twice", options={"seconds": 0.1}) as load:
        for share in (0.15, 0.4):
            load.reach(share)
            getattr(target, how)("postgres")
            time.sleep(5)
            target.start("postgres")
    if target.keeps_promises:
        assert target.mains() == mains, "no worker was restarted"

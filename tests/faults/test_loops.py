"""Loops that stand still, and two schedulers at once."""

from __future__ import annotations

import math
import signal
import time
from functools import partial

import pytest

from tests.faults.conftest import ROWS
from tests.faults.report import Row
from tests.faults.targets.containers import ContainersTarget
from tests.faults.targets.target import Target
from tests.support.roles import wait_until

pytestmark = pytest.mark.timeout(600)

#: Seconds between two ticks (application/fault_settings.py).
TICK_SECONDS = 2.0
WATCH_SECONDS = 24.0
#: Seconds in which another beat takes over from one that has ended.
TAKE_OVER_SECONDS = 20.0
#: Seconds by which the last notes of frozen loops are made older. A note may be 60 s old
#: (telemetry/probes.py); a loop that turns writes a young one every 5 s.
PASSED_SECONDS = 30.0
#: Seconds until a probe notices.
NOTICE_SECONDS = 75.0


def ticks(target: Target, since: float) -> list[float]:
    """Return when the periodic task had its effect, from a moment on."""
    rows = target.ledger.ask(
        "SELECT extract(epoch FROM at)::float8 FROM fault_effects"
        " WHERE run = 'tick' AND at > to_timestamp(%s) ORDER BY at",
        [since],
    )
    return [at for (at,) in rows]


def is_noticed(target: Target, service: str) -> bool:
    """Whether the probe of a service says that it stands still."""
    return not target.probe(service, "live")


@pytest.mark.targets("containers")
def test_two_beats_fire_once_for_each_slot(
    target: ContainersTarget, request: pytest.FixtureRequest
) -> None:
    target.second("beat")
    try:
        wait_until(lambda: target.probe("beat", "live"), timeout=60, what="both beats are live")
        began = time.time()
        time.sleep(WATCH_SECONDS)
        fired = len(ticks(target, began))
        due = WATCH_SECONDS / TICK_SECONDS
        doubled, lost = max(0, fired - math.ceil(due) - 1), max(0, math.floor(due) - 2 - fired)

        slowest = 0.0
        for container in target.containers("beat"):
            container.stop()
            stopped = time.time()
            wait_until(
                partial(ticks, target, stopped),
                timeout=TAKE_OVER_SECONDS,
                what="the other beat goes on",
            )
            slowest = max(slowest, ticks(target, stopped)[0] - stopped)
            container.start()
            wait_until(lambda: target.probe("beat", "live"), timeout=60, what="both are back")
    finally:
        target.only("beat")
    request.config.stash[ROWS].append(
        Row("two beats, each stopped in turn", target.name, fired, lost, doubled, slowest,
            passed=not lost and not doubled)
    )  # fmt: skip
    assert not doubled, f"{fired} ticks in {WATCH_SECONDS:g} s"
    assert not lost, f"{fired} ticks in {WATCH_SECONDS:g} s"


@pytest.mark.targets("containers")
def test_probes_notice_loops_that_stand_still(target: ContainersTarget) -> None:
    frozen = ("worker", "beat", "relay")
    try:
        for service in frozen:
            assert target.probe(service, "live")
            target.send_to_main(service, signal.SIGSTOP)
            target.make_note_older(service, PASSED_SECONDS)
            assert target.probe(service, "live"), "a note may be as old as that"
        for service in frozen:
            wait_until(
                partial(is_noticed, target, service),
                timeout=NOTICE_SECONDS,
                what=f"the probe of {service} fails",
            )
    finally:
        for service in frozen:
            target.send_to_main(service, signal.SIGCONT)

"""Everything at once, at random: what no list of faults has thought of."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from typing import Final

import pytest

from tests.faults.conftest import Experiment
from tests.faults.load import NUMBERS_IN_ORDER, Load, batches
from tests.faults.targets.target import StackTarget

#: Seconds for which things go wrong.
SECONDS = float(os.environ.get("FAULT_CHAOS_SECONDS", "60"))
#: Repeats the same choices; their effect depends on the moment, of course.
SEED = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(10_000))
#: Tasks submitted in a second, all the time.
RATE = 20
#: Seconds between two kills, at most.
PAUSE_SECONDS = 4.0

pytestmark = pytest.mark.timeout(SECONDS + 900)

#: What is killed at random: service, and whether one of its children instead of its main process.
VICTIMS: Final = (
    ("web", False), ("web", True), ("worker", False), ("worker", True), ("worker-bulk", False),
    ("worker-bulk", True), ("relay", False), ("beat", False),
)  # fmt: skip


def kill_somebody(target: StackTarget, dice: random.Random) -> str:
    """Kill a process chosen at random; returns which."""
    service, child = dice.choice(VICTIMS)
    replicas = target.processes(service)
    if not replicas or (child and not replicas[0].children):
        return f"{service} is down already"
    pid = dice.choice(replicas[0].children) if child else replicas[0].main
    target.send_signal(replicas[0], signal.SIGKILL, pid)
    return f"killed {'a child' if child else 'the main process'} of {service}"


def crash_web(load: Load) -> str:
    """Have a web process accept more numbers and die before it publishes them."""
    numbers = range(load.total, load.total + NUMBERS_IN_ORDER)
    load.total += NUMBERS_IN_ORDER
    load.submit(numbers, crash=True)
    return "web died between commit and publish"


def plan(target: StackTarget, load: Load) -> list[tuple[float, Callable[[], object], str]]:
    """Return what happens to the servers, and when, as shares of the time."""
    return [
        (0.10, lambda: crash_web(load), "crash"),
        (0.20, target.broker.flushall, "FLUSHALL"),
        (0.30, lambda: target.stop("postgres"), "PostgreSQL stopped"),
        (0.33, lambda: target.start("postgres"), "PostgreSQL started"),
        (0.45, lambda: target.freeze("redis"), "Redis frozen"),
        (0.45 + min(30.0, SECONDS / 5) / SECONDS, lambda: target.thaw("redis"), "Redis thawed"),
        (0.68, lambda: target.kill("redis"), "Redis killed"),
        (0.72, lambda: target.start("redis"), "Redis started"),
        (0.80, lambda: target.kill("postgres"), "PostgreSQL killed"),
        (0.83, lambda: target.start("postgres"), "PostgreSQL started"),
        (0.90, lambda: crash_web(load), "crash"),
        (0.95, target.broker.flushall, "FLUSHALL"),
    ]


@pytest.mark.targets("containers")
def test_anything_at_any_time(target: StackTarget, experiment: Experiment) -> None:
    dice = random.Random(SEED)
    with experiment(
        f"chaos for {SECONDS:g} s (FAULT_SEED={SEED})",
        total=int(SECONDS * RATE),
        orders_per_second=RATE / NUMBERS_IN_ORDER,
    ) as load:
        began = time.monotonic()
        for share, act, what in plan(target, load):
            while time.monotonic() - began < share * SECONDS:
                event = kill_somebody(target, dice)
                print(f"{time.monotonic() - began:6.1f} s  {event}")  # noqa: T201 - for the reader
                time.sleep(dice.uniform(0.5, PAUSE_SECONDS))
            act()
            print(f"{time.monotonic() - began:6.1f} s  {what}")  # noqa: T201
        target.wait_until_ready()
        missing = set(range(load.total)) - target.ledger.submissions(load.run)
        for numbers in batches(sorted(number for number in missing if number >= SECONDS * RATE)):
            assert load.submit(numbers), "the client of a web process that died asks again"

"""What keeps messages waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.observability.faults.fault import Fault, expected, repeating
from tests.observability.victim import Victim

#: Seconds of a pause that nobody ends; longer than the alerts take.
PAUSE_SECONDS = 120.0
#: Messages that wait during it.
WAITING = 20
#: Messages that wait during a flood: three times what the target of the copy allows (hurry.py).
BACKLOG = 20


@contextmanager
def _alive_and_taking_nothing(victim: Victim) -> Iterator[None]:
    """Have the workers of one service stay connected, answer, and ask for no message."""
    answers = victim.control("pause_consuming", seconds=PAUSE_SECONDS)
    assert answers
    assert all("ok" in answer for answer in answers.values())
    victim.publish("causes.succeed", WAITING)
    try:
        yield
    finally:
        victim.control("resume_consuming")


@contextmanager
def _nobody_subscribes(victim: Victim) -> Iterator[None]:
    victim.control("cancel_consumer", queue="bulk")
    victim.publish("causes.succeed", options={"queue": "bulk"})
    try:
        yield
    finally:
        victim.control("add_consumer", queue="bulk")


@contextmanager
def _too_much_work(victim: Victim) -> Iterator[None]:
    """Have always as much wait as takes six processes six seconds, however slow a machine is."""

    def top_up() -> None:
        missing = BACKLOG - victim.redis.llen("default")
        if missing > 0:
            victim.publish("causes.sleep", missing, seconds=1.8)

    with repeating(top_up):
        yield


PAUSED = Fault(
    "workers are alive, answer, and take no messages",
    _alive_and_taking_nothing,
    (
        expected("CeleryWorkerIdleWhileQueueWaits", queue_name="default", service="worker"),
        expected("CeleryWorkerNotConsuming", service="worker"),
        expected("CeleryQueueStalled", queue_name="default"),
        expected("CeleryQueueOldestMessageTooOld", queue_name="default"),
        expected("CeleryCanaryMissing", queue_name="default"),
    ),
)
NO_CONSUMER = Fault(
    "no worker subscribes to a queue",
    _nobody_subscribes,
    (expected("CeleryQueueHasNoConsumer", queue_name="bulk"),),
)
FLOOD = Fault(
    "more work comes than the workers can do",
    _too_much_work,
    (
        expected("CeleryWorkersSaturated", queue_name="default"),
        expected("CeleryQueueingErrorBudgetBurnFast", queue_name="default"),
        expected("CeleryQueueingErrorBudgetBurnSlow", queue_name="default"),
    ),
    patience=90.0,
)

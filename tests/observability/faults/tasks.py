"""What goes wrong with tasks and messages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.observability.faults.fault import Fault, expected
from tests.observability.hurry import HARD_LIMIT_SECONDS, VISIBILITY_TIMEOUT_SECONDS
from tests.observability.victim import Victim

#: What the application calls the task whose code is gone.
REMOVED = "causes.removed"
#: Calls of a task that fails: more than the slow alert wants to see before it believes a share.
FAILURES = 30
#: Parts in which they are called, a second apart.
BURSTS = 5


@contextmanager
def _fails(victim: Victim) -> Iterator[None]:
    # Not all at once: one jump of a counter is in a window of six seconds for less than that.
    for _ in range(BURSTS):
        victim.publish("causes.fail", FAILURES // BURSTS, works=False)
        time.sleep(1)
    yield
    # Else it would be a task that has not succeeded for a day.
    victim.publish("causes.fail", works=True)


@contextmanager
def _fails_each_night(victim: Victim) -> Iterator[None]:
    victim.publish("causes.nightly", works=False)
    yield
    victim.publish("causes.nightly", works=True)


@contextmanager
def _kills_its_process(victim: Victim) -> Iterator[None]:
    victim.publish("causes.kill_own_process")
    yield


@contextmanager
def _outlives_its_limit(victim: Victim) -> Iterator[None]:
    """Call a task with a time limit of its own, far above that of its queue."""
    limits = {"soft_time_limit": 60, "time_limit": 60}
    victim.publish("causes.sleep", options=limits, seconds=3.0 * HARD_LIMIT_SECONDS)
    yield


@contextmanager
def _due_too_late(victim: Victim) -> Iterator[None]:
    """Call a plain task for a time at which its message has been given to another worker."""
    victim.publish("causes.plain", options={"countdown": 3 * VISIBILITY_TIMEOUT_SECONDS})
    yield


@contextmanager
def _forged(victim: Victim) -> Iterator[None]:
    victim.post("/causes/forge", {})
    yield


@contextmanager
def _code_is_gone(victim: Victim) -> Iterator[None]:
    victim.post("/causes/publish-unknown", {})
    yield
    with victim.session() as session:
        session.execute("DELETE FROM delivery_delivery WHERE task = %s", [REMOVED])


FAILING = Fault(
    f"a task fails for good, {FAILURES} times",
    _fails,
    (
        expected("CeleryTaskFailing", name="causes.fail"),
        expected("CeleryExecutionErrorBudgetBurnFast", name="causes.fail"),
        expected("CeleryExecutionErrorBudgetBurnSlow", name="causes.fail"),
        expected("CeleryDeadLettersGrowing", name="causes.fail"),
    ),
)
NIGHTLY = Fault(
    "a task that runs once a night fails",
    _fails_each_night,
    (expected("CeleryTaskNeverSucceeds", name="causes.nightly"),),
)
KILLED = Fault(
    "a task's process is killed (SIGKILL)",
    _kills_its_process,
    (expected("CeleryTaskWorkerLost", name="causes.kill_own_process"),),
)
STUCK = Fault(
    "a task runs with a time limit above that of its queue",
    _outlives_its_limit,
    (expected("CeleryTaskStuck", name="causes.sleep"),),
)
ETA = Fault(
    "a plain task is called for a time beyond the visibility timeout",
    _due_too_late,
    (expected("CeleryEtaBeyondVisibilityTimeout", queue_name="default"),),
)
FORGED = Fault(
    "messages are put into a queue past the application",
    _forged,
    (expected("CeleryMessagesQuarantined"),),
)
UNKNOWN = Fault(
    "a durable task's code is removed",
    _code_is_gone,
    (expected("CeleryRelayCannotPublish", name=REMOVED),),
)

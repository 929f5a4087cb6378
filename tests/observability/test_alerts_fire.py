"""Every alert is fired by its real fault, seen in Alertmanager, and is over after the fault.

A healthy stack comes first, and what fires there would be a false alarm. Then one phase of faults
after the other (phases.py); the last test waits for the end of every alert.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from tests.observability.faults.fault import Fault
from tests.observability.fired import Fired
from tests.observability.phases import ALWAYS, PHASES, alerts, faults
from tests.observability.victim import Victim
from tests.observability.watch import Watch
from tests.support.alert_receiver import AlertReceiver
from tests.support.roles import wait_until

#: Seconds until a stack that has just been started, or mended, has nothing to say.
QUIET_SECONDS = 120.0
#: Seconds that it must stay so, before it is broken.
HEALTHY_SECONDS = 15.0
#: Seconds after which every alert is over; the longest window that a fault leaves behind is 108 s
#: (starts of a worker, hurry.py), then 72 s (what an hour is here).
OVER_SECONDS = 150.0
#: Seconds within which an alert is posted: groups wait for one (hurry.py), the rest is patience.
POSTED_SECONDS = 5.0
#: Nothing is the cause of these, so nothing silences them.
CAUSES = {"RedisDown", "PostgresDown", "CeleryWorkerDown"}

pytestmark = pytest.mark.timeout(300)


def test_a_healthy_stack_fires_the_watchdog_and_nothing_else(
    watch: Watch, dead_mans_switch: AlertReceiver
) -> None:
    wait_until(lambda: watch.names() == {ALWAYS}, timeout=QUIET_SECONDS, what="it is quiet")
    before = len(watch.firings)
    time.sleep(HEALTHY_SECONDS)
    false_alarms = [firing.labels for firing in watch.firings[before:]]
    assert false_alarms == []
    assert watch.names() == {ALWAYS}
    assert set(dead_mans_switch.names()) == {ALWAYS}


@pytest.mark.parametrize(
    "phase", PHASES, ids=lambda phase: "+".join(fault.alerts[0].alert for fault in phase)
)
def test_faults_fire_their_alerts(
    phase: tuple[Fault, ...], victim: Victim, watch: Watch, fired: list[Fired]
) -> None:
    wanted = [alert for fault in phase for alert in alerts(fault)]
    wait_until(
        lambda: not any(watch.firing(alert.alert, alert.labels) for alert in wanted),
        timeout=QUIET_SECONDS,
        what="all alerts of the phase are over",
    )
    injected: list[float] = []
    seen: list[Fired] = []
    with ExitStack() as injections:
        for fault in phase:
            injected.append(time.monotonic())
            injections.enter_context(fault.inject(victim))
        for fault, moment in zip(phase, injected, strict=True):
            for alert in fault.alerts:
                firing = watch.wait_for(
                    alert.alert, alert.labels, since=moment, timeout=fault.patience
                )
                seen.append(Fired(fault, alert, firing, moment))
        # What is left behind may show while the last services are still being started.
        undone = time.monotonic()
    mended = time.monotonic()
    for fault in phase:
        for alert in fault.afterwards:
            firing = watch.wait_for(alert.alert, alert.labels, since=undone, timeout=fault.patience)
            seen.append(Fired(fault, alert, firing, undone))
    for one in seen:
        one.mended = mended
    fired += seen


def test_every_alert_is_over_after_its_fault(watch: Watch, fired: list[Fired]) -> None:
    wait_until(
        lambda: watch.names() == {ALWAYS},
        timeout=OVER_SECONDS,
        what=f"all is quiet; {sorted(watch.names())} fire",
    )
    assert [one.expected for one in fired if one.firing.ended is None] == []
    assert len(fired) == sum(len(alerts(fault)) for fault in faults())


@pytest.mark.parametrize("state", ["firing", "resolved"])
def test_alerts_reached_the_receiver(
    state: str, alert_receiver: AlertReceiver, fired: list[Fired]
) -> None:
    """Except those that their cause silences, or that were over before their group's turn."""
    firings = [one.firing for one in fired]
    assert not [firing for firing in firings if firing.silenced and firing.name in CAUSES]
    expected = CAUSES | {
        firing.name
        for firing in firings
        if not firing.silenced and firing.seconds() > POSTED_SECONDS
    }

    def missing() -> set[str]:
        return expected - set(alert_receiver.names(state))

    wait_until(
        lambda: not missing(), timeout=POSTED_SECONDS, what=f"these are posted: {sorted(missing())}"
    )

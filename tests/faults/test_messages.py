"""Messages that come twice, and messages from strangers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.faults.conftest import Experiment
from tests.faults.load import Load
from tests.faults.targets.target import StackTarget
from tests.support.forgeries import forged, malformed, mistaken, outdated
from tests.support.roles import wait_until

pytestmark = pytest.mark.timeout(600)

#: Queues that people's work goes through.
QUEUES = ("default", "mail", "bulk")
MEMBERS = 100
#: TASK_SIGNING_MAX_AGE_SECONDS, as it is by default.
MAXIMUM_AGE_SECONDS = 7 * 86_400


def double_everything(target: StackTarget) -> int:
    """Put a copy of every waiting message into its queue; returns how many."""
    copies = 0
    for queue in QUEUES:
        messages = target.broker.lrange(queue, 0, -1)
        if messages:
            target.broker.lpush(queue, *messages)
            copies += len(messages)
    return copies


@pytest.mark.targets("containers", "embedded")
@pytest.mark.once("embedded")
def test_every_message_comes_three_times(target: StackTarget, experiment: Experiment) -> None:
    for service in target.workers:
        target.stop(service)
    with experiment("every message delivered three times", total=300) as load:
        wait_until(lambda: len(load.accepted) == load.total, timeout=60, what="all are accepted")
        copies = double_everything(target)
        assert copies >= load.total
        double_everything(target)
        for service in target.workers:
            target.start(service)


@pytest.mark.targets("containers", "embedded")
@pytest.mark.once("embedded")
def test_every_message_of_a_chord_comes_twice(target: StackTarget, experiment: Experiment) -> None:
    target.stop("worker")
    with experiment("members of a chord delivered twice", submit=False, total=MEMBERS + 1) as load:
        assert target.submit_chord(load.run, range(MEMBERS), body=MEMBERS)
        assert double_everything(target) >= MEMBERS
        target.start("worker")
        wait_until(lambda: load.done() == load.total, timeout=120, what="the body has run")
        [(members_done, body_done)] = target.ledger.ask(
            "SELECT max(at) FILTER (WHERE number < %s), max(at) FILTER (WHERE number = %s)"
            " FROM fault_effects WHERE run = %s",
            [MEMBERS, MEMBERS, load.run],
        )
        assert body_done > members_done, "the body comes last"


@pytest.mark.targets("containers", "embedded")
@pytest.mark.once("embedded")
def test_a_stranger_broadcasts_shutdown(target: StackTarget, experiment: Experiment) -> None:
    mains = target.mains()
    stranger = Celery("stranger", broker=target.broker_url, set_as_current=False)
    with experiment("unsigned shutdown broadcast", total=200) as load:
        load.reach(0.1)
        for _ in range(5):
            stranger.control.broadcast("shutdown")
            time.sleep(0.5)
    stranger.close()
    assert target.mains() == mains


@pytest.mark.targets("containers", "embedded")
@pytest.mark.once("embedded")
def test_forged_and_malformed_messages(target: StackTarget, experiment: Experiment) -> None:
    """What stock workers die of, and what they would believe, among the messages of real work."""
    real = a_real_message(target)
    trap = Path("/tmp/fault-suite-trap")
    refused = [
        *malformed(real),
        *forged(real, other_queue="mail", trap=trap),
        *outdated(real, target.signing_key, MAXIMUM_AGE_SECONDS),
    ]
    mains = target.mains()
    before = quarantined(target)
    with experiment(f"{len(refused)} forged and malformed messages") as load:
        load.reach(0.05)
        for queue in QUEUES:
            target.broker.lpush(queue, *(message for _, message in refused))
        load.reach(0.1)
        target.broker.lpush(
            "default", *(message for _, message in mistaken(real, target.signing_key))
        )
    wait_until(lambda: is_drained(target), timeout=60, what="the queues are empty")
    assert target.mains() == mains, "no worker died of it"
    assert not target.has_file("worker", trap), "nothing of it was believed"
    assert quarantined(target) - before >= len(QUEUES) * len(refused), "people can look at it"


def a_real_message(target: StackTarget) -> bytes:
    """Return the message of a delivery that is done when it is sent again."""
    decoy = Load(target, 3)
    for service in target.workers:
        target.stop(service)
    assert decoy.submit(range(3))
    messages: list[bytes] = []

    def waiting() -> list[bytes]:
        # Beat sends there as well: its ticks, a canary.
        found: Any = target.broker.lrange("default", 0, -1)
        messages[:] = [message for message in found if b'"faults.record"' in message]
        return messages

    wait_until(waiting, what="a message is in its queue")
    for service in target.workers:
        target.start(service)
    decoy.wait_for_all()
    target.wait_until_ready()
    return messages[-1]


def quarantined(target: StackTarget) -> int:
    """Return how many refused messages are kept for people to look at."""
    [(number,)] = target.ledger.ask("SELECT count(*) FROM delivery_quarantinedmessage")
    return int(number)


def is_drained(target: StackTarget) -> bool:
    """Whether nothing waits and nothing is in the hands of a worker."""
    waiting = sum(int(target.broker.llen(queue)) for queue in QUEUES)
    return waiting + int(target.broker.hlen("unacked")) == 0

"""What the console says of readings: which words, and how good that is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from console.status import Load, Process, Reading, Status, judge

TARGETS = {"default": 5, "mail": 60}


def process(service: str, state: str, *queues: str, seen: float = 1.0) -> Process:
    return Process(service, "host", 7, state, queues, "1", 60.0, seen)


WELL = (
    process("beat", "ticking"),
    process("beat", "standby"),
    process("relay", "relaying"),
    process("web", "serving"),
    process("worker", "consuming", "default", "mail"),
)
READING = Reading({}, {"default": 0, "mail": 0}, WELL, 0.4, 0.2)


def said(status: Status) -> dict[str, tuple[str, str]]:
    return {fact.name: (fact.value, fact.tone) for fact in status.facts}


def with_processes(*processes: Process) -> Status:
    return judge(replace(READING, processes=processes), TARGETS)


def test_when_all_is_well_nothing_is_complained_about() -> None:
    status = judge(READING, TARGETS)

    assert (status.headline, status.tone) == ("Everything works.", "good")
    assert {fact.tone for fact in status.facts} == {"good"}
    assert [fact.detail for fact in status.facts if fact.name == "Beat"] == [
        "leader host:7, 1 standing by"
    ]
    assert [queue.workers for queue in status.queues] == [1, 1]


def test_without_a_broker_nothing_else_is_in_doubt() -> None:
    status = judge(replace(READING, lengths=None, broker_milliseconds=None), TARGETS)

    assert said(status)["Broker"] == ("down", "bad")
    assert said(status)["Workers"] == ("1 consuming", "good")
    assert status.headline.startswith("The broker is down: jobs are accepted")
    assert [queue.in_broker for queue in status.queues] == [None, None]


def test_without_a_database_what_it_would_tell_is_unknown() -> None:
    status = judge(Reading(None, {"default": 3}, None, None, 0.2), TARGETS)

    tones = {name: tone for name, (_, tone) in said(status).items()}
    assert tones == {
        "Web": "good", "Database": "bad", "Broker": "good", "Workers": "unknown",
        "Beat": "unknown", "Relay": "unknown", "Oldest waiting": "unknown",
    }  # fmt: skip
    assert status.summary == ""


@pytest.mark.parametrize(
    ("gone", "fact", "value", "tone", "headline"),
    [
        ("worker", "Workers", "none consuming", "bad", "No worker takes tasks."),
        ("beat", "Beat", "no leader", "bad", "No beat leads: nothing periodic is sent."),
        ("relay", "Relay", "none", "bad", "No relay runs: retries are not published."),
    ],
)
def test_a_process_that_is_not_seen_any_more_is_gone(
    gone: str, fact: str, value: str, tone: str, headline: str
) -> None:
    left = [replace(one, seen=31.0) if one.service == gone else one for one in WELL]
    status = with_processes(*left)

    assert said(status)[fact] == (value, tone)
    assert status.headline == headline
    assert next(one.says for one in status.processes if one.service == gone) == "gone"


def test_one_of_two_workers_that_is_gone_is_a_warning() -> None:
    status = with_processes(*WELL, process("worker", "consuming", "default", seen=40))

    assert said(status)["Workers"] == ("1 consuming", "warning")
    assert status.headline == "Of the workers: 1 gone."


def test_workers_that_reconnect_take_nothing() -> None:
    status = with_processes(*WELL[:4], process("worker", "reconnecting", "default", "mail"))

    assert said(status)["Workers"] == ("none consuming", "bad")
    assert [queue.workers for queue in status.queues] == [0, 0]


def test_a_queue_that_nobody_consumes_is_named() -> None:
    status = with_processes(*WELL[:4], process("worker", "consuming", "default"))

    assert status.headline == "No worker takes tasks from the queue mail."
    assert [queue.workers for queue in status.queues] == [1, 0]


@pytest.mark.parametrize("state", ["consuming", "paused"])
def test_a_worker_that_was_told_to_leave_all_its_queues_is_paused(state: str) -> None:
    status = with_processes(*WELL, process("worker-bulk", state))

    assert status.processes[-1].says == "paused"
    assert said(status)["Workers"] == ("1 consuming", "warning")


def test_the_oldest_is_the_one_that_is_worst_by_its_own_target() -> None:
    loads = {"default": Load(waiting=1, oldest=4.0), "mail": Load(waiting=9, oldest=20.0)}
    status = judge(replace(READING, loads=loads), TARGETS)

    assert status.facts[-1].value == "4.0 s"
    assert status.facts[-1].detail == "queue default, target 5 s"
    assert status.summary == "0 running, 10 waiting."


def test_a_queue_over_its_target_is_late() -> None:
    loads = {"mail": Load(waiting=1, oldest=61.0)}
    status = judge(replace(READING, loads=loads), TARGETS)

    assert status.tone == "warning"
    assert status.headline == "The queue mail keeps people waiting for 61 s."
    assert [(queue.is_late, queue.wait) for queue in status.queues] == [(False, 0), (True, 60)]

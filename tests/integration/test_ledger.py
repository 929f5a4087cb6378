"""The ledger's rows: who may change them, and what a plan for ten million costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import chain as celery_chain
from django.db import connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from redis import Redis

from delivery import attempts, canvas, ledger, publishing
from delivery.errors import SupersededError
from delivery.ledger import Claim
from delivery.models import Delivery, Group, State
from delivery.tasks import run_once
from tests.support.durable_tasks import add, effects, failed, leave_effect, total, watched

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _relay_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish nothing: these tests are about rows."""
    monkeypatch.setattr(publishing, "publish_or_leave", lambda _messages: None)


def entered(**options: Any) -> UUID:
    return UUID(add.apply_on_commit((1, 2), **options))


def row(delivery_id: UUID) -> Delivery:
    return Delivery.objects.get(id=delivery_id)


def pass_time(seconds: float) -> None:
    """Let the database's clock run, as far as open deliveries see it."""
    earlier = timedelta(seconds=seconds)
    Delivery.objects.filter(finished_at=None).update(
        due_at=F("due_at") - earlier, dispatched_at=F("dispatched_at") - earlier
    )


def claimed(delivery_id: UUID, worker: str = "worker@test:1") -> Claim:
    claim = ledger.claim(delivery_id, worker)
    assert claim is not None
    return claim


def overtake(delivery_id: UUID) -> Claim:
    pass_time(ledger.LEASE_SECONDS + 1)
    return claimed(delivery_id, "other")


def test_a_call_is_a_row_in_the_callers_transaction() -> None:
    class Undone(Exception):  # noqa: N818 - not an error
        pass

    with suppress(Undone), transaction.atomic():
        add.delay_on_commit(1, 2)
        raise Undone
    assert not Delivery.objects.exists()

    with transaction.atomic():
        delivery_id = add.delay_on_commit(1, second=2)
        assert isinstance(delivery_id, str)
    stored = row(UUID(delivery_id))
    assert (stored.task, stored.args, stored.kwargs) == ("tests.add", [1], {"second": 2})
    assert (stored.state, stored.queue, stored.max_failures) == (State.DISPATCHED, "default", 9)


@pytest.mark.parametrize("call", ["delay", "apply_async", "delay_on_commit", "apply_on_commit"])
def test_every_way_to_call_a_durable_task_enters_it(call: str) -> None:
    arguments: Any = (1, 2) if call.startswith("delay") else ((1, 2),)
    getattr(add, call)(*arguments)
    assert Delivery.objects.get().args == [1, 2]


def test_arguments_come_back_as_they_were() -> None:
    values = [uuid4(), datetime.now(UTC), Decimal("1.10"), "ä\\u0000", {"deep": [None, 1.5]}]
    delivery_id = UUID(add.delay_on_commit(values, 2))
    assert row(delivery_id).args[0] == values


@pytest.mark.parametrize(
    "value", ["\x00", "a\\\x00", "\ud800", {"\udfff": 1}, float("nan"), object()]
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(value: Any) -> None:
    with transaction.atomic():
        with pytest.raises((TypeError, ValueError)):
            add.delay_on_commit(value, 2)
        add.delay_on_commit(1, 2)
    assert Delivery.objects.count() == 1


def test_arguments_and_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TypeError, match="second"):
        add.delay_on_commit(1)
    with pytest.raises(TypeError, match=r"does not take link: .*run_once"):
        add.apply_on_commit((1, 2), link=add.s(3))
    with pytest.raises(TypeError, match=r"does not take chain"):
        celery_chain(add.s(1, 2), add.s(3)).apply_async()
    with pytest.raises(ValueError, match=r"is a UUID, not 'nightly'; .*uuid5"):
        add.apply_on_commit((1, 2), task_id="nightly")
    with pytest.raises(Exception, match="mial"):
        add.apply_on_commit((1, 2), queue="mial")
    assert not Delivery.objects.exists()


def test_an_id_that_is_known_enters_nothing() -> None:
    first = entered(task_id=str(uuid4()))
    assert entered(task_id=str(first)) == first
    assert Delivery.objects.count() == 1


def test_a_claim_is_exclusive_until_its_lease_ends() -> None:
    delivery_id = entered()
    assert claimed(delivery_id).attempt == 1
    assert ledger.claim(delivery_id, "other") is None

    pass_time(ledger.LEASE_SECONDS + 1)
    second = claimed(delivery_id, "other")
    assert second.attempt == 2
    assert (row(delivery_id).interruptions, row(delivery_id).worker) == (1, "other")


def test_a_renewed_lease_goes_on() -> None:
    delivery_id = entered()
    claim = claimed(delivery_id)
    pass_time(ledger.LEASE_SECONDS - 10)
    assert ledger.renew(claim)
    pass_time(ledger.LEASE_SECONDS - 10)
    assert ledger.claim(delivery_id, "other") is None


def test_an_attempt_that_was_overtaken_changes_nothing() -> None:
    delivery_id = entered()
    first = claimed(delivery_id)
    pass_time(ledger.LEASE_SECONDS + 1)
    second = claimed(delivery_id, "other")

    assert not ledger.renew(first)
    assert not ledger.retry(first, delay=0, error="late")
    assert not ledger.bury(first, "late")
    assert not ledger.succeed(first, 3)
    assert ledger.succeed(second, 3)
    assert not ledger.succeed(second, 3)
    assert (row(delivery_id).state, row(delivery_id).result) == (State.SUCCEEDED, 3)


def fail_after_the_effect() -> None:
    with run_once():
        leave_effect("one")
        raise ZeroDivisionError


def test_run_once_commits_the_effect_and_the_success_together() -> None:
    delivery_id = entered()
    with attempts.begun(claimed(delivery_id)):
        with pytest.raises(ZeroDivisionError):
            fail_after_the_effect()
        assert (effects("one"), row(delivery_id).state) == (0, State.RUNNING)
        with run_once() as outcome:
            leave_effect("one")
            outcome.result = {"n": 1}
    assert (effects("one"), row(delivery_id).state) == (1, State.SUCCEEDED)
    assert row(delivery_id).result == {"n": 1}


@pytest.mark.parametrize(
    "interfere",
    [
        overtake,
        lambda delivery_id: ledger.cancel([delivery_id]),
    ],
)
def test_run_once_refuses_an_attempt_that_was_overtaken_or_cancelled(interfere: Any) -> None:
    delivery_id = entered()
    with attempts.begun(claimed(delivery_id)):
        interfere(delivery_id)
        once = run_once()
        with pytest.raises(SupersededError):
            once.__enter__()


def test_run_once_must_be_outermost_and_once() -> None:
    with attempts.begun(claimed(entered())):
        with transaction.atomic():
            around = run_once()
            with pytest.raises(RuntimeError):
                around.__enter__()
        with run_once():
            pass
        again = run_once()
        with pytest.raises(RuntimeError, match="used before"):
            again.__enter__()


def test_a_retry_waits_for_its_time_whoever_rings() -> None:
    delivery_id = entered()
    assert ledger.retry(claimed(delivery_id), delay=3600, error="later")
    assert ledger.claim(delivery_id, "other") is None
    pass_time(3601)
    assert claimed(delivery_id).failures == 1


def test_a_countdown_of_days_stays_in_the_ledger() -> None:
    delivery_id = entered(countdown=3 * 86_400)
    assert row(delivery_id).state == State.PENDING
    assert ledger.take_due({}, 10) == (0, [], [])
    assert ledger.claim(delivery_id, "early") is None
    pass_time(3 * 86_400)
    assert [message.id for message in ledger.take_due({}, 10)[1]] == [delivery_id]


def test_a_message_that_nobody_took_is_published_again() -> None:
    delivery_id = entered()
    assert ledger.take_due({}, 10) == (0, [], []), "not yet"
    pass_time(ledger.TAKEN_WITHIN_SECONDS + 1)
    assert [message.id for message in ledger.take_due({}, 10)[1]] == [delivery_id]
    assert ledger.take_due({}, 10) == (0, [], []), "once"


def test_a_message_that_may_still_wait_in_its_queue_is_not_published_again() -> None:
    delivery_id = entered()
    pass_time(20)
    published = row(delivery_id).dispatched_at
    assert published is not None
    older, younger = published.timestamp() - 60, published.timestamp() + 1

    assert ledger.take_due({"default": older}, 10) == (1, [], [])
    due_in = ledger.seconds_until_next(1000)
    assert 70 < due_in < 90, "as long as the head of the queue has waited"
    pass_time(due_in + 1)
    # What was published later is at the head: this one has gone.
    assert len(ledger.take_due({"default": younger}, 10)[1]) == 1


def test_a_task_that_kills_its_worker_again_and_again_is_dead() -> None:
    delivery_id = UUID(watched.delay_on_commit("poison"))
    for number in range(1, ledger.MAXIMUM_INTERRUPTIONS + 1):
        claimed(delivery_id)
        pass_time(ledger.LEASE_SECONDS + 1)
        seen, _, buried = ledger.take_due({}, 10)
        assert seen == 1
        assert [one.id for one in buried] == [delivery_id] * (
            number == ledger.MAXIMUM_INTERRUPTIONS
        )
    dead = row(delivery_id)
    assert (dead.state, dead.attempts) == (State.DEAD, ledger.MAXIMUM_INTERRUPTIONS)
    assert dead.error.startswith("Its worker died 10 times.")
    assert ledger.claim(delivery_id, "late") is None
    assert effects(f"poison was given up: {dead.error}") == 1


def test_what_has_expired_is_cancelled() -> None:
    delivery_id = entered(expires=10)
    Delivery.objects.update(expires_at=F("expires_at") - timedelta(seconds=11))
    assert ledger.claim(delivery_id, "late") is None
    pass_time(ledger.TAKEN_WITHIN_SECONDS + 1)
    assert ledger.take_due({}, 10) == (1, [], [])
    assert row(delivery_id).state == State.CANCELLED


def test_cancelling_wins_over_a_worker_or_comes_too_late() -> None:
    waiting, running, done = entered(), entered(), entered()
    claim = claimed(running)
    ledger.succeed(claimed(done))
    assert ledger.cancel([waiting, running, done]) == 2
    assert ledger.claim(waiting, "worker") is None
    assert not ledger.succeed(claim)
    assert row(done).state == State.SUCCEEDED


def test_dead_letters_are_replayed_with_all_attempts_or_discarded() -> None:
    first, second = (UUID(watched.delay_on_commit(name)) for name in ("a", "b"))
    for delivery_id in (first, second):
        assert ledger.bury(claimed(delivery_id), "ValueError: broken")
    assert ledger.replay([first]) == 1
    assert ledger.replay([first]) == 0, "it is no dead letter any more"
    assert ledger.discard([second]) == 1

    assert effects("a was replayed") == 1
    assert (row(first).state, row(first).failures) == (State.PENDING, 0)
    assert claimed(first).attempt == 2, "the fence of earlier attempts stays"
    assert row(second).state == State.CANCELLED


def test_a_hook_that_is_broken_does_not_keep_the_row_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        Group.objects.create(id=None, size=-1, remaining=-1)

    monkeypatch.setattr(watched, "on_given_up", broken)
    delivery_id = UUID(watched.delay_on_commit("x"))
    assert ledger.bury(claimed(delivery_id), "why")
    assert row(delivery_id).state == State.DEAD


# --- Groups --------------------------------------------------------------------------------------


def finish(delivery: Delivery, result: Any) -> None:
    with attempts.begun(claimed(delivery.id)), run_once() as outcome:
        outcome.result = result


def members() -> Iterator[Delivery]:
    yield from Delivery.objects.filter(group__isnull=False).order_by("position")


def test_the_body_of_a_chord_is_entered_once_with_all_results_in_order() -> None:
    body = canvas.chord([add.s(n, n) for n in range(3)], total.s("done"))
    waiting = list(members())
    for member in reversed(waiting):
        assert not Delivery.objects.filter(id=body).exists()
        finish(member, member.args[0] * 2)
        assert ledger.claim(member.id, "duplicate") is None

    assert row(body).args == [[0, 2, 4], "done"]
    assert Group.objects.get().remaining == 0
    assert Delivery.objects.count() == 4


def test_a_member_whose_commit_fails_is_not_counted() -> None:
    body = canvas.chord([add.s(1, 1)], total.s("done"))
    member = next(members())
    with attempts.begun(claimed(member.id)), pytest.raises(ZeroDivisionError):
        fail_after_the_effect()
    assert Group.objects.get().remaining == 1
    pass_time(31)
    finish(member, 2)
    assert row(body).args == [[2], "done"]


def test_the_error_callback_is_entered_once_and_a_replay_still_completes_the_chord() -> None:
    body = canvas.chord([add.s(n, n) for n in range(3)], total.s("done"), failed.s("oh"))
    first, second, third = members()
    ledger.bury(claimed(first.id), "first")
    ledger.bury(claimed(second.id), "second")
    finish(third, 6)
    callback = Delivery.objects.get(task="tests.failed")
    assert callback.args == [str(first.id), "first", "oh"]

    ledger.replay([first.id, second.id])
    finish(first, 0)
    finish(second, 2)
    assert row(body).args == [[0, 2, 6], "done"]
    assert Delivery.objects.filter(task="tests.failed").count() == 1


def test_a_chain_hands_each_result_on() -> None:
    last = canvas.chain(add.s(1, 2), add.s(10), add.si(5, 5), add.s(100))
    results = []
    for _ in range(4):
        step = Delivery.objects.get(state__in=["pending", "dispatched"])
        results.append(sum(step.args))
        with attempts.begun(claimed(step.id)):
            attempts.succeed(claimed_again(step), sum(step.args))
    assert results == [3, 13, 10, 110]
    assert row(last).result == 110


def claimed_again(step: Delivery) -> Claim:
    attempt = attempts.current()
    assert attempt is not None and attempt.claim.id == step.id
    return attempt.claim


def test_an_empty_chord_runs_its_body_and_nonsense_is_refused() -> None:
    assert row(canvas.chord([], total.s("none"))).args == [[], "none"]
    for nonsense in (celery_chain(add.s(1, 2), add.s(3)), "add"):
        with pytest.raises(TypeError, match="not the signature of a durable task"):
            canvas.group([nonsense])  # type: ignore[list-item]


# --- What it costs -------------------------------------------------------------------------------


def test_an_error_that_postgresql_cannot_store_ends_the_delivery_all_the_same() -> None:
    dead, pending = entered(), entered()
    assert ledger.bury(claimed(dead), "ValueError: a\0b \ud800")
    assert ledger.retry(claimed(pending), delay=1, error="\0" * 5000)
    assert row(dead).error == "ValueError: a\\x00b \\ud800"
    assert row(pending).error.startswith("\\x00")


def test_a_group_that_could_never_end_is_refused() -> None:
    named = add.s(1, 2).set(task_id=str(uuid4()))
    with pytest.raises(ValueError, match="known already"):
        canvas.group([named, named])
    assert not Delivery.objects.exists()
    with pytest.raises(TypeError, match="has a task_id"):
        canvas.chain(named, add.s(3))
    assert not Group.objects.exists()


def test_the_hot_path_is_one_insert_and_two_short_transactions() -> None:
    with CaptureQueriesContext(
        connection,
    ) as enter:
        delivery_id = entered()
    with CaptureQueriesContext(connection) as work:
        claim = claimed(delivery_id)
        with attempts.begun(claim), run_once():
            pass
    assert len(enter) == 1
    words = [query["sql"].split()[0] for query in work]
    assert words == ["UPDATE", "BEGIN", "UPDATE", "COMMIT"]

    delivery_id = entered()
    with CaptureQueriesContext(connection) as work:
        attempts.succeed(claimed(delivery_id), 3)
    assert [query["sql"].split()[0] for query in work] == ["UPDATE", "UPDATE"]


def plan(sql: str) -> tuple[str, int]:
    """Return the plan of a statement as text, and the pages that it touched."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}")
        document: Any = cursor.fetchone()[0]
        transaction.set_rollback(True)
    document = json.loads(document) if isinstance(document, str) else document
    top = document[0]["Plan"]
    return json.dumps(document), top["Shared Hit Blocks"] + top["Shared Read Blocks"]


def test_claim_and_relay_do_not_notice_finished_rows(broker: Redis) -> None:
    """The plans for a large table; bench/ledger_plans.py prints them for ten million rows."""
    from bench.ledger_plans import fill, statements  # noqa: PLC0415

    fill(connection, finished=200_000, due=50)
    for name, sql in statements(connection).items():
        text, pages = plan(sql)
        assert "Seq Scan" not in text, (name, text)
        assert pages < 1500, (name, pages, text)

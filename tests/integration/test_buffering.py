"""Single requests that are done together: nothing lost, nothing twice, nobody held up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Event, Thread
from typing import Any
from uuid import UUID

import pytest
from django.contrib.sessions.models import Session
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from delivery import canvas, ledger, publishing
from delivery.models import Delivery
from delivery.models import State as DeliveryState
from jobs.models import Job, State
from jobs.services import job_cancel
from newsletters.models import Recipient, RecipientState
from newsletters.services import newsletter_submit
from newsletters.tasks import mix_waiting, send_mixture
from tests.integration.conftest import wait_for_end
from tests.support.durable_tasks import (
    WAITING,
    effects,
    gather,
    leave_effect,
    leave_effect_once,
    work_on,
)
from tests.support.mail_sink import MailSink
from tests.support.roles import Role, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

#: Not a multiple of ``gather.flush_every``: brings no run at once.
ORDINARY = 1


def ask_for(name: str, number: int = ORDINARY) -> None:
    """Store a row that waits, as one of many callers does."""
    with transaction.atomic():
        leave_effect(f"{WAITING}{name}")
        gather.flush_on_commit([number])


def submit(*addresses: str) -> Job:
    return newsletter_submit(
        subject="Hello", body="Text", recipients=addresses, requested_by="tester"
    )


def side_by_side(call: Callable[[Any], object], values: list[Any]) -> None:
    """Call it for all values in eight threads, each with a database session of its own."""

    def and_close(value: Any) -> None:
        try:
            call(value)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(and_close, values))


@contextmanager
def another_session(action: Callable[[], object]) -> Iterator[None]:
    """Have a transaction of another session open, after an action, while the block runs."""
    begun, finish = Event(), Event()

    def run() -> None:
        with transaction.atomic():
            action()
            begun.set()
            finish.wait(60)
        connection.close()

    thread = Thread(target=run)
    thread.start()
    try:
        assert begun.wait(30), "the other session waits for something"
        yield
    finally:
        finish.set()
        thread.join()


def runs() -> list[Delivery]:
    return list(Delivery.objects.filter(task=gather.name).order_by("created_at"))


def wait_until_done(*names: str) -> None:
    wait_until(
        lambda: all(effects(name) for name in names),
        timeout=60,
        what=f"{names} are done; runs: {[(run.state, run.error) for run in runs()]}",
    )


# --- The shared run ------------------------------------------------------------------------------


def test_requests_of_many_callers_are_all_done_once_by_few_runs(worker: Role) -> None:
    names = [f"row {number}" for number in range(160)]

    side_by_side(ask_for, names)

    wait_until_done(*names)
    assert {name: effects(name) for name in names} == dict.fromkeys(names, 1)
    assert not Session.objects.filter(session_data__startswith=WAITING).exists()
    assert len(runs()) < len(names) / 2


def test_a_caller_that_rolls_back_leaves_nothing() -> None:
    class Undone(Exception):  # noqa: N818 - not an error
        pass

    with suppress(Undone), transaction.atomic():
        ask_for("undone")
        raise Undone

    assert not Session.objects.exists()
    assert not Delivery.objects.exists()


def test_every_so_manieth_row_brings_a_run_at_once_and_others_wait_for_company(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publishing, "publish_or_leave", lambda _messages: None)
    monkeypatch.setattr(gather, "flush_interval", 60.0)

    ask_for("first")
    ask_for("second")
    (run,) = runs()
    assert run.state == DeliveryState.PENDING
    assert 0 < (run.due_at - run.created_at).total_seconds() <= gather.flush_interval

    ask_for("so manieth", 3 * gather.flush_every)
    assert [run.state for run in runs()] == [DeliveryState.PENDING, DeliveryState.DISPATCHED]


def test_a_run_waits_for_the_commit_of_who_joined_it_and_nobody_else_does(
    worker: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "flush_interval", 4.0)
    ask_for("early")
    with another_session(lambda: ask_for("slow")):
        (held,) = runs()
        # Due later than the run that is held, done by the same relay and worker.
        later = leave_effect_once.apply_on_commit(("later",), countdown=2 * gather.flush_interval)
        wait_until_done("later")
        assert Delivery.objects.filter(id=later, due_at__gt=F("created_at")).exists()
        held.refresh_from_db()
        assert held.state == DeliveryState.PENDING
        # It is due, so that nobody can join it: who comes now has another one.
        ask_for("late")
        wait_until_done("late", "early")
        assert not effects("slow")

    wait_until_done("slow")
    assert [effects(name) for name in ("early", "slow", "late")] == [1, 1, 1]


def test_callers_who_find_no_run_do_not_wait_for_each_other(worker: Role) -> None:
    with another_session(lambda: ask_for("slow")):
        ask_for("quick")
        wait_until_done("quick")
        assert not effects("slow")
    wait_until_done("slow")


def test_a_run_that_is_in_other_hands_is_not_joined() -> None:
    ask_for("early")
    with another_session(lambda: Delivery.objects.update(due_at=Now())):
        ask_for("late")

    assert len(runs()) == 2


# --- Batches with a bad item ---------------------------------------------------------------------


def test_a_bad_item_ends_alone_and_the_others_are_done(worker: Role) -> None:
    good = [f"item {number}" for number in range(9)]
    work_on.delay_on_commit([*good[:3], "bad", *good[3:]])

    wait_until_done(*good)
    wait_until(
        lambda: Delivery.objects.filter(state=DeliveryState.DEAD).exists(), what="a dead letter"
    )
    assert [effects(name) for name in good] == [1] * 9
    dead = Delivery.objects.get(state=DeliveryState.DEAD)
    assert (dead.args, dead.error) == ([["bad"]], "ValueError: bad")
    wait_until(lambda: not ledger._open().exists(), what="all have ended")


def test_an_item_that_kills_its_process_does_not_hold_the_others(worker: Role) -> None:
    good = ["one", "two", "three"]
    work_on.delay_on_commit(["deadly", *good])

    wait_until_done(*good)
    alone = ledger._open().filter(args=[["deadly"]])
    wait_until(alone.exists, what="it is alone")
    ledger.cancel(alone.values_list("id", flat=True))
    assert [effects(name) for name in good] == [1] * 3


def test_rows_are_looked_at_again_when_a_run_was_given_up(worker: Role, mails: MailSink) -> None:
    with transaction.atomic():
        job = newsletter_submit(
            subject="Hello", body="Text", recipients=["ada@example.com"], requested_by="tester"
        )
        # Before the run is due, a worker with a bug has buried it.
        run = Delivery.objects.get(task=mix_waiting.name)
        Delivery.objects.filter(id=run.id).update(due_at=Now())
        claim = ledger.claim(run.id, "a worker with a bug")
        assert claim is not None
        ledger.bury(claim, "RuntimeError: a bug")
    again = Delivery.objects.get(task=mix_waiting.name, state=DeliveryState.PENDING)
    assert again.due_at - timezone.now() > timedelta(seconds=240)

    Delivery.objects.filter(id=again.id).update(due_at=Now())
    ledger.notify_relays()
    assert wait_for_end(job).result == {"sent": 1, "failed": 0}


def test_a_batch_in_a_group_is_not_halved(worker: Role) -> None:
    members = canvas.group([work_on.si(["fine", "bad"])])

    wait_until(
        lambda: members.members.filter(state=DeliveryState.DEAD).exists(), what="a dead letter"
    )
    assert Delivery.objects.count() == 1


# --- Small newsletters ---------------------------------------------------------------------------


def test_small_newsletters_share_tasks_and_connections(worker: Role, mails: MailSink) -> None:
    addresses = [f"r{number:03}@example.com" for number in range(100)]
    before = mails.connections()

    side_by_side(submit, addresses)

    wait_until(
        lambda: not Job.objects.filter(finished_at=None).exists(), timeout=60, what="all jobs end"
    )
    assert mails.recipients() == addresses
    ends = Job.objects.values_list("state", "attempts", "done", "result__sent", "result__failed")
    assert set(ends) == {(State.SUCCEEDED, 1, 1, 1, 0)}
    assert mails.connections() - before < len(addresses) / 2
    assert Delivery.objects.count() < len(addresses)


def test_recipients_of_different_newsletters_have_fates_of_their_own(
    worker: Role, mails: MailSink
) -> None:
    fine, refused = submit("ada@example.com"), submit("reject-550@example.com")
    postponed = submit("grace@example.com", "defer-451-1+mixed@example.com")

    for job in (fine, refused, postponed):
        wait_for_end(job)
    assert (fine.state, fine.result, fine.attempts) == (
        State.SUCCEEDED, {"sent": 1, "failed": 0}, 1,
    )  # fmt: skip
    assert (refused.state, refused.result) == (State.FAILED, {"sent": 0, "failed": 1})
    assert refused.error.startswith("550 ")
    assert (postponed.state, postponed.attempts) == (State.SUCCEEDED, 2)
    assert mails.recipients() == [
        "ada@example.com", "defer-451-1+mixed@example.com", "grace@example.com",
    ]  # fmt: skip


def test_a_cancelled_newsletter_leaves_the_buffer(
    worker: Role, mails: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as nobody_works:
        nobody_works.setattr(mix_waiting, "flush_on_commit", lambda _numbers: None)
        jobs = [submit(f"r{number:02}@example.com") for number in range(30)]
        for job in jobs[::2]:
            job_cancel(job.id)
    # Brings a run, which finds all who still wait.
    jobs.append(submit("r30@example.com"))

    for job in [*jobs[1::2], jobs[30]]:
        assert wait_for_end(job).state == State.SUCCEEDED
    assert mails.recipients() == [f"r{number:02}@example.com" for number in [*range(1, 30, 2), 30]]
    for job in jobs[:30:2]:
        job.refresh_from_db()
        assert (job.state, job.done, job.total) == (State.CANCELLED, 0, 1)
    assert not Recipient.objects.filter(state=RecipientState.PENDING).exists()


def test_a_mixture_that_is_given_up_fails_its_jobs_and_a_replay_sends_the_rest(
    worker: Role, mails: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as nobody_works:
        nobody_works.setattr(mix_waiting, "flush_on_commit", lambda _numbers: None)
        nobody_works.setattr(publishing, "publish_or_leave", lambda _messages: None)
        done, left = submit("ada@example.com"), submit("grace@example.com", "joan@example.com")
        Job.objects.update(state=State.RUNNING)
        Recipient.objects.filter(address="joan@example.com").update(waiting=True)
        Recipient.objects.exclude(address="joan@example.com").update(waiting=False)
        Recipient.objects.filter(newsletter_id=done.id).update(state=RecipientState.SENT)
        Job.objects.filter(id=done.id).update(state=State.SUCCEEDED)
        keys = list(Recipient.objects.filter(waiting=False).values_list("pk", flat=True))
        letter = UUID(send_mixture.delay_on_commit(keys))
        claim = ledger.claim(letter, "a worker with a bug")
        assert claim is not None
        ledger.bury(claim, "RuntimeError: a bug")

    done.refresh_from_db()
    left.refresh_from_db()
    assert (done.state, left.state) == (State.SUCCEEDED, State.FAILED)
    assert left.error == "RuntimeError: a bug"

    ledger.replay([letter])
    # The one that had waited, too, for which no run will come.
    assert wait_for_end(left).result == {"sent": 2, "failed": 0}
    assert mails.recipients() == ["grace@example.com", "joan@example.com"]


def test_a_small_newsletter_does_not_wait_for_the_end_of_a_large_one(
    worker: Role, mails: MailSink
) -> None:
    large = submit(*[f"r{number:04}@example.com" for number in range(4000)])
    wait_until(lambda: Recipient.objects.filter(state="sent").exists(), what="the first mail")

    small = wait_for_end(submit("ada@example.com"))

    assert small.state == State.SUCCEEDED
    large.refresh_from_db()
    assert large.is_open
    assert Recipient.objects.filter(newsletter_id=large.id, state="pending").count() > 1000
    job_cancel(large.id)

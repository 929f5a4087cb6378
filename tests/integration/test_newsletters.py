"""Newsletters from submission to the last mail, with a real broker, worker and mail server."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from threading import Event, Thread
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from redis import Redis

from delivery import ledger, publishing
from delivery.errors import TransientError
from jobs.models import Job, State
from jobs.services import job_cancel
from newsletters.models import Newsletter, Recipient, RecipientState
from newsletters.services import Batch, batch_send, newsletter_submit, unique_addresses
from newsletters.tasks import send_batch
from tests.conftest import broker_is_idle
from tests.integration.conftest import wait_for_end
from tests.support.mail_sink import MailSink
from tests.support.roles import Role, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def submit(*addresses: str, **options: Any) -> Job:
    return newsletter_submit(
        subject="Hello",
        body="Text",
        recipients=addresses,
        requested_by="tester",
        **options,
    )


def people(number: int) -> list[str]:
    return sorted(f"r{index:05}@example.com" for index in range(number))


def stored_only(*addresses: str) -> Batch:
    """Store a running newsletter that no worker knows of; returns its one batch."""
    job = Job.objects.create(kind="newsletter", state=State.RUNNING, total=len(addresses))
    newsletter = Newsletter.objects.create(job=job, subject="Hello", body="Text")
    for position, address in enumerate(addresses):
        Recipient.objects.create(newsletter=newsletter, position=position, address=address)
    return Batch(job.id, 0, len(addresses))


def test_everybody_gets_one_mail(worker: Role, mails: MailSink) -> None:
    job = wait_for_end(submit(*people(250)))

    assert job.state == State.SUCCEEDED
    assert job.result == {"sent": 250, "failed": 0}
    assert (job.done, job.total, job.attempts) == (250, 250, 1)
    assert mails.recipients() == people(250)


def test_a_final_no_is_recorded_and_not_tried_again(worker: Role, mails: MailSink) -> None:
    job = wait_for_end(submit("ada@example.com", "reject-550@example.com"))

    assert job.state == State.SUCCEEDED
    assert job.result == {"sent": 1, "failed": 1}
    refused = Recipient.objects.get(address="reject-550@example.com")
    assert refused.state == RecipientState.FAILED
    assert refused.attempts == 1
    assert refused.error.startswith("550 ")
    assert mails.recipients() == ["ada@example.com"]


def test_a_postponed_mail_is_tried_again_and_nobody_else_is_mailed_twice(
    worker: Role, mails: MailSink
) -> None:
    job = wait_for_end(submit(*people(20), "defer-451-2@example.com"))

    assert job.result == {"sent": 21, "failed": 0}
    assert job.attempts == 3
    assert Recipient.objects.get(address="defer-451-2@example.com").attempts == 3
    assert mails.recipients() == sorted([*people(20), "defer-451-2@example.com"])


def test_a_job_fails_with_the_reason_when_nobody_can_be_reached(
    worker: Role, mails: MailSink
) -> None:
    job = wait_for_end(submit("reject-550@example.com", "reject-554@example.com"))

    assert job.state == State.FAILED
    assert job.error.startswith("550 ")


def test_a_busy_mail_server_costs_time_but_no_mail(worker: Role, mails: MailSink) -> None:
    mails.fail(30)
    job = submit(*people(150))
    wait_until(lambda: Recipient.objects.filter(attempts__gt=1).exists(), what="a second attempt")
    mails.fail(0)

    assert wait_for_end(job, 120).result == {"sent": 150, "failed": 0}
    assert max(Counter(mails.recipients()).values()) == 1
    assert len(mails.recipients()) == 150


def test_a_mail_that_cannot_be_written_fails_alone(mails: MailSink) -> None:
    batch = stored_only("ada@example.com", f"a@{'ä' * 62}.com", "grace@example.com")

    batch_send(batch, last_attempt=False)

    assert Job.objects.get().result == {"sent": 2, "failed": 1}
    assert mails.recipients() == ["ada@example.com", "grace@example.com"]


def test_a_batch_that_is_given_up_fails_its_job_and_a_replay_sends_the_rest(
    worker: Role, mails: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "publish_or_leave", lambda _messages: None)
    batch = stored_only(*people(3))
    Recipient.objects.filter(position=0).update(state=RecipientState.SENT)
    letter = UUID(send_batch.delay_on_commit(str(batch.newsletter_id), 0, 3))
    claim = ledger.claim(letter, "a worker with a bug")
    assert claim is not None
    ledger.bury(claim, "RuntimeError: a bug")

    job = Job.objects.get()
    assert (job.state, job.error) == (State.FAILED, "RuntimeError: a bug")
    assert job.result == {"sent": 1, "failed": 0}
    assert set(Recipient.objects.values_list("state", flat=True)) == {"sent", "cancelled"}

    ledger.replay([letter])
    assert wait_for_end(job).result == {"sent": 3, "failed": 0}
    assert (job.state, mails.recipients()) == (State.SUCCEEDED, people(3)[1:])


def test_the_last_attempt_records_what_is_left(mails: MailSink) -> None:
    batch = stored_only("ada@example.com", "defer-451-9@example.com")
    with pytest.raises(TransientError, match="451"):
        batch_send(batch, last_attempt=False)
    batch_send(batch, last_attempt=True)

    job = Job.objects.get()
    assert (job.state, job.result) == (State.SUCCEEDED, {"sent": 1, "failed": 1})
    assert mails.recipients() == ["ada@example.com"]


def test_a_mail_server_that_is_away_is_no_fault_of_the_recipients(
    mails: MailSink, settings: Any
) -> None:
    batch = stored_only("ada@example.com")
    settings.EMAIL_PORT = 1
    with pytest.raises(TransientError):
        batch_send(batch, last_attempt=False)
    assert Recipient.objects.get().state == RecipientState.PENDING

    batch_send(batch, last_attempt=True)
    assert Recipient.objects.get().state == RecipientState.FAILED
    assert Job.objects.get().state == State.FAILED


def test_a_batch_that_runs_twice_at_the_same_time_mails_everybody_once(mails: MailSink) -> None:
    batch = stored_only(*people(60))

    def send() -> None:
        # One that ends while another one writes comes back later.
        with suppress(TransientError):
            batch_send(batch, last_attempt=False)
        connection.close()

    threads = [Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert mails.recipients() == people(60)
    assert Job.objects.get().result == {"sent": 60, "failed": 0}


@pytest.mark.parametrize("last_attempt", [False, True])
def test_somebody_whom_a_frozen_process_holds_is_not_forgotten(
    mails: MailSink, *, last_attempt: bool
) -> None:
    batch = stored_only(*people(3))
    held, released = Event(), Event()

    def hold() -> None:
        with transaction.atomic():
            Recipient.objects.select_for_update().get(position=1)
            held.set()
            released.wait(60)
        connection.close()

    frozen = Thread(target=hold)
    frozen.start()
    held.wait(60)
    with pytest.raises(TransientError, match="another process"):
        batch_send(batch, last_attempt=last_attempt)
    released.set()
    frozen.join()
    assert Job.objects.get().state == State.RUNNING

    batch_send(batch, last_attempt=last_attempt)
    assert Job.objects.get().result == {"sent": 3, "failed": 0}
    assert mails.recipients() == people(3)


def test_a_mail_that_is_sent_again_has_the_same_name(mails: MailSink) -> None:
    batch = stored_only("ada@example.com")
    batch_send(batch, last_attempt=False)
    # The process died after the server's yes and before the commit:
    Recipient.objects.update(state=RecipientState.PENDING)
    Job.objects.update(state=State.RUNNING)
    batch_send(batch, last_attempt=False)

    messages = mails.request("/api/v1/messages")["messages"]
    assert len(messages) == 2
    assert len({message["MessageID"] for message in messages}) == 1


def test_cancelling_stops_the_mails(worker: Role, mails: MailSink) -> None:
    job = submit(*people(5000))
    wait_until(lambda: Recipient.objects.filter(state="sent").exists(), what="the first mail")
    job_cancel(job.id)
    sent = Recipient.objects.filter(state="sent").count()

    job.refresh_from_db()
    assert job.state == State.CANCELLED
    assert sent < 5000
    # What was in a worker's hands at that moment may still go out: one mail for each process.
    wait_until(lambda: not Recipient.objects.filter(state="pending").exists(), what="no pending")
    assert len(mails.recipients()) <= sent + 2


def test_a_rolled_back_submission_leaves_nothing(empty_broker: Redis) -> None:
    class Undone(Exception):  # noqa: N818 - not an error
        pass

    with suppress(Undone), transaction.atomic():
        submit("ada@example.com")
        raise Undone

    assert not Job.objects.exists()
    assert broker_is_idle(empty_broker)


def test_a_repeated_submission_sends_one_mail(worker: Role, mails: MailSink) -> None:
    first = submit("ada@example.com", idempotency_key=str(uuid4()))
    again = submit("ada@example.com", idempotency_key=first.idempotency_key)

    assert again == first
    assert wait_for_end(first).result == {"sent": 1, "failed": 0}
    assert mails.recipients() == ["ada@example.com"]


def test_addresses_are_the_same_whatever_their_case() -> None:
    assert unique_addresses(["A@b.de", "c@d.de", "a@B.de"]) == ["A@b.de", "c@d.de"]

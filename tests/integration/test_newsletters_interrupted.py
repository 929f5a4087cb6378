"""Newsletters of both styles whose workers are killed in the middle: each mail, and each end, once.

The roles here have a broker database of their own, so that no other worker takes the work.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import psutil
import pytest
from django.db.models.functions import Now

from delivery import ledger, publishing
from delivery.models import Delivery
from delivery.models import State as DeliveryState
from deploy.embedded.servers import RedisServer
from jobs.models import Job, State
from newsletters.models import Recipient, RecipientState
from newsletters.services import newsletter_submit
from tests.support.mail_sink import MailSink
from tests.support.roles import ROOT, Role, running_relay, running_worker, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

#: Recipients of the large newsletter, and number of small ones with one recipient each.
LARGE, SMALL = 300, 120
#: Mails of each style after which the worker is killed: in the middle of a batch.
BEGUN = 5
#: A mail that was under way in a process that was killed is sent again, with the same Message-ID.
POOL_PROCESSES = 2


@pytest.fixture(scope="module")
def own_settings(role_settings: dict[str, str], redis: RedisServer) -> dict[str, str]:
    return {
        **role_settings,
        "BROKER_URL": f"{redis.url}/7",
        "PYTHONPATH": str(ROOT),
        # Many batches, each of which enters the one that follows.
        "NEWSLETTER_BATCH_SIZE": "20",
    }


@pytest.fixture(scope="module")
def relay(own_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Role]:
    with running_relay(tmp_path_factory.mktemp("relay"), **own_settings) as role:
        yield role


@pytest.fixture(autouse=True)
def only_the_relay_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process would publish to the other broker database."""
    monkeypatch.setattr(publishing, "publish_or_leave", lambda _messages: None)


def own_worker(
    directory: Path, settings: dict[str, str], name: str
) -> AbstractContextManager[Role]:
    """Run a worker of the broker of these tests."""
    concurrency = str(POOL_PROCESSES)
    return running_worker(directory, name=name, WORKER_CONCURRENCY=concurrency, **settings)


def submit_both_styles() -> None:
    """Submit one large newsletter, and many small ones."""
    for addresses in (
        [f"large{number:03}@example.com" for number in range(LARGE)],
        *([f"small{number:03}@example.com"] for number in range(SMALL)),
    ):
        newsletter_submit(subject="Hello", body="Text", recipients=addresses, requested_by="tester")
    # This process has published nothing; the relay would notice in 15 s.
    make_due(DeliveryState.DISPATCHED)


def make_due(state: DeliveryState) -> None:
    """Have the relay look at deliveries now, as it would when their time has run out."""
    Delivery.objects.filter(state=state).update(due_at=Now())
    ledger.notify_relays()


def begun(style: str) -> bool:
    sent = Recipient.objects.filter(state=RecipientState.SENT, address__startswith=style)
    return sent.count() >= BEGUN


def wait_for_the_middle() -> None:
    """Wait until some mails of each style are sent."""
    for style in ("large", "small"):
        wait_until(partial(begun, style), timeout=60, what=f"{style} mails")


def assert_all_is_well(mails: MailSink) -> None:
    """Wait for the end, and compare what arrived with what was asked for."""
    wait_until(
        lambda: not Job.objects.filter(finished_at=None).exists(),
        timeout=120,
        what="all jobs end",
    )
    messages = mails.request("/api/v1/messages?limit=10000")["messages"]
    received = Counter(message["To"][0]["Address"] for message in messages)
    assert sorted(received) == sorted(Recipient.objects.values_list("address", flat=True))
    assert sum(received.values()) - len(received) <= POOL_PROCESSES
    assert len({message["MessageID"] for message in messages}) == len(received)
    assert set(Recipient.objects.values_list("state", flat=True)) == {RecipientState.SENT}
    ends = Job.objects.values_list("state", "total", "done", "result__sent", "result__failed")
    assert Counter(ends) == {
        (State.SUCCEEDED, LARGE, LARGE, LARGE, 0): 1,
        (State.SUCCEEDED, 1, 1, 1, 0): SMALL,
    }
    wait_until(
        lambda: not Delivery.objects.filter(finished_at=None).exists(),
        timeout=60,
        what="all deliveries end",
    )
    assert not Delivery.objects.filter(state=DeliveryState.DEAD).exists()


def test_killed_pool_processes_cost_no_mail(
    relay: Role, own_settings: dict[str, str], mails: MailSink, tmp_path: Path
) -> None:
    submit_both_styles()
    with own_worker(tmp_path, own_settings, "survivor") as worker:
        wait_for_the_middle()
        for process in psutil.Process(worker.process.pid).children(recursive=True):
            process.kill()
        assert_all_is_well(mails)
        assert worker.process.poll() is None


def test_a_new_worker_ends_what_a_killed_one_has_begun(
    relay: Role, own_settings: dict[str, str], mails: MailSink, tmp_path: Path
) -> None:
    submit_both_styles()
    with own_worker(tmp_path, own_settings, "victim") as worker:
        wait_for_the_middle()
        os.killpg(worker.process.pid, signal.SIGKILL)
        worker.process.wait(30)
    pending = Recipient.objects.filter(state=RecipientState.PENDING)
    assert pending.exists(), "it was killed too late"
    # Its leases, of 30 s.
    make_due(DeliveryState.RUNNING)
    with own_worker(tmp_path, own_settings, "successor"):
        assert_all_is_well(mails)

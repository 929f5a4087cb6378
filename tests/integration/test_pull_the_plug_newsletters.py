"""A worker is killed with all its processes in the middle of a newsletter."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from pathlib import Path

import pytest
from django.db.models.functions import Now

from delivery import publishing
from delivery.models import OPEN_STATES, Delivery
from deploy.embedded.servers import RedisServer
from jobs.models import State
from newsletters.models import Recipient, RecipientState
from newsletters.services import newsletter_submit
from tests.conftest import MailSink
from tests.integration.conftest import wait_for_end
from tests.support.roles import running_role, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]

#: A broker of its own, so that the worker of the other tests takes none of the work.
DATABASE = 7
PROCESSES = 2
PEOPLE = 400


@pytest.fixture
def settings_of_roles(
    role_settings: dict[str, str], redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Return the environment of roles with a broker of their own."""
    # This process would publish to the broker of the others; the relay does it.
    monkeypatch.setattr(publishing, "publish_or_leave", lambda _messages: None)
    return {
        **role_settings,
        "BROKER_URL": f"{redis.url}/{DATABASE}",
        "WORKER_CONCURRENCY": str(PROCESSES),
    }


def pass_time() -> None:
    """Let leases and the patience with messages run out at once, instead of after 30 s."""
    Delivery.objects.filter(state__in=OPEN_STATES).update(due_at=Now())


def test_everybody_gets_the_mail_of_a_newsletter_whose_worker_was_killed(
    settings_of_roles: dict[str, str], mails: MailSink, tmp_path: Path
) -> None:
    people = [f"r{index:05}@example.com" for index in range(PEOPLE)]
    job = newsletter_submit(subject="Hello", body="Text", recipients=people, requested_by="ann")
    pass_time()
    sent = Recipient.objects.filter(state=RecipientState.SENT)
    with (
        running_role(tmp_path, "relay", **settings_of_roles),
        running_role(tmp_path, "worker", **settings_of_roles) as doomed,
    ):
        wait_until(lambda: sent.count() > 20, timeout=90, what="the first mails")
        # The main process and its pool: nobody is left to tell the ledger.
        os.killpg(doomed.process.pid, signal.SIGKILL)
        doomed.process.wait()
        assert sent.count() < PEOPLE, "it was to be in the middle"

        pass_time()
        with running_role(tmp_path, "worker", name="heir", **settings_of_roles):
            assert wait_for_end(job, 120).state == State.SUCCEEDED
            wait_until(
                lambda: not Delivery.objects.filter(state__in=OPEN_STATES).exists(),
                what="nothing is open",
            )

    assert (job.done, job.result) == (PEOPLE, {"sent": PEOPLE, "failed": 0})
    names = defaultdict(list)
    for mail in mails.request("/api/v1/messages?limit=20000")["messages"]:
        names[mail["To"][0]["Address"]].append(mail["MessageID"])
    assert sorted(names) == people
    # A process that dies between the server's yes and the commit sends that one mail again, under
    # the same name (docs/decisions/0015); each of the killed ones had one in hand at most.
    again = [each for each in names.values() if len(each) > 1]
    assert len(again) <= PROCESSES
    assert all(len(set(each)) == 1 and len(each) == 2 for each in again)

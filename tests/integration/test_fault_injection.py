"""Faults on purpose: each does what it says, ends, and leaves nothing behind."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.control import Panel
from django.contrib.auth import get_user_model
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from redis import Redis

from config.celery import app
from delivery.errors import PermanentError
from delivery.models import OPEN_STATES, Delivery, QuarantinedMessage, State
from fault_injection import apps, catalogue, mail_sink, tasks, workers
from fault_injection.catalogue import FAULTS
from fault_injection.errors import FaultError, FaultsAreOffError
from fault_injection.mechanisms import MECHANISMS
from fault_injection.models import FaultRun
from fault_injection.services import (
    active_faults,
    fault_is_active,
    fault_start,
    fault_stop,
    faults_status,
    faults_stop,
)
from jobs.models import State as JobState
from newsletters.models import Recipient
from newsletters.services import newsletter_submit
from tests.integration.conftest import wait_for_end
from tests.support.durable_tasks import add
from tests.support.mail_sink import MailSink
from tests.support.roles import Role, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def wanted(settings: Any, mail_server: MailSink) -> None:
    settings.FAULT_INJECTION = True
    settings.MAIL_SINK_URL = mail_server.url


@pytest.fixture
def stack(worker: Role, wanted: None, mails: MailSink) -> Iterator[Role]:
    """Return the worker; afterwards everything must be as if nothing had been."""
    yield worker
    faults_stop()
    wait_until(
        lambda: not Delivery.objects.filter(state__in=OPEN_STATES).exists(), what="nothing is open"
    )
    assert not FaultRun.objects.filter(ended_at=None).exists()
    assert mails.request("/api/v1/chaos")["Sender"]["Probability"] == 0
    wait_until(lambda: says(worker) == "consuming", what="the worker consumes")


@pytest.fixture
def staff() -> Client:
    browser = Client(enforce_csrf_checks=False)
    browser.force_login(get_user_model().objects.create_superuser("ann", password="ann"))
    return browser


def says(worker: Role) -> str:
    """Return what the worker's heartbeat says it does."""
    note = json.loads(Path(worker.environment["HEARTBEAT_FILE"]).read_text())
    return str(note["state"])


def people(number: int) -> list[str]:
    return sorted(f"r{index:05}@example.com" for index in range(number))


def deliveries(task: str) -> Any:
    return Delivery.objects.filter(task=f"fault_injection.{task}")


# --- Off, and not for everybody ------------------------------------------------------------------


def test_nothing_is_there_unless_it_is_wanted(staff: Client, redis: Any) -> None:
    for path in ("/faults/bug/start", "/faults/bug/stop", "/faults/stop"):
        assert staff.post(path).status_code == 404
    assert staff.get("/faults").status_code == 404
    assert "Break something" not in staff.get("/").content.decode()

    with pytest.raises(FaultsAreOffError):
        fault_start("bug", requested_by="ann")
    for task in (tasks.slow_database, tasks.poison, tasks.bug, tasks.brief):
        with pytest.raises(FaultsAreOffError):
            task("00000000-0000-0000-0000-000000000000")
    assert (active_faults(), faults_status()) == (set(), [])
    assert not FaultRun.objects.exists() and not Delivery.objects.exists()


def test_a_worker_learns_to_pause_only_where_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(Panel, "data", {})
    monkeypatch.setattr(Panel, "meta", {})

    worker = SimpleNamespace(app=SimpleNamespace(steps={"consumer": set()}))
    apps.prepare_worker(worker)
    assert (Panel.data, worker.app.steps["consumer"]) == ({}, set())

    settings.FAULT_INJECTION = True
    apps.prepare_worker(worker)
    assert set(Panel.data) == {"pause_consuming", "resume_consuming"}
    for seconds in (0, -1, 1e9, float("nan"), "many"):
        assert "error" in Panel.data["pause_consuming"](None, seconds)


def test_poison_kills_no_process_that_is_not_a_workers(wanted: None) -> None:
    with pytest.raises(PermanentError, match="not one of a worker's pool"):
        tasks.poison("00000000-0000-0000-0000-000000000000")


def test_only_staff_may_break_things(wanted: None, client: Client, redis: Any) -> None:
    paths = ("/faults/bug/start", "/faults/bug/stop", "/faults/stop")
    get_user_model().objects.create_user("eve", password="eve")
    for signed_in in (False, True):
        if signed_in:
            assert client.login(username="eve", password="eve")
        for path in paths:
            assert client.post(path)["Location"].startswith("/sign-in")
        assert client.get("/faults")["Location"].startswith("/sign-in")

    strict = Client(enforce_csrf_checks=True)
    strict.force_login(get_user_model().objects.create_superuser("ann", password="ann"))
    for path in paths:
        assert strict.post(path).status_code == 403
        assert strict.get(path).status_code == 405
    assert not FaultRun.objects.exists()


def test_every_fault_has_a_mechanism_and_says_what_to_expect() -> None:
    assert [fault.name for fault in FAULTS] == list(MECHANISMS)
    for fault in FAULTS:
        assert 0 <= fault.seconds <= 180
        assert fault.title and fault.description and len(fault.expect) > 50


# --- The panel -----------------------------------------------------------------------------------


def test_the_panel_starts_shows_and_stops_a_fault(
    staff: Client, stack: Role, mails: MailSink
) -> None:
    assert staff.post("/faults/refuse-mail/start")["Location"] == "/"
    page = staff.get("/").content.decode()
    assert "Break something" in page and "started by ann" in page and " s left" in page
    for fault in FAULTS:
        assert fault.title in page
    assert mails.request("/api/v1/chaos")["Sender"] == {"ErrorCode": 451, "Probability": 30}

    # Twice is once, whoever asks.
    again = fault_start("refuse-mail", requested_by="bob")
    assert (again.requested_by, FaultRun.objects.count()) == ("ann", 1)
    assert active_faults() == {"refuse-mail"}

    part = staff.post("/faults/refuse-mail/stop", headers={"HX-Request": "true"})
    assert part.status_code == 200 and part.content.startswith(b"<section id=")
    assert b"started by" not in part.content and b"<html" not in part.content
    assert mails.request("/api/v1/chaos")["Sender"]["Probability"] == 0
    assert staff.post("/faults/refuse-mail/stop").status_code == 302
    assert staff.post("/faults/nonsense/start").status_code == 404
    assert staff.post("/faults/nonsense/stop").status_code == 404
    assert not Delivery.objects.filter(state__in=OPEN_STATES).exists()


def test_the_panel_says_why_a_fault_cannot_be_had(
    staff: Client, stack: Role, mails: MailSink, settings: Any
) -> None:
    for url, reason in (
        ("", "MAIL_SINK_URL"),
        ("http://127.0.0.1:1", "cannot be reached"),
        ("nonsense", "cannot be reached"),
        (f"{mails.url}/elsewhere", "MP_ENABLE_CHAOS=true"),
    ):
        settings.MAIL_SINK_URL = url
        part = staff.post("/faults/refuse-mail/start", headers={"HX-Request": "true"})
        assert part.status_code == 200
        assert reason in part.content.decode() and 'role="alert"' in part.content.decode()
    assert active_faults() == set()
    assert FaultRun.objects.exclude(error="").count() == 4


def test_a_sink_that_hangs_is_told_again_until_it_hears(
    stack: Role, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail_sink, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.MAIL_SINK_URL = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(FaultError, match="does not answer"):
            fault_start("refuse-mail", requested_by="ann", seconds=6)
        # It may have heard the order: somebody has to take it back.
        run = FaultRun.objects.get()
        assert run.ended_at is None
        wait_until(lambda: not FaultRun.objects.filter(ended_at=None).exists(), timeout=60)


# --- Each fault ----------------------------------------------------------------------------------


def test_refused_mails_arrive_in_the_end_and_once(stack: Role, mails: MailSink) -> None:
    run = fault_start("refuse-mail", requested_by="ann")
    job = newsletter_submit(
        subject="Hello", body="Text", recipients=people(200), requested_by="ann"
    )
    wait_until(lambda: Recipient.objects.filter(attempts__gt=1).exists(), what="a second attempt")
    assert Recipient.objects.exclude(error="").first().error.startswith("451")  # type: ignore[union-attr]

    # Its time is over; nobody stops it.
    FaultRun.objects.update(ends_at=Now())
    Delivery.objects.filter(id=run.id).update(due_at=Now())
    assert wait_for_end(job, 120).state == JobState.SUCCEEDED
    assert mails.recipients() == people(200)
    wait_until(lambda: not FaultRun.objects.filter(ended_at=None).exists(), what="it was ended")


def test_a_slow_database_holds_up_everybody_and_fails_nobody(stack: Role) -> None:
    fault_start("slow-database", requested_by="ann")
    waited: list[float] = []

    def slow() -> bool:
        began = time.monotonic()
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM jobs_job")
        waited.append(time.monotonic() - began)
        return sum(wait > 0.2 for wait in waited) >= 3

    wait_until(slow, what="queries wait")
    assert add.delay(1, 2).get(timeout=60) == 3

    fault_stop("slow-database")
    wait_until(lambda: deliveries("slow_database").filter(state=State.SUCCEEDED).exists())
    delivery = deliveries("slow_database").get()
    assert delivery.attempts == 1 and delivery.result >= 3


def test_a_poison_message_becomes_a_dead_letter_and_all_else_goes_on(stack: Role) -> None:
    run = fault_start("poison", requested_by="ann")
    wait_until(lambda: deliveries("poison").get().interruptions >= 2, timeout=60)
    assert add.delay(1, 2).get(timeout=60) == 3
    assert fault_is_active(run.id)
    # The whole way takes a minute; these are its last steps.
    deliveries("poison").update(interruptions=9)
    wait_until(lambda: deliveries("poison").get().state == State.DEAD, timeout=60)
    assert deliveries("poison").get().error.startswith("Its worker died 10 times. Last: WorkerLost")
    assert not fault_is_active(run.id)


def test_a_bug_is_a_dead_letter_at_once(stack: Role) -> None:
    fault_start("bug", requested_by="ann")
    wait_until(lambda: deliveries("bug").get().state == State.DEAD)
    letter = deliveries("bug").get()
    assert letter.attempts == 1 and letter.error.startswith("PermanentError")
    assert active_faults() == set()


def test_forged_messages_end_in_the_quarantine(stack: Role) -> None:
    fault_start("forge", requested_by="ann")
    refused = QuarantinedMessage.objects.filter(claimed_task="fault_injection.brief")
    wait_until(lambda: refused.count() == 2, what="both are refused")
    assert sorted(refused.values_list("reason", flat=True)) == [
        "not signed: another content type",
        "the signature is wrong",
    ]
    assert not deliveries("brief").exists()


def test_a_flood_makes_a_queue_wait_and_stops_when_told(
    stack: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "FLOOD_TASKS", 300)
    fault_start("flood", requested_by="ann")
    assert deliveries("brief").count() == 300

    def waits_too_long() -> bool:
        last = deliveries("brief").filter(state=State.SUCCEEDED).order_by("-started_at").first()
        return last is not None and (last.started_at - last.created_at).total_seconds() > 5

    wait_until(waits_too_long, what="the wait exceeds the target")
    assert faults_stop() == 1
    ends = Counter(deliveries("brief").values_list("state", flat=True))
    assert ends[State.CANCELLED] > 0 and ends[State.SUCCEEDED] > 0
    assert ends[State.CANCELLED] + ends[State.SUCCEEDED] == 300


def test_a_paused_worker_answers_and_takes_nothing_even_after_a_reconnect(
    stack: Role, broker: Redis
) -> None:
    fault_start("pause-worker", requested_by="ann")
    assert says(stack) == "paused"
    assert (stack.probe("live"), stack.probe("ready")) == (0, 1)

    losses = stack.log.count("worker_connection_lost") + stack.log.count("Connection to broker")
    broker.client_kill_filter(_type="pubsub")
    wait_until(
        lambda: (
            stack.log.count("worker_connection_lost") + stack.log.count("Connection to broker")
            > losses
        ),
        what="the connection is lost",
    )
    ids = [add.delay_on_commit(number, 1) for number in range(5)]
    wait_until(lambda: app.control.inspect(timeout=1).ping() is not None, what="it answers")
    assert says(stack) == "paused"
    # It may have been asking for one at that moment.
    assert Delivery.objects.filter(id__in=ids, attempts=0).count() >= 4

    fault_stop("pause-worker")
    wait_until(lambda: Delivery.objects.filter(id__in=ids, state=State.SUCCEEDED).count() == 5)


def test_a_pause_ends_by_the_workers_own_clock(stack: Role) -> None:
    run = fault_start("pause-worker", requested_by="ann", seconds=2)
    result = add.delay(1, 2)
    wait_until(lambda: says(stack) == "consuming", what="the worker goes on")
    assert result.get(timeout=60) == 3
    wait_until(lambda: not fault_is_active(run.id))
    # The task that ends it may not have run yet; whoever looks does its work.
    assert not any(fault.active for fault in faults_status())
    assert not FaultRun.objects.filter(ended_at=None).exists()
    # Anew, at once.
    fault_start("pause-worker", requested_by="ann")
    assert active_faults() == {"pause-worker"}


def test_everything_at_once_ends_at_a_word(
    staff: Client, stack: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "FLOOD_TASKS", 100)
    # Poison kills its processes meanwhile.
    monkeypatch.setattr(workers, "ANSWER_SECONDS", 5.0)
    for fault in FAULTS:
        staff.post(f"/faults/{fault.name}/start")
    assert active_faults() == {fault.name for fault in FAULTS if fault.seconds}
    staff.post("/faults/stop")
    assert active_faults() == set()
    assert deliveries("poison").get().state == State.CANCELLED

"""Error reports, as a Sentry gets them: once for each error that nobody expected."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from delivery.models import Delivery, State
from deploy.embedded.servers import free_port
from tests.support.durable_tasks import add, fail, overstay, watched
from tests.support.receivers import Receiver, running_receiver, silent_server
from tests.support.roles import (
    DURABLE_TASKS,
    ROOT,
    role_environment,
    running_relay,
    running_web,
    running_worker,
    wait_until,
)

# Starts and stops several roles, with a receiver that is slow on purpose.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]


@pytest.fixture
def sentry() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


#: A program that reports before a fork, on both sides of it.
FORKING = """
import os, django
django.setup()
import config.celery, sentry_sdk

def report(text):
    sentry_sdk.capture_exception(ValueError(text))

report("before")
sentry_sdk.flush(5)
child = os.fork()
report("after")
sentry_sdk.flush(5)
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    os._exit(0)
"""


def dsn(url: str) -> str:
    return url.replace("http://", "http://a-key@") + "/42"


def reports(receiver: Receiver) -> list[dict[str, Any]]:
    """Return the events of all envelopes (https://develop.sentry.dev/sdk/foundations/envelopes/)."""
    events = []
    for request in receiver.received:
        assert request.path == "/api/42/envelope/"
        assert "sentry_key=a-key" in request.headers["x-sentry-auth"]
        _envelope, *parts = request.body.split(b"\n")
        for header, payload in zip(parts[::2], parts[1::2], strict=False):
            assert json.loads(header)["type"] == "event"
            events.append(json.loads(payload))
    return events


def ended(delivery_id: str) -> Delivery:
    row = Delivery.objects.filter(id=delivery_id, finished_at__isnull=False)
    wait_until(row.exists, timeout=40, what="the delivery ends")
    return row.get()


def test_a_view_with_a_bug_is_reported_once_and_nobody_is_named(
    role_settings: dict[str, str], sentry: Receiver, tmp_path: Path
) -> None:
    settings = {
        **role_settings,
        "DJANGO_SETTINGS_MODULE": "tests.support.settings_with_a_bug",
        "PYTHONPATH": str(ROOT),
        "SENTRY_DSN": dsn(sentry.url),
        "SENTRY_ENVIRONMENT": "tests",
        "CELERIAC_VERSION": "1.2.3",
    }
    with running_web(tmp_path, **settings) as web:
        request = urllib.request.Request(
            f"{web.url}/tests/fail?visitor=ada-lovelace",
            headers={"Cookie": "sessionid=ada-lovelace", "Authorization": "Bearer ada-lovelace"},
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=20)
        with caught.value as answer:
            assert answer.code == 500
        wait_until(lambda: reports(sentry), what="a report")
        assert web.role.stop(timeout=30) == 0
        assert all(line.startswith("{") for line in web.role.log.splitlines())
    [report] = reports(sentry)

    [error] = report["exception"]["values"]
    assert (error["type"], error["value"]) == ("ValueError", "a bug, met by 12 characters")
    assert report["release"].startswith("celeriac@1.2.3+")
    assert report["environment"] == "tests"
    assert report["tags"]["service"] == "web"
    assert report["tags"]["request_id"] == caught.value.headers["X-Request-ID"]
    assert report["request"] == {"method": "GET", "url": f"{web.url}/tests/fail"}
    assert "ada-lovelace" not in json.dumps(report)


def test_a_task_is_reported_when_it_has_failed_for_good(
    role_settings: dict[str, str], empty_broker: Any, sentry: Receiver, tmp_path: Path
) -> None:
    settings = {**role_settings, "SENTRY_DSN": dsn(sentry.url)}
    notes = tmp_path / "notes"
    with (
        running_worker(tmp_path, tasks=DURABLE_TASKS, **settings) as worker,
        running_relay(tmp_path, tasks=DURABLE_TASKS, **settings),
    ):
        # Two retries that fail, and one that does not: no report.
        passing = ended(fail.delay_on_commit(str(notes), times=2))
        # Two retries, and then no more.
        failing = ended(fail.delay_on_commit(str(notes), times=100))
        buggy = ended(watched.delay_on_commit("ada-lovelace"))
        wait_until(lambda: len(reports(sentry)) >= 2, what="reports")
        assert worker.stop(timeout=30) == 0
    assert (passing.state, passing.failures) == (State.SUCCEEDED, 2)
    assert (failing.state, failing.failures) == (State.DEAD, 3)
    found = {report["tags"]["task_id"]: report for report in reports(sentry)}

    assert len(reports(sentry)) == 2
    assert set(found) == {str(failing.id), str(buggy.id)}
    assert found[str(failing.id)]["exception"]["values"][-1]["type"] == "TransientError"
    assert found[str(failing.id)]["tags"]["attempt"] == "3"
    report = found[str(buggy.id)]
    assert report["exception"]["values"][-1]["value"] == "broken"
    assert (report["tags"]["service"], report["tags"]["queue"]) == ("worker", buggy.queue)
    assert "ada-lovelace" not in json.dumps(report), "no arguments"


def test_a_task_that_is_killed_for_its_time_limit_is_reported_once(
    role_settings: dict[str, str], empty_broker: Any, sentry: Receiver, tmp_path: Path
) -> None:
    settings = {**role_settings, "SENTRY_DSN": dsn(sentry.url)}
    with running_worker(tmp_path, tasks=DURABLE_TASKS, **settings) as worker:
        killed = ended(overstay.delay_on_commit(str(tmp_path / "notes"), stubborn=True))
        assert killed.state == State.DEAD
        assert worker.stop(timeout=30) == 0
    [report] = reports(sentry)
    assert report["exception"]["values"][-1]["type"] == "TimeLimitExceeded"
    assert report["tags"]["task_id"] == str(killed.id)
    assert report["transaction"] == "tests.overstay"


def test_a_report_is_sent_although_the_worker_is_told_to_stop(
    role_settings: dict[str, str], empty_broker: Any, sentry: Receiver, tmp_path: Path
) -> None:
    settings = {**role_settings, "SENTRY_DSN": dsn(sentry.url)}
    with running_worker(tmp_path, tasks=DURABLE_TASKS, **settings) as worker:
        buggy = ended(watched.delay_on_commit("x"))
        assert worker.stop(timeout=30) == 0
    [report] = reports(sentry)
    assert report["tags"]["task_id"] == str(buggy.id)


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "never answers"])
def test_a_server_that_is_away_holds_up_no_task_and_no_stop(
    *, silent: bool, role_settings: dict[str, str], empty_broker: Any, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        away = f"http://127.0.0.1:{free_port()}"
        url = stack.enter_context(silent_server()) if silent else away
        settings = {**role_settings, "SENTRY_DSN": dsn(url), "WORKER_CONCURRENCY": "1"}
        worker = stack.enter_context(running_worker(tmp_path, tasks=DURABLE_TASKS, **settings))
        for number in range(5):
            ended(watched.delay_on_commit(f"{number}"))
        assert add.delay(1, 2).get(timeout=20) == 3
        assert worker.stop(timeout=30) == 0
        assert "Sentry is attempting" not in worker.log


def test_a_forked_process_has_a_connection_of_its_own(sentry: Receiver, tmp_path: Path) -> None:
    environment = {
        **role_environment(tmp_path, "worker", {"SENTRY_DSN": dsn(sentry.url)}),
        "PYTHONPATH": f"{ROOT}/app",
    }
    subprocess.run([sys.executable, "-c", FORKING], env=environment, check=True, timeout=60)

    said = [report["exception"]["values"][-1]["value"] for report in reports(sentry)]
    assert said == ["before", "after", "after"]
    first, *others = [request.client for request in sentry.received]
    assert first in others, "the parent has kept its own"
    assert others[0] != others[1]

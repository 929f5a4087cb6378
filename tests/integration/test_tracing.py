"""Traces, as a collector gets them: from the request through the ledger to the last task."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Proto

from delivery.models import Delivery
from deploy.embedded.servers import RedisServer, free_port, running
from jobs.models import Job, State
from tests.integration.conftest import TOKEN, wait_for_end
from tests.support import environment
from tests.support.durable_tasks import add
from tests.support.mail_sink import MailSink
from tests.support.receivers import Receiver, Span, running_receiver, silent_server, spans
from tests.support.roles import (
    DURABLE_TASKS,
    ROOT,
    Role,
    Web,
    role_environment,
    running_relay,
    running_role,
    running_web,
    running_worker,
    wait_until,
)

# Starts and stops several roles, with a receiver that is slow on purpose.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]

#: Milliseconds until a process sends its spans by itself: longer than any of these tests.
NEVER = "600000"


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


#: A program that cannot publish: a task that the code has, and one that it does not have.
PUBLISHING = """
import django
django.setup()
import config.celery
from celery import current_app
from opentelemetry import trace
from telemetry import spans
from tests.support.sleeping_task import sleep

spans.start()
for send in (lambda: sleep.delay(0, ""), lambda: current_app.send_task("tests.of_another_version")):
    try:
        send()
    except Exception as error:
        assert trace.get_current_span() is trace.INVALID_SPAN, trace.get_current_span()
    else:
        raise AssertionError("there is no broker")
assert sleep.__otel_task_span == {}
spans.stop()
"""


def submit(web: Web, recipients: int = 20) -> tuple[Job, str]:
    """Submit a newsletter; returns its job and the id of the request."""
    addresses = [f"reader-{number}@example.com" for number in range(recipients)]
    body = {"subject": "s", "body": "b", "recipients": addresses}
    request = urllib.request.Request(
        f"{web.url}/api/jobs/newsletter",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return Job.objects.get(id=json.load(response)["id"]), response.headers["X-Request-ID"]


def line_of(role: Role, event: str, **fields: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in role.log.splitlines()]
    return next(
        line for line in lines
        if line["event"] == event and all(line.get(name) == fields[name] for name in fields)
    )  # fmt: skip


def runs(found: list[Span]) -> dict[str, Span]:
    """Return the spans of tasks, by the id of the task."""
    return {
        span.attributes["task_id"]: span for span in found if span.kind == Proto.SPAN_KIND_CONSUMER
    }


def ancestors(span: Span, found: list[Span]) -> list[Span]:
    """Return the spans that one is inside of, the nearest first."""
    by_id = {one.id: one for one in found}
    line = []
    while span.parent:
        span = by_id[span.parent]
        line.append(span)
    return line


def test_one_request_is_one_trace_from_web_to_the_last_task(
    role_settings: dict[str, str], mails: MailSink, empty_broker: Any, collector: Receiver,
    tmp_path: Path,
) -> None:  # fmt: skip
    settings = {
        **role_settings,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-api-key=tests only",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "CELERIAC_VERSION": "1.2.3",
    }
    with (
        running_web(tmp_path, DATABASE_POOL_SIZE="4", **settings) as web,
        running_worker(tmp_path, tasks=DURABLE_TASKS, **settings) as worker,
    ):
        job, request_id = submit(web)
        assert wait_for_end(job).state == State.SUCCEEDED
        tasks = {str(row.id) for row in Delivery.objects.filter(args__0=str(job.id))}
        wait_until(lambda: set(runs(spans(collector))) == tasks, what="a span of each task")
        trace = runs(spans(collector)).popitem()[1].trace
        wait_until(
            lambda: any(span.kind == Proto.SPAN_KIND_SERVER for span in spans(collector)),
            what="the span of the request",
        )
        started = line_of(worker, "task_started", job_id=str(job.id))
        finished = line_of(web.role, "request_finished", request_id=request_id)
        assert started["trace_id"] == finished["trace_id"] == trace
    found = [span for span in spans(collector) if span.trace == trace]

    [root] = [span for span in found if not span.parent]
    assert (root.service, root.name) == ("web", "POST api/jobs/newsletter")
    assert root.kind == Proto.SPAN_KIND_SERVER
    assert root.attributes["service.version"].startswith("1.2.3+")
    for run in runs(found).values():
        publish, *_, first = ancestors(run, found)
        assert (run.service, publish.kind, first) == ("worker", Proto.SPAN_KIND_PRODUCER, root)
        assert run.attributes["request_id"] == request_id
        assert run.attributes["job_id"] == str(job.id)
    sql = {span.service for span in found if span.attributes.get("db.system") == "postgresql"}
    assert sql == {"web", "worker"}
    # Addresses and texts stay out of it.
    assert not any("reader-" in str(span.attributes) for span in spans(collector))
    # Probes, and threads that look after themselves, begin no trace.
    beginnings = {span.kind for span in spans(collector) if not span.parent}
    assert beginnings == {Proto.SPAN_KIND_SERVER}
    assert {request.headers["x-api-key"] for request in collector.received} == {"tests only"}


def test_a_trace_goes_on_after_the_broker_was_away(
    role_settings: dict[str, str], mails: MailSink, collector: Receiver, tmp_path: Path
) -> None:
    port, directory = free_port(), tmp_path / "redis"
    settings = {
        **role_settings,
        "BROKER_URL": f"redis://:{environment.PASSWORD}@127.0.0.1:{port}/0",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    with ExitStack() as stack:
        web = stack.enter_context(running_web(tmp_path, **settings))
        job, _request_id = submit(web)
        stack.enter_context(running(RedisServer(directory, port, environment.PASSWORD)))
        stack.enter_context(running_worker(tmp_path, tasks=DURABLE_TASKS, **settings))
        stack.enter_context(running_relay(tmp_path, tasks=DURABLE_TASKS, **settings))
        assert wait_for_end(job).state == State.SUCCEEDED
        tasks = {str(row.id) for row in Delivery.objects.filter(args__0=str(job.id))}
        wait_until(lambda: set(runs(spans(collector))) == tasks, what="a span of each task")
        first = str(Delivery.objects.get(task="newsletters.send_newsletter").id)
        wait_until(
            lambda: any(span.service == "relay" for span in spans(collector)), what="the relay's"
        )
    found = spans(collector)
    publish, *_, root = ancestors(runs(found)[first], found)
    assert (publish.service, root.service, root.name) == (
        "relay",
        "web",
        "POST api/jobs/newsletter",
    )
    assert {run.trace for run in runs(found).values()} == {root.trace}


def test_term_loses_no_span(
    role_settings: dict[str, str], mails: MailSink, empty_broker: Any, collector: Receiver,
    tmp_path: Path,
) -> None:  # fmt: skip
    settings = {
        **role_settings,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": NEVER,
    }
    with (
        running_web(tmp_path, **settings) as web,
        running_worker(tmp_path, tasks=DURABLE_TASKS, **settings) as worker,
    ):
        job, _request_id = submit(web)
        plain = [add.delay(number, 1) for number in range(50)]
        assert wait_for_end(job).state == State.SUCCEEDED
        wait_until(lambda: all(result.ready() for result in plain), what="all are done")
        # The last one may be on its way out of its transaction.
        time.sleep(0.5)
        assert not collector.received
        assert worker.stop(timeout=30) == 0
        assert web.role.stop(timeout=30) == 0
    found = spans(collector)
    tasks = {str(row.id) for row in Delivery.objects.all()}
    assert set(runs(found)) == tasks
    assert len(runs(found)) > 50
    [_request] = [span for span in found if span.kind == Proto.SPAN_KIND_SERVER]


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "never answers"])
def test_a_collector_that_is_away_costs_one_line(
    *,
    silent: bool,
    role_settings: dict[str, str],
    empty_broker: Any,
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        away = f"http://127.0.0.1:{free_port()}"
        url = stack.enter_context(silent_server()) if silent else away
        settings = {
            **role_settings,
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "WORKER_CONCURRENCY": "1",
        }
        worker = stack.enter_context(running_worker(tmp_path, tasks=DURABLE_TASKS, **settings))
        for number in range(60):
            assert add.delay(number, 1).get(timeout=20) == number + 1
            time.sleep(0.1)
        begun = time.monotonic()
        assert worker.stop(timeout=30) == 0
        # It would be 30 s: the library waits for its collector as long as that.
        assert time.monotonic() - begun < 28
    complaints = [line for line in worker.log.splitlines() if "opentelemetry" in line]
    assert len(complaints) == 1
    assert json.loads(complaints[0])["level"] in ("warning", "error")


@pytest.mark.parametrize(
    ("role", "check"), [("web", ""), ("worker", "ready"), ("relay", "live"), ("beat", "live")]
)
def test_what_is_off_is_not_even_imported(
    role: str, check: str, role_settings: dict[str, str], redis: RedisServer, tmp_path: Path
) -> None:
    """The files are written by the processes when they end (tests/support/witness)."""
    port = str(free_port())
    settings = {
        **role_settings,
        "PYTHONPATH": str(ROOT / "tests" / "support" / "witness"),
        "IMPORTS_FILE": str(tmp_path / "imports"),
        "WEB_PORT": port,
    }
    with running_role(tmp_path, role, **settings) as running_one:
        probe = (check,) if check else ("http", f"http://127.0.0.1:{port}/readyz")
        running_one.wait_for_probe(*probe)
        assert running_one.stop(timeout=60) == 0
    files = list(tmp_path.glob("imports.*"))
    imported = {name for file in files for name in file.read_text().splitlines()}
    assert "config.settings" in imported and "redis" in imported
    off = {name for name in imported if name.partition(".")[0] in ("opentelemetry", "sentry_sdk")}
    assert off == set()


def test_a_publication_that_fails_ends_its_span(collector: Receiver, tmp_path: Path) -> None:
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "BROKER_URL": f"redis://:x@127.0.0.1:{free_port()}/0",
        "PYTHONPATH": f"{ROOT}/app:{ROOT}",
    }
    environment = role_environment(tmp_path, "manage", settings)
    subprocess.run([sys.executable, "-c", PUBLISHING], env=environment, check=True, timeout=60)
    first, second = spans(collector)
    assert {first.kind, second.kind} == {Proto.SPAN_KIND_PRODUCER}
    assert first.trace != second.trace

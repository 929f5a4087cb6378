"""One grep follows a click through all roles, from the request to the last task."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from delivery.models import Delivery
from jobs.models import Job, State
from tests.integration.conftest import TOKEN, wait_for_end
from tests.support.mail_sink import MailSink
from tests.support.roles import Role, Web, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

Line = dict[str, Any]


def submit(web: Web, kind: str, **body: Any) -> tuple[Job, str]:
    """Submit a job; returns it and the id of the request."""
    request = urllib.request.Request(
        f"{web.url}/api/jobs/{kind}",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return Job.objects.get(id=json.load(response)["id"]), response.headers["X-Request-ID"]


def grep(text: str, *files: Path) -> list[Line]:
    """Do what docs/operations.md says."""
    found = subprocess.run(
        ["grep", "-hF", text, *map(str, files)], check=False, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    return sorted(lines, key=lambda line: str(line["timestamp"]))


def followed(job: Job, request_id: str, *roles: Role) -> tuple[list[Line], set[str]]:
    """Return the lines of a request, once the last task has said its last word, and its tasks."""
    tasks = {str(row.id) for row in Delivery.objects.filter(args__0=str(job.id))}

    def lines() -> list[Line]:
        return grep(request_id, *(role.log_file for role in roles))

    def ended() -> set[str]:
        return {str(line["task_id"]) for line in lines() if line["event"] == "task_succeeded"}

    wait_until(lambda: ended() >= tasks, what=f"each of {tasks} says that it has succeeded")
    return lines(), tasks


def named(lines: list[Line]) -> set[str]:
    """Return every task that the lines name, in any part."""
    fields = ("task_id", "child_task_id", "parent_task_id")
    return {str(line[field]) for line in lines for field in fields if field in line}


def only(lines: list[Line], suits: Callable[[Line], bool]) -> Line:
    [found] = [line for line in lines if suits(line)]
    return found


def check_fields(lines: list[Line], job: Job, request_id: str) -> None:
    """Check that each line carries what applies to it."""
    for line in lines:
        assert line["request_id"] == request_id, line
        if line["event"] != "request_started":
            assert line["job_id"] == str(job.id), line
        if line["service"].startswith("worker"):
            assert line["task_id"], line
            # A task's own are known when it is taken, and when an attempt has begun. A line about
            # a child has the child's queue, as its routing key.
            assert line["event"] == "task_enqueued" or line["queue"] in ("bulk", "mail"), line
            assert line["event"] in ("task_started", "task_enqueued") or line["attempt"] >= 1, line


def test_a_chord_and_a_process_that_dies_are_followed_by_one_request_id(
    web: Web, bulk_worker: Role, relay_process: Role
) -> None:
    job, request_id = submit(
        web, "capacity", arrival_rate=200.0, service_time_mean=1.0, service_time_p95=2.0,
        target_wait=0.01, max_workers=300,
    )  # fmt: skip

    def simulating() -> Delivery | None:
        return Delivery.objects.filter(
            task="capacity.simulate_candidate", args__0=str(job.id), state="running"
        ).first()

    wait_until(simulating, what="a candidate is simulated")
    victim = simulating()
    assert victim is not None
    psutil.Process(int(victim.worker.rpartition(":")[2])).send_signal(signal.SIGKILL)
    assert wait_for_end(job, 90).state == State.SUCCEEDED

    lines, tasks = followed(job, request_id, web.role, bulk_worker, relay_process)
    assert named(lines) == tasks, "all tasks of the job, and nothing else"
    assert {line["service"] for line in lines} == {"web", "worker-bulk", "relay"}
    check_fields(lines, job, request_id)

    killed = str(victim.id)
    lost = only(lines, lambda line: line["event"] == "worker_process_lost")
    assert (lost["task_id"], lost["attempt"], lost["queue"]) == (killed, 1, "bulk")
    again = only(lines, lambda line: line["service"] == "relay" and line["child_task_id"] == killed)
    assert again["event"] == "task_enqueued"
    done = only(lines, lambda line: line["event"] == "task_succeeded" and line["task_id"] == killed)
    assert done["attempt"] == Delivery.objects.get(id=killed).attempts > 1
    # The members of the chord name the task that entered them.
    first = only(lines, lambda line: line["service"] == "web" and "child_task_id" in line)
    assert done["parent_task_id"] in tasks - {killed}
    assert "parent_task_id" not in first


def test_retries_are_followed_by_one_request_id(
    web: Web, worker: Role, relay_process: Role, mails: MailSink
) -> None:
    mails.fail(100)
    addresses = [f"reader-{number}@example.com" for number in range(20)]
    job, request_id = submit(web, "newsletter", subject="s", body="b", recipients=addresses)
    refused = Delivery.objects.filter(args__0=str(job.id), failures__gte=1)
    wait_until(refused.exists, what="a batch is refused")
    mails.fail(0)
    assert wait_for_end(job).state == State.SUCCEEDED

    lines, tasks = followed(job, request_id, web.role, worker, relay_process)
    assert named(lines) == tasks
    check_fields(lines, job, request_id)
    batch = refused.get()
    of_batch = [line for line in lines if line.get("task_id") == str(batch.id)]
    attempts = [line["attempt"] for line in of_batch if line["event"] == "task_retrying"]
    assert attempts == list(range(1, batch.attempts))
    done = only(of_batch, lambda line: line["event"] == "task_succeeded")
    assert done["attempt"] == batch.attempts


def test_nothing_is_said_twice_and_an_idle_worker_speaks_of_no_task(
    web: Web, worker: Role, mails: MailSink
) -> None:
    job, request_id = submit(
        web, "newsletter", subject="s", body="b",
        recipients=[f"reader-{number}@example.com" for number in range(20)],
    )  # fmt: skip
    wait_for_end(job)
    lines, tasks = followed(job, request_id, web.role, worker)
    for event, field in (("task_enqueued", "child_task_id"), ("task_started", "task_id")):
        told = [line[field] for line in lines if line["event"] == event]
        assert sorted(told) == sorted(tasks), event

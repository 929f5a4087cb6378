"""The stack as people run it: real images, real servers, real mails."""

from __future__ import annotations

import json
import re
import time
from typing import Any
from urllib.parse import quote

import pytest

from deploy.prometheus.scrape_configuration import JOBS
from tests.stack.conftest import Stack, require_engine
from tests.support.roles import wait_until

require_engine()

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

APPLICATION = ("web", "worker", "worker-bulk", "relay", "beat", "flower", "celery-exporter")


def test_everything_is_healthy(stack: Stack) -> None:
    for container in stack.compose.get_containers(include_all=True):
        assert container.State == ("exited" if container.Service == "migrate" else "running")
        assert container.Health == ("" if container.Service == "migrate" else "healthy")
    assert stack.container("migrate").attrs["State"]["ExitCode"] == 0
    assert json.loads(stack.get(stack.url("WEB_PORT", "/health"))[1])["status"] == "healthy"


def test_a_newsletter_goes_from_the_api_to_the_inbox_and_leaves_a_result(stack: Stack) -> None:
    address, people = stack.submit(250)
    job = stack.wait_for_end(address, 60)

    assert job["state"] == "succeeded"
    assert job["result"] == {"sent": 250, "failed": 0}
    assert stack.mails.recipients() == people
    rows = stack.run(
        "exec", "-T", "web", "/opt/celeriac/deploy/docker/entrypoint", "manage", "shell",
        "--no-imports", "-c",
        "from delivery.models import Delivery as D;"
        "print([(d.task, d.state, d.attempts) for d in D.objects.filter("
        f"args__0='{address.rpartition('/')[2]}')])",
    )  # fmt: skip
    assert "('newsletters.send_newsletter', 'succeeded', 1)" in rows
    assert rows.count("('newsletters.send_batch', 'succeeded', 1)") == 3


def test_stopping_a_worker_in_mid_work_loses_nothing_and_mails_nobody_twice(stack: Stack) -> None:
    address, people = stack.submit(4000)
    wait_until(lambda: len(stack.mails.recipients()) > 50, timeout=60, what="the first mails")
    stack.run("stop", "worker")

    state = stack.container("worker").attrs["State"]
    assert state["ExitCode"] == 0, "the worker ended by itself, within its grace"
    assert len(stack.mails.recipients()) < 4000
    stack.run("start", "worker")
    job = stack.wait_for_end(address, 180)
    assert job["result"] == {"sent": 4000, "failed": 0}
    assert stack.mails.recipients() == people


def test_workers_consume_again_after_a_restart_of_redis(stack: Stack) -> None:
    before = {name: stack.container(name).attrs["State"] for name in ("worker", "worker-bulk")}
    stack.run("restart", "redis")

    def ready() -> bool:
        return all(
            stack.container(name).exec_run(
                ["/opt/celeriac/deploy/docker/entrypoint", "probe", "ready"]
            ).exit_code
            == 0
            for name in before
        )  # fmt: skip

    wait_until(ready, timeout=90, what="both workers consume again")
    address, people = stack.submit(50)
    assert stack.wait_for_end(address, 60)["state"] == "succeeded"
    assert stack.mails.recipients() == people
    for name, state in before.items():
        assert stack.container(name).attrs["State"]["Pid"] == state["Pid"], f"{name} was restarted"


@pytest.mark.parametrize("server", ["redis", "postgres"])
def test_a_restart_of_a_server_in_mid_work_loses_no_mail(stack: Stack, server: str) -> None:
    address, people = stack.submit(3000)
    wait_until(lambda: len(stack.mails.recipients()) > 200, timeout=60, what="the first mails")
    stack.run("restart", server)
    assert len(stack.mails.recipients()) < 3000
    job = stack.wait_for_end(address, 120)

    assert job["result"] == {"sent": 3000, "failed": 0}
    assert set(stack.mails.recipients()) == set(people)
    # A mail whose sender lost the database before it could note the success is sent again, under
    # the same name: at most one for each pool process.
    messages = stack.mails.request("/api/v1/messages?limit=20000")["messages"]
    assert len({message["MessageID"] for message in messages}) == 3000
    assert len(messages) <= (3000 if server == "redis" else 3004)


def test_a_submission_is_accepted_without_a_broker_and_done_when_it_is_back(stack: Stack) -> None:
    stack.run("stop", "redis")
    try:
        address, people = stack.submit(10)
        assert stack.api(address)["state"] == "queued"
    finally:
        stack.run("start", "redis")
    # The relay finds it, as soon as it reaches the broker.
    assert stack.wait_for_end(address, 60)["state"] == "succeeded"
    assert stack.mails.recipients() == people


def test_services_can_be_scaled(stack: Stack) -> None:
    stack.run("up", "--detach", "--wait", "--no-recreate", "--scale", "worker=2", "worker")
    try:
        workers = [
            container for container in stack.compose.get_containers()
            if container.Service == "worker"
        ]  # fmt: skip
        assert [worker.Health for worker in workers] == ["healthy"] * 2
        address, people = stack.submit(500)
        assert stack.wait_for_end(address, 60)["state"] == "succeeded"
        assert stack.mails.recipients() == people
    finally:
        stack.run("up", "--detach", "--no-recreate", "--scale", "worker=1", "worker")


def test_prometheus_reaches_everything_it_scrapes(stack: Stack) -> None:
    def targets() -> list[dict[str, Any]]:
        body = stack.get(stack.url("PROMETHEUS_PORT", "/api/v1/targets"))[1]
        found: list[dict[str, Any]] = json.loads(body)["data"]["activeTargets"]
        return found

    wait_until(lambda: all(t["health"] == "up" for t in targets()), what="all targets are up")
    # One is for those who ask for it; what does not run is no target, and so not down.
    expected = {job.name for job in JOBS} - {"upstream-exporter"}
    assert {target["labels"]["job"] for target in targets()} == expected
    assert {one["metric"]["queue_name"] for one in query(stack, "celery_queue_length")} == {
        "default", "mail", "bulk", "maintenance",
    }  # fmt: skip


def query(stack: Stack, expression: str) -> list[dict[str, Any]]:
    """Ask Prometheus."""
    path = f"/api/v1/query?query={quote(expression)}"
    result: list[dict[str, Any]] = json.loads(stack.get(stack.url("PROMETHEUS_PORT", path))[1])[
        "data"
    ]["result"]
    return result


def test_the_public_exporter_counts_beside_ours_and_disturbs_nobody(stack: Stack) -> None:
    def quarantined() -> str:
        [series] = query(stack, "celery_quarantined_messages")
        return str(series["value"][1])

    before = quarantined()
    stack.run("up", "--detach", "--wait", "--no-recreate", "upstream-exporter")
    try:
        theirs = (
            'sum({job="upstream-exporter", __name__="upstream_celery_task_succeeded_total"}) > 0'
        )

        def counts() -> bool:
            # Events are not kept: only what happens while Prometheus and the exporter look counts.
            stack.wait_for_end(stack.submit(10)[0], 60)
            return bool(query(stack, theirs))

        wait_until(counts, timeout=90, what="its series are in Prometheus")
        assert query(stack, 'up{job="upstream-exporter"} == 1')
        # Else rules and dashboards would count each task twice.
        names = 'count by (__name__) ({job="upstream-exporter", __name__=~"celery_.*|.*_created"})'
        assert query(stack, names) == []
        wait_until(
            lambda: query(stack, 'count_over_time(up{job="upstream-exporter"}[5m]) >= 2'),
            what="it has been scraped",
        )
        assert quarantined() == before
    finally:
        stack.run("rm", "--stop", "--force", "upstream-exporter")


def test_nothing_but_health_is_told_without_a_password(stack: Stack) -> None:
    for path in ("/workers", "/metrics", "/healthcheck"):
        assert stack.get(stack.url("FLOWER_PORT", path))[0] == 401
    user = stack.environment["FLOWER_BASIC_AUTH"]
    assert stack.get(stack.url("FLOWER_PORT", "/workers"), user)[0] == 200
    assert stack.get(stack.url("WEB_PORT", "/api/jobs"))[0] == 401
    assert "NOAUTH" in stack.run("exec", "-T", "-e", "REDISCLI_AUTH=", "redis", "redis-cli", "ping")


def test_exporters_have_accounts_that_only_read(stack: Stack) -> None:
    secrets = {
        name: value
        for name, value in stack.environment.items()
        if re.search(r"SECRET|KEYS|TOKENS|AUTH|PASSWORD", name) and "EXPORTER" not in name
    }
    assert {"REDIS_PASSWORD", "POSTGRES_PASSWORD", "TASK_SIGNING_KEYS"} <= set(secrets)
    for service in ("celery-exporter", "redis-exporter", "postgres-exporter"):
        given = "\n".join(stack.container(service).attrs["Config"]["Env"])
        assert [name for name, value in secrets.items() if value in given] == []

    def redis(user: str, password: str, *command: str) -> str:
        login = ("-e", "REDISCLI_AUTH=", "redis", "redis-cli", "--no-auth-warning")
        return stack.run(
            "exec", "-T", *login, "--user", user, "--pass", stack.environment[password], *command
        )

    reader, server_reader = "CELERY_EXPORTER_PASSWORD", "SERVER_EXPORTERS_PASSWORD"
    assert "NOPERM" in redis("celery-exporter", reader, "lpush", "default", "x")
    assert redis("celery-exporter", reader, "llen", "default").strip().isdigit()
    assert "NOPERM" in redis("redis-exporter", server_reader, "llen", "default")
    shown = redis("redis-exporter", server_reader, "config", "get", "*")
    assert stack.environment["REDIS_PASSWORD"] not in shown

    def series(query: str) -> list[str]:
        address = stack.url("PROMETHEUS_PORT", f"/api/v1/query?query={query}")
        return [one["value"][1] for one in json.loads(stack.get(address)[1])["data"]["result"]]

    # With these accounts each of them still sees its server.
    ups = ("celery_broker_up", "celery_database_up", "redis_up", "pg_up")
    wait_until(lambda: all(series(up) == ["1"] for up in ups), timeout=60, what="all are up")


@pytest.mark.parametrize("service", APPLICATION)
def test_the_application_runs_without_root_and_the_entry_point_has_made_way(
    stack: Stack, service: str
) -> None:
    container = stack.container(service)
    status = container.exec_run(["cat", "/proc/1/status"]).output.decode()

    assert re.search(r"^Uid:\t10001\t10001", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
    commands = container.exec_run(["sh", "-c", "cat /proc/[0-9]*/cmdline"]).output
    assert commands.count(b"deploy/docker/entrypoint") == 1, "only as an argument of the init"
    assert container.exec_run(["touch", "/opt/celeriac/x"]).exit_code != 0


def test_the_image_has_its_labels_and_no_compiler(stack: Stack) -> None:
    image = stack.container("web").image
    assert image.labels["org.opencontainers.image.title"] == "Celeriac"
    assert image.labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert {"version", "revision", "created"} <= {
        label.rpartition(".")[2] for label in image.labels
    }
    for tool in ("cc", "gcc", "g++", "make"):
        assert stack.container("web").exec_run(["sh", "-c", f"command -v {tool}"]).exit_code != 0
    assert image.attrs["Size"] < 400e6


@pytest.mark.parametrize(
    "role", ["web", "worker", "relay", "beat", "flower", "exporter", "migrate"]
)
def test_term_ends_a_role_that_is_still_starting(stack: Stack, role: str) -> None:
    environment = stack.container("flower").attrs["Config"]["Env"]
    engine = stack.compose._get_docker_client().client
    for seconds in (0.1, 0.5, 1.0):
        container = engine.containers.run(
            "celeriac:test",
            [role],
            environment=environment,
            init=True,  # as docker-compose.yml
            network_disabled=True,
            detach=True,
        )
        try:
            time.sleep(seconds)
            # Flower without a broker takes 6 s, on a machine that is slow it has started by then.
            container.stop(timeout=30)
            assert container.wait()["StatusCode"] != 137, f"killed {seconds} s after its start"
        finally:
            container.remove(force=True)


def test_term_ends_every_role_cleanly(stack: Stack) -> None:
    """Last: it stops the stack."""
    stopped_at = int(time.time())
    stack.run("stop", *APPLICATION)

    for service in APPLICATION:
        state = stack.container(service).attrs["State"]
        assert state["ExitCode"] == 0, f"{service} ended with {state['ExitCode']}"
        assert "Traceback" not in stack.run("logs", f"--since={stopped_at}", service)

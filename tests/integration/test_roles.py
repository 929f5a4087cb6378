"""Each role as a real process: it starts, says how it is, and ends when it is told to."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from kombu import Connection
from redis import Redis
from websockets.sync.client import connect
from websockets.typing import Origin

from delivery import publishing
from deploy.embedded.servers import RedisServer, free_port, running
from jobs.models import Job, State
from newsletters.services import newsletter_submit
from tests.integration.conftest import TOKEN, post_newsletter, wait_for_end
from tests.support import environment
from tests.support.mail_sink import MailSink
from tests.support.roles import (
    ENTRYPOINT,
    Role,
    Web,
    role_environment,
    running_role,
    running_web,
    running_worker,
    wait_until,
)
from tests.support.sleeping_task import sleep

pytestmark = pytest.mark.django_db(transaction=True)

AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
#: Seconds that Compose gives each role to end (docker-compose.yml, stop_grace_period).
GRACE = {"web": 30, "worker": 90, "beat": 15, "flower": 15, "exporter": 15}


def get(url: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_web_tells_how_it_is_whatever_the_host_header(web: Web) -> None:
    url = web.url
    odd = {"Host": "10.1.2.3:8000"}

    assert get(f"{url}/livez", **odd) == (200, '{"status": "alive"}')
    assert json.loads(get(f"{url}/readyz", **odd)[1])["status"] == "ready"
    assert json.loads(get(f"{url}/health", **odd)[1])["status"] == "healthy"
    assert set(json.loads(get(f"{url}/version", **odd)[1])) == {"version", "revision"}
    assert get(f"{url}/", **odd)[0] == 400


def test_web_refuses_a_body_of_50_mb_and_stores_nothing_of_it(web: Web) -> None:
    url = web.url
    declared = HTTPConnection(url.removeprefix("http://"), timeout=30)
    declared.request("POST", "/api/jobs/newsletter", body=b"a" * 50_000_000, headers=AUTHORIZATION)
    chunked = HTTPConnection(url.removeprefix("http://"), timeout=30)
    chunked.request(
        "POST",
        "/api/jobs/newsletter",
        body=iter([b"a" * 1_000_000] * 50),
        headers=AUTHORIZATION,
        encode_chunked=True,
    )
    for response in (declared.getresponse(), chunked.getresponse()):
        assert response.status == 413
        assert set(json.load(response)) == {"code", "message", "detail", "request_id"}


def test_one_request_can_be_followed_from_web_to_worker_by_its_id(
    web: Web, worker: Role, mails: MailSink
) -> None:
    role, url = web.role, web.url
    _, job = post_newsletter(url, "ada@example.com")
    wait_until(lambda: Job.objects.get(id=job["id"]).state == State.SUCCEEDED)

    def lines(of: Role) -> list[dict[str, Any]]:
        return [json.loads(line) for line in of.log.splitlines() if line.startswith("{")]

    submitted = next(line for line in lines(role) if line.get("job_id") == job["id"])
    finished = next(
        line
        for line in lines(worker)
        if line.get("job_id") == job["id"] and line["event"] == "job_finished"
    )
    assert submitted["request_id"] == finished["request_id"]
    assert finished["task_id"]
    assert (submitted["service"], finished["service"]) == ("web", "worker")


def test_every_line_of_a_log_is_json(web: Web, worker: Role) -> None:
    for role in (web.role, worker):
        assert role.log
        for line in role.log.splitlines():
            assert set(json.loads(line)) >= {"event", "level", "service", "timestamp"}


def test_submissions_are_accepted_while_the_broker_is_down(
    role_settings: dict[str, str], tmp_path: Path
) -> None:
    dead = f"redis://:x@127.0.0.1:{free_port()}"
    settings = {**role_settings, "BROKER_URL": f"{dead}/0", "CHANNEL_LAYER_URL": f"{dead}/1"}
    with running_web(tmp_path, **settings) as web:
        begun = time.monotonic()
        status, job = post_newsletter(web.url, "ada@example.com")
        seconds = time.monotonic() - begun

        assert status == 202
        assert seconds < 5
        assert Job.objects.get(id=job["id"]).state == State.QUEUED
        assert get(f"{web.url}/health")[0] == 503


@pytest.mark.parametrize("gone", [{"DATABASE_URL"}, {"DATABASE_URL", "BROKER_URL"}])
def test_submissions_get_503_while_the_database_is_down(
    role_settings: dict[str, str], tmp_path: Path, gone: set[str]
) -> None:
    port = free_port()
    nowhere = {
        "DATABASE_URL": f"postgres://x:x@127.0.0.1:{free_port()}/x",
        "BROKER_URL": f"redis://:x@127.0.0.1:{free_port()}/0",
    }
    dead = {name: nowhere[name] for name in gone}
    with running_role(tmp_path, "web", WEB_PORT=str(port), **{**role_settings, **dead}) as role:
        url = f"http://127.0.0.1:{port}"
        role.wait_for_probe("http", f"{url}/livez")
        with pytest.raises(urllib.error.HTTPError) as caught:
            post_newsletter(url, "ada@example.com")

        assert caught.value.code == 503
        assert json.load(caught.value)["code"] == "unavailable"
        assert caught.value.headers["Retry-After"]
        assert get(f"{url}/readyz")[0] == 503


def processes_of_session(number: int) -> bytes:
    """Return the numbers of the processes in a session, a line for each."""
    return subprocess.run(
        ["pgrep", "--session", str(number)], check=False, capture_output=True
    ).stdout


@pytest.mark.parametrize("name", GRACE)
def test_term_ends_every_role_cleanly_within_its_grace(
    name: str, role_settings: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    probes = {
        "web": ("http", f"http://127.0.0.1:{port}/readyz"),
        "worker": ("ready",),
        "beat": ("live",),
        "flower": ("http", f"http://127.0.0.1:{port}/healthcheck", "FLOWER_BASIC_AUTH"),
        "exporter": ("http", f"http://127.0.0.1:{port}/metrics"),
    }
    with running_role(
        tmp_path,
        name,
        WEB_PORT=str(port),
        FLOWER_PORT=str(port),
        EXPORTER_PORT=str(port),
        FLOWER_BASIC_AUTH="admin:tests-only",
        **role_settings,
    ) as role:
        role.wait_for_probe(*probes[name])

        assert role.stop(timeout=GRACE[name]) == 0
        assert "Traceback" not in role.log
        # The kernel may still be at the end of what gunicorn has killed.
        wait_until(lambda: not processes_of_session(role.process.pid), timeout=5)
        assert not Path(role.environment["HEARTBEAT_FILE"]).exists()


def test_web_ends_although_somebody_watches_a_job(
    role_settings: dict[str, str], tmp_path: Path
) -> None:
    job = Job.objects.create(kind="newsletter", state=State.RUNNING, total=1)
    with (
        running_web(tmp_path, **role_settings) as web,
        connect(
            f"{web.url.replace('http', 'ws', 1)}/ws/jobs/{job.id}",
            origin=Origin(web.url),
            additional_headers={"Authorization": f"Bearer {TOKEN}"},
        ) as socket,
    ):
        socket.recv(timeout=10)
        assert web.role.stop(timeout=GRACE["web"]) == 0
        assert "Traceback" not in web.role.log


def test_a_worker_gives_its_mails_back_when_it_is_stopped(
    role_settings: dict[str, str],
    mails: MailSink,
    redis: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A broker of its own, so that no other worker of the tests takes part.
    settings = {**role_settings, "BROKER_URL": f"{redis.url}/5"}
    addresses = [f"r{number:05}@example.com" for number in range(3000)]
    # Left to the relay of that broker.
    monkeypatch.setattr(publishing, "_quiet_until", time.monotonic() + 60)
    job = newsletter_submit(subject="s", body="b", recipients=addresses, requested_by="tester")

    with running_role(tmp_path, "relay", **settings):
        with running_role(tmp_path, "worker", name="first", **settings) as first:
            wait_until(lambda: len(mails.recipients()) > 20, timeout=60, what="the first mails")
            assert first.stop(timeout=GRACE["worker"]) == 0
        assert len(mails.recipients()) < len(addresses)
        with running_role(tmp_path, "worker", name="second", **settings):
            wait_for_end(job, 90)
    assert job.result == {"sent": 3000, "failed": 0}
    assert mails.recipients() == addresses


@pytest.mark.parametrize(
    ("seconds", "ended"),
    [pytest.param(5, 2, id="what ends in time"), pytest.param(60, 0, id="what does not")],
)
def test_tasks_end_in_time_or_go_back_to_the_queue(
    seconds: float, ended: int, role_settings: dict[str, str], redis: RedisServer, tmp_path: Path
) -> None:
    settings = {
        **role_settings,
        "BROKER_URL": f"{redis.url}/6",
        "WORKER_SERVICE": "worker-bulk",
        "WORKER_CONCURRENCY": "2",
        "WORKER_WARM_SHUTDOWN_SECONDS": "12",
    }
    notes = tmp_path / "notes"
    notes.touch()
    with Connection(settings["BROKER_URL"]) as own, Redis.from_url(settings["BROKER_URL"]) as db:
        db.flushdb()
        options: dict[str, Any] = {"connection": own}
        for _ in range(5):
            sleep.apply_async((seconds, str(notes)), **options)
        with running_role(
            tmp_path, "worker", tasks="tests.support.sleeping_task", **settings
        ) as role:
            wait_until(lambda: notes.read_text().count("start") == 2, what="two tasks run")
            assert role.stop(timeout=GRACE["worker"]) == 0

        assert notes.read_text().count("start") == 2
        assert notes.read_text().count("end") == ended
        assert db.llen("bulk") == 5 - ended, "what did not end waits for another worker"
        assert not db.hlen("unacked")


def test_a_worker_consumes_again_after_the_broker_was_away(
    role_settings: dict[str, str], mails: MailSink, tmp_path: Path
) -> None:
    port, directory = free_port(), tmp_path / "redis"
    settings = {
        **role_settings,
        "BROKER_URL": f"redis://:{environment.PASSWORD}@127.0.0.1:{port}/0",
    }
    with running(RedisServer(directory, port, environment.PASSWORD)):
        worker = running_worker(tmp_path, **settings)
        role = worker.__enter__()
    try:
        wait_until(lambda: role.probe("ready") == 1, what="not ready without a broker")
        assert role.probe("live") == 0, "a broker that is down is no reason for a restart"
        with running(RedisServer(directory, port, environment.PASSWORD)):
            role.wait_for_probe("ready")
            noted = Path(role.environment["HEARTBEAT_FILE"]).read_text()
            wait_until(
                lambda: Path(role.environment["HEARTBEAT_FILE"]).read_text() != noted,
                what="the heartbeat goes on after the reconnect",
            )
            assert role.process.poll() is None
            assert role.stop(timeout=GRACE["worker"]) == 0
    finally:
        worker.__exit__(None, None, None)


def test_two_migrations_at_once_do_not_meet(
    role_settings: dict[str, str], tmp_path: Path, postgres: object
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP DATABASE IF EXISTS migrated_twice")
        cursor.execute("CREATE DATABASE migrated_twice")
    url = role_settings["DATABASE_URL"].replace("test_celeriac", "migrated_twice")
    settings = {**role_settings, "DATABASE_URL": url, "DJANGO_SUPERUSER_PASSWORD": "long-enough-1"}
    try:
        runs = [
            subprocess.Popen(
                [ENTRYPOINT, "migrate"],
                env=role_environment(tmp_path, f"migrate-{number}", settings),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for number in range(2)
        ]
        outputs = [run.communicate(timeout=60)[0].decode() for run in runs]
        assert [run.returncode for run in runs] == [0, 0], outputs
        assert sum("Administrator admin created" in output for output in outputs) == 1
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP DATABASE IF EXISTS migrated_twice WITH (FORCE)")


def test_a_role_does_not_pass_for_ready_by_the_heartbeat_of_one_that_was_killed(
    role_settings: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "worker.heartbeat").write_text(
        json.dumps({"at": time.time() + 60, "state": "consuming", "pid": 1})
    )
    with running_role(tmp_path, "worker", **role_settings) as role:
        wait_until(lambda: role.probe("ready") != 0, timeout=20, what="it is not ready yet")
        role.wait_for_probe("ready")

"""Live progress: what a WebSocket client of a real web process sees of a job."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from deploy.embedded.servers import RedisServer, free_port, running
from jobs.models import Job, State
from jobs.services import job_finish, job_progress
from tests.integration.conftest import TOKEN, Web
from tests.support import environment
from tests.support.roles import running_role, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


def running_job() -> Job:
    return Job.objects.create(kind="newsletter", state=State.RUNNING, total=10)


def watch(web: Web, job_id: object, headers: dict[str, str], **options: Any) -> Any:
    address = f"{web.url.replace('http', 'ws')}/ws/jobs/{job_id}"
    options.setdefault("origin", web.url)
    return connect(address, additional_headers=headers, **options)


def receive(socket: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(socket.recv(timeout=10))
    return message


def close_code(socket: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as caught:
        socket.recv(timeout=10)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


def test_a_watcher_sees_the_job_at_once_and_then_each_change(web: Web) -> None:
    job = running_job()
    with watch(web, job.id, WITH_TOKEN) as socket:
        assert receive(socket)["done"] == 0
        job_progress(job.id, done=4)
        assert receive(socket)["done"] == 4
        job_finish(job.id, state=State.SUCCEEDED, done=10, result={"sent": 10})
        last = receive(socket)
        assert (last["state"], last["done"], last["result"]) == ("succeeded", 10, {"sent": 10})
        assert close_code(socket) == 1000


def test_many_changes_become_few_messages_and_the_last_one_arrives(web: Web) -> None:
    job = running_job()

    def change_often() -> None:
        for done in range(1, 101):
            job_progress(job.id, done=done)
        job_finish(job.id, state=State.SUCCEEDED, done=100)
        connection.close()

    changes = Thread(target=change_often)
    with watch(web, job.id, WITH_TOKEN) as socket:
        changes.start()
        seen = [receive(socket)]
        while seen[-1]["state"] == "running":
            seen.append(receive(socket))
    changes.join()

    assert seen[-1]["done"] == 100
    assert len(seen) < 60


def test_a_watcher_needs_to_be_allowed(web: Web) -> None:
    job = running_job()

    for job_id, headers, code in [
        (job.id, {}, 4401),
        (job.id, {"Authorization": "Bearer wrong"}, 4401),
        (uuid.uuid4(), WITH_TOKEN, 4404),
    ]:
        with watch(web, job_id, headers) as socket:
            assert close_code(socket) == code


def test_staff_may_watch_with_their_session(web: Web) -> None:
    job = running_job()
    browser = Client()
    browser.force_login(get_user_model().objects.create_user("ann", is_staff=True))
    cookie = {"Cookie": f"sessionid={browser.cookies['sessionid'].value}"}

    with watch(web, job.id, cookie) as socket:
        assert receive(socket)["id"] == str(job.id)


@pytest.mark.parametrize("extra", [{}, {"Authorization": "Basic dTpw"}])
def test_pages_of_other_origins_may_not_watch_with_a_session(
    web: Web, extra: dict[str, str]
) -> None:
    browser = Client()
    browser.force_login(get_user_model().objects.create_user("ann", is_staff=True))
    cookie = {"Cookie": f"sessionid={browser.cookies['sessionid'].value}"}

    with (
        pytest.raises(InvalidStatus) as caught,
        watch(web, running_job().id, {**cookie, **extra}, origin="https://elsewhere.example"),
    ):
        pass
    assert caught.value.response.status_code == 403


def test_a_program_with_a_token_needs_no_origin(web: Web) -> None:
    with watch(web, running_job().id, WITH_TOKEN, origin=None) as socket:
        assert receive(socket)["state"] == "running"


def test_a_watcher_outlives_a_channel_layer_that_goes_away(
    role_settings: dict[str, str], tmp_path: Path
) -> None:
    port, redis_port = free_port(), free_port()
    layer = RedisServer(tmp_path / "redis", redis_port, environment.PASSWORD)
    settings = {
        **role_settings,
        "WEB_PORT": str(port),
        "CHANNEL_LAYER_URL": f"redis://:{environment.PASSWORD}@127.0.0.1:{redis_port}/0",
    }
    job = running_job()
    with running_role(tmp_path, "web", **settings) as role:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: role.probe("http", f"{url}/readyz") == 0, what=f"web: {role.log_file}")
        with running(layer):
            socket = watch(Web(role, url), job.id, WITH_TOKEN).__enter__()
            assert receive(socket)["done"] == 0
        # The layer is gone, and with it every announcement; the row is read all the same.
        job_progress(job.id, done=5)
        assert receive(socket)["done"] == 5
        with running(layer):
            job_finish(job.id, state=State.SUCCEEDED, done=10)
            assert receive(socket)["state"] == "succeeded"
            assert close_code(socket) == 1000

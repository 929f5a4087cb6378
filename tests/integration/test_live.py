"""Live progress: what WebSocket clients of a real web process see of jobs."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from django.contrib.auth import get_user_model
from django.db import connection, connections
from django.test import Client
from redis import Redis
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from console.sockets import web_sockets
from deploy.embedded.servers import RedisServer, free_port, running
from jobs import kinds, live
from jobs.feeds import Watcher
from jobs.models import Job, State
from jobs.services import job_cancel, job_finish, job_progress, job_submit
from tests.integration.conftest import TOKEN
from tests.support import environment
from tests.support.frozen_redis import frozen
from tests.support.roles import Web, running_web, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}
#: Seconds until a message comes, on a machine that is busy with something else.
PATIENCE = 60


def running_job(**fields: Any) -> Job:
    return Job.objects.create(kind="newsletter", state=State.RUNNING, total=10, **fields)


def address(web: Web, job_id: object = None) -> str:
    """Return the address of a job's WebSocket, or of the list's."""
    return f"{web.url.replace('http', 'ws')}/ws/jobs" + (f"/{job_id}" if job_id else "")


def watch(web: Web, job_id: object, headers: dict[str, str], **options: Any) -> Any:
    options.setdefault("origin", web.url)
    return connect(address(web, job_id), additional_headers=headers, **options)


def receive(client: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(client.recv(timeout=PATIENCE))
    return message


def receive_until(
    client: ClientConnection, condition: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    while not condition(message := receive(client)):
        pass
    return message


def close_code(client: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as caught:
        receive_until(client, lambda _message: False)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread, with a database connection of its own."""

    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = Thread(target=run)
    thread.start()
    yield
    thread.join()


# --- What is sent ------------------------------------------------------------------------------
def test_a_watcher_sees_the_job_at_once_and_then_each_change(web: Web) -> None:
    job = running_job()
    with watch(web, job.id, WITH_TOKEN) as client:
        assert receive(client)["done"] == 0
        job_progress(job.id, done=4)
        assert receive(client)["done"] == 4
        job_finish(job.id, state=State.SUCCEEDED, done=10, result={"sent": 10})
        last = receive(client)
        assert (last["state"], last["done"], last["result"]) == ("succeeded", 10, {"sent": 10})
        assert close_code(client) == 1000


def test_many_changes_become_ten_messages_a_second_and_the_last_one_arrives(web: Web) -> None:
    job = running_job()

    def change_often() -> None:
        for done in range(1, 501):
            job_progress(job.id, done=done)
        job_finish(job.id, state=State.SUCCEEDED, done=500)

    began = time.monotonic()
    with watch(web, job.id, WITH_TOKEN) as client, meanwhile(change_often):
        seen = [receive(client)]
        while seen[-1]["state"] == "running":
            seen.append(receive(client))
    seconds = time.monotonic() - began

    assert seen[-1]["done"] == 500
    assert [message["done"] for message in seen] == sorted({message["done"] for message in seen})
    assert len(seen) <= seconds / live.SHORTEST_INTERVAL_SECONDS + 2


def test_the_list_has_the_newest_jobs_and_then_each_change_and_each_new_job(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> None: ...

    monkeypatch.setitem(kinds._kinds, "still", kinds.Kind("still", nothing, nothing, nothing))
    jobs = [running_job() for _ in range(30)]
    with watch(web, None, WITH_TOKEN) as client:
        listed = receive(client)
        assert list(listed) == ["jobs"]
        assert [job["id"] for job in listed["jobs"]] == [str(job.id) for job in jobs[:4:-1]]

        job_progress(jobs[29].id, done=4)
        assert receive(client)["job"]["done"] == 4
        # One that the list did not begin with.
        job_progress(jobs[0].id, done=5)
        changed = receive(client)["job"]
        assert (changed["id"], changed["done"]) == (str(jobs[0].id), 5)

        submitted = job_submit(
            kind="still", total=7, requested_by="ann", fingerprint="",
            idempotency_key=None, create_details=nothing,
        )  # fmt: skip
        new = receive(client)["job"]
        assert (new["id"], new["state"], new["total"]) == (str(submitted.id), "queued", 7)
        job_cancel(submitted.id)
        assert receive(client)["job"]["state"] == "cancelled"


def test_all_of_200_watchers_see_the_final_state(web: Web) -> None:
    job = running_job()

    def work() -> None:
        for done in range(1, 11):
            job_progress(job.id, done=done)
        job_finish(job.id, state=State.SUCCEEDED, done=10)

    async def last_message() -> dict[str, Any]:
        message: dict[str, Any] = {}
        async with connect_async(
            address(web, job.id), additional_headers=WITH_TOKEN, open_timeout=PATIENCE
        ) as client:
            opened.append(client)
            if len(opened) == 200:
                all_open.set()
            async for text in client:
                message = json.loads(text)
            assert client.close_code == 1000
        return message

    async def all_last_messages() -> list[dict[str, Any]]:
        watchers = [asyncio.create_task(last_message()) for _ in range(200)]
        async with asyncio.timeout(PATIENCE):
            await all_open.wait()
            with meanwhile(work):
                return await asyncio.gather(*watchers)

    opened: list[object] = []
    all_open = asyncio.Event()
    seen = asyncio.run(all_last_messages())

    assert [(message["state"], message["done"]) for message in seen] == [("succeeded", 10)] * 200


def test_a_watcher_that_does_not_read_holds_up_nobody_and_gets_the_last_state(web: Web) -> None:
    # Texts that soon fill what lies between the server and a client that does not read.
    job = running_job(error="x" * 1_000_000)
    with (
        watch(web, job.id, WITH_TOKEN, max_queue=1, max_size=None, ping_interval=None) as slow,
        watch(web, job.id, WITH_TOKEN, max_size=None) as quick,
    ):
        assert receive(quick)["done"] == 0
        for done in range(1, 31):
            job_progress(job.id, done=done)
            assert receive(quick)["done"] == done
        job_finish(job.id, state=State.SUCCEEDED, done=31)
        assert receive(quick)["state"] == "succeeded"

        seen = [receive(slow)]
        while seen[-1]["state"] == "running":
            seen.append(receive(slow))
        assert seen[-1]["done"] == 31
        assert len(seen) < 31


def test_a_slow_watcher_is_sent_the_newest_state_of_each_job_only() -> None:
    async def sent() -> list[str]:
        watcher = Watcher()
        for key, text in [("a", "a1"), ("b", "b1"), ("a", "a2"), ("b", "b2"), ("a", "a3")]:
            watcher.offer(key, text)
        watcher.end(1000)
        return [text async for text in watcher.messages()]

    assert asyncio.run(sent()) == ["a3", "b2"]


# --- Who may watch -----------------------------------------------------------------------------
def session_of(*, name: str = "ann", **fields: Any) -> dict[str, str]:
    """Sign a new user in; returns the browser's cookie."""
    browser = Client()
    browser.force_login(get_user_model().objects.create_user(name, **fields))
    return {"Cookie": f"sessionid={browser.cookies['sessionid'].value}"}


def deactivated() -> dict[str, str]:
    cookie = session_of(name="eve", is_staff=True)
    get_user_model().objects.filter(username="eve").update(is_active=False)
    return cookie


@pytest.mark.parametrize(
    ("headers_of", "allowed"),
    [
        pytest.param(dict, False, id="nothing"),
        pytest.param(lambda: {"Authorization": "Bearer wrong"}, False, id="wrong token"),
        pytest.param(
            lambda: {"Authorization": "Bearer wrong", **session_of(is_staff=True)},
            True,
            id="wrong token and staff",
        ),
        pytest.param(lambda: {"Authorization": "Basic dTpw"}, False, id="basic"),
        pytest.param(lambda: WITH_TOKEN, True, id="token"),
        pytest.param(lambda: session_of(is_staff=True), True, id="staff"),
        pytest.param(session_of, False, id="not staff"),
        pytest.param(deactivated, False, id="deactivated"),
        pytest.param(lambda: {"Cookie": "sessionid=unknown"}, False, id="unknown session"),
        pytest.param(lambda: {"Cookie": 'sessionid="\\000"'}, False, id="no session key"),
    ],
)
def test_who_may_watch_is_who_may_use_the_api(
    web: Web, headers_of: Callable[[], dict[str, str]], *, allowed: bool
) -> None:
    job = running_job()
    headers = headers_of()

    status = 200 if allowed else 401
    assert http_status(f"{web.url}/api/jobs/{job.id}", headers) == status
    for job_id in (job.id, None):
        with watch(web, job_id, headers) as client:
            if allowed:
                assert str(job.id) in json.dumps(receive(client))
            else:
                assert close_code(client) == 4401


def http_status(url: str, headers: dict[str, str]) -> int:
    try:
        with urlopen(Request(url, headers=headers), timeout=PATIENCE) as response:
            status: int = response.status
            return status
    except HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize(
    "extra", [{}, {"Authorization": "Basic dTpw"}, {"Authorization": "Bearer wrong"}]
)
def test_pages_of_other_origins_may_not_watch_with_a_session(
    web: Web, extra: dict[str, str]
) -> None:
    headers = {**session_of(is_staff=True), **extra}
    for job_id in (running_job().id, None):
        assert refused_with(web, job_id, headers, origin="https://elsewhere.example") == 403


@pytest.mark.parametrize("origin", [None, "https://elsewhere.example"])
def test_a_program_with_a_token_may_come_from_anywhere(web: Web, origin: str | None) -> None:
    job = running_job()
    for job_id in (job.id, None):
        with watch(web, job_id, WITH_TOKEN, origin=origin) as client:
            assert str(job.id) in json.dumps(receive(client))


def test_what_does_not_exist_cannot_be_watched(web: Web) -> None:
    with watch(web, uuid.uuid4(), WITH_TOKEN) as client:
        assert close_code(client) == 4404
    assert refused_with(web, "no-id", WITH_TOKEN) == 404


def refused_with(web: Web, job_id: object, headers: dict[str, str], **options: Any) -> int:
    with pytest.raises(InvalidStatus) as caught, watch(web, job_id, headers, **options):
        pass
    return caught.value.response.status_code


# --- What may go away --------------------------------------------------------------------------
def test_watchers_outlive_a_database_that_ends_their_sessions(web: Web) -> None:
    job = running_job()
    with watch(web, job.id, WITH_TOKEN) as one, watch(web, None, WITH_TOKEN) as listed:
        assert receive(one)["done"] == 0
        assert receive(listed)["jobs"]
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'celeriac-web' AND datname = current_database()"
            )
            assert cursor.rowcount
        job_progress(job.id, done=5)
        assert receive(one)["done"] == 5
        assert receive(listed)["job"]["done"] == 5


def test_without_a_database_a_session_cannot_be_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "PORT", free_port())
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "websocket",
        "path": "/ws/jobs",
        "headers": [(b"cookie", b"sessionid=abcdefgh"), (b"origin", b"http://testserver")],
    }

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(web_sockets([])(scope, None, send))  # type: ignore[arg-type]

    assert sent[0]["status"] == 503


@pytest.fixture
def layer(tmp_path: Path) -> RedisServer:
    """Return a server for a channel layer that a test starts and stops."""
    return RedisServer(tmp_path / "layer", free_port(), environment.PASSWORD)


@pytest.fixture
def announcing(layer: RedisServer, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process use that channel layer, and forget by itself what went wrong with it."""
    layers = deepcopy(settings.CHANNEL_LAYERS)
    layers["default"]["CONFIG"]["hosts"][0]["address"] = f"{layer.url}/0"
    settings.CHANNEL_LAYERS = layers
    monkeypatch.setattr(live, "_announcer", live._Announcer())
    monkeypatch.setattr(live, "QUIET_SECONDS", 0.1)


@contextmanager
def web_with(
    layer: RedisServer, role_settings: dict[str, str], directory: Path, port: int
) -> Iterator[Web]:
    settings = {**role_settings, "CHANNEL_LAYER_URL": f"{layer.url}/0", "WEB_CONCURRENCY": "1"}
    with running_web(directory, str(port), **settings) as web:
        yield web


def test_watchers_outlive_a_channel_layer_that_goes_away_and_comes_back(
    layer: RedisServer, announcing: None, role_settings: dict[str, str], tmp_path: Path
) -> None:
    job = running_job(attempts=1)
    with web_with(layer, role_settings, tmp_path, free_port()) as web:
        with running(layer):
            one = watch(web, job.id, WITH_TOKEN).__enter__()
            listed = watch(web, None, WITH_TOKEN).__enter__()
            assert receive(one)["done"] == 0
            assert receive(listed)["jobs"]
        # The layer is gone, and with it every announcement; the row is read all the same.
        job_progress(job.id, done=1)
        assert receive(one)["done"] == 1
        assert receive(listed)["job"]["done"] == 1
        with running(layer):
            # Who joins now may find the process not listening yet; what is lost is read later.
            wait_until(lambda: listeners(layer), timeout=PATIENCE, what="the process listens again")
            began = time.monotonic()
            for done in range(2, 22):
                job_progress(job.id, done=done)
                assert receive(one)["done"] == done
                assert receive(listed)["job"]["done"] == done
            # Without announcements each change would be seen after 2 s.
            assert time.monotonic() - began < 20
            job_finish(job.id, state=State.SUCCEEDED, done=22)
            assert receive(one)["state"] == "succeeded"
            assert close_code(one) == 1000
            assert receive(listed)["job"]["state"] == "succeeded"
            listed.close()
            # Nobody watches any more, so nobody listens.
            wait_until(lambda: not listeners(layer), timeout=PATIENCE, what="listening has ended")


def listeners(layer: RedisServer) -> int:
    """Return how many processes listen for announcements."""
    with Redis.from_url(f"{layer.url}/0") as client:
        channels: Any = client.pubsub_channels(f"*__group__{live.GROUP}")
        return len(channels)


def test_clients_of_a_web_process_that_restarts_are_told_and_get_the_job_again(
    layer: RedisServer, role_settings: dict[str, str], tmp_path: Path
) -> None:
    job = running_job()
    port = free_port()
    with web_with(layer, role_settings, tmp_path, port) as web:
        one = watch(web, job.id, WITH_TOKEN).__enter__()
        assert receive(one)["done"] == 0
        web.role.process.send_signal(signal.SIGTERM)
        assert close_code(one) == 1012
        web.role.process.wait(PATIENCE)
    job_progress(job.id, done=6)
    with (
        web_with(layer, role_settings, tmp_path, port) as web,
        watch(web, job.id, WITH_TOKEN) as client,
    ):
        assert receive(client)["done"] == 6


@pytest.mark.parametrize("state", ["away", "frozen"])
def test_a_task_neither_waits_for_a_channel_layer_nor_fails_with_it(
    layer: RedisServer, announcing: None, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = running_job()

    def said_so() -> bool:
        return "progress_not_announced" in caplog.text

    with running(layer):
        job_progress(job.id, done=1)
        with Redis.from_url(f"{layer.url}/0") as client:
            wait_until(lambda: publications(client), timeout=PATIENCE, what="it is announced")
            if state == "frozen":
                with frozen(client):
                    seconds = time_of_many_announcements(job, said_so)
    if state == "away":
        seconds = time_of_many_announcements(job, said_so)
    # One failed message would be a second; ten thousand of them hours.
    assert seconds < 5


def publications(client: Redis) -> int:
    """Return how many messages have been published."""
    statistics: Any = client.info("commandstats")
    return int(statistics.get("cmdstat_publish", {}).get("calls", 0))


def time_of_many_announcements(job: Job, said_so: Callable[[], bool]) -> float:
    """Announce until it has failed, and then some more; returns what the latter took."""

    def fails() -> bool:
        live.announce(job.id)
        return said_so()

    wait_until(fails, timeout=PATIENCE, what="a failure is logged")
    began = time.monotonic()
    for _ in range(10_000):
        live.announce(job.id)
    job_progress(job.id, done=job.done + 1)
    return time.monotonic() - began

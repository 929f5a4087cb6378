"""What a broker that is frozen, or was restarted, costs whoever publishes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from celery import current_app
from django.db import transaction
from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from delivery import ledger, publishing
from deploy.embedded.servers import RedisServer, free_port, running
from tests.support import environment
from tests.support.durable_tasks import add
from tests.support.frozen_redis import frozen
from tests.support.other_broker import publish_to
from tests.support.roles import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

#: Seconds after which a broker that does not answer counts as gone, here: as in web.
TIME_OUT = 2.0


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    """Return a Redis that this process publishes to, once it runs."""
    server = RedisServer(tmp_path / "redis", free_port(), environment.PASSWORD)
    publish_to(f"{server.url}/0", monkeypatch)
    options = current_app.conf.broker_transport_options
    assert options["socket_timeout"] == options["connect_retries_timeout"]
    monkeypatch.setitem(options, "socket_timeout", TIME_OUT)
    monkeypatch.setitem(options, "connect_retries_timeout", TIME_OUT)
    monkeypatch.setattr(publishing, "_quiet_until", 0.0)
    return server


def publish(number: int) -> float:
    """Publish so many messages in one round trip; returns how many seconds that took."""
    began = time.monotonic()
    with transaction.atomic():
        messages = ledger.enter([add.entry((1, 2)) for _ in range(number)])
        publishing.publish_after_commit(messages)
    return time.monotonic() - began


@pytest.mark.parametrize("number", [1, 50])
@pytest.mark.parametrize("connected", [True, False])
def test_a_frozen_broker_costs_one_time_out(
    server: RedisServer, number: int, *, connected: bool
) -> None:
    with running(server), Redis.from_url(server.url) as client:
        if connected:
            publish(number)
            assert client.llen("default") == number
        with frozen(client):
            seconds = publish(number)
    assert TIME_OUT <= seconds < 2 * TIME_OUT


@pytest.mark.parametrize("number", [1, 50])
def test_a_broker_that_was_restarted_gets_the_next_message_at_once(
    server: RedisServer, number: int
) -> None:
    with running(server):
        publish(number)
    with running(server), Redis.from_url(server.url) as client:
        before = client.llen("default")
        publish(number)
        assert client.llen("default") == before + number


def test_a_control_command_is_sent_once(server: RedisServer) -> None:
    """Two would be taken for a replay: a false alarm each time that a broker is frozen."""
    with (
        running(server),
        Redis.from_url(server.url) as client,
        client.pubsub() as listener,
    ):
        listener.psubscribe("*")
        current_app.control.broadcast("enable_events")
        with frozen(client), pytest.raises(RedisTimeoutError):
            current_app.control.broadcast("enable_events")
        client.publish("the end", "")
        topics: list[bytes] = []

        def heard() -> bool:
            if message := listener.get_message(ignore_subscribe_messages=True, timeout=1):
                topics.append(message["channel"])
            return b"the end" in topics

        wait_until(heard, what="the end is heard")
    assert topics == [b"/0.celery.pidbox", b"/0.celery.pidbox", b"the end"]

"""What a broker that is frozen, or was restarted, costs whoever publishes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from django.conf import settings
from django.db import transaction
from redis import Redis

from delivery import ledger, publishing
from deploy.embedded.servers import RedisServer, free_port, running
from tests.support import environment
from tests.support.durable_tasks import add
from tests.support.other_broker import publish_to

pytestmark = pytest.mark.django_db(transaction=True)

#: Seconds for all that is not waiting for the broker.
REST_SECONDS = 4.0


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    """Return a Redis that this process publishes to, once it runs."""
    server = RedisServer(tmp_path / "redis", free_port(), environment.PASSWORD)
    publish_to(f"{server.url}/0", monkeypatch)
    monkeypatch.setattr(publishing, "_quiet_until", 0.0)
    return server


def publish(number: int) -> None:
    with transaction.atomic():
        messages = ledger.enter([add.entry((1, 2)) for _ in range(number)])
        publishing.publish_after_commit(messages)


@pytest.mark.parametrize("number", [1, 50])
def test_a_frozen_broker_costs_one_time_out(server: RedisServer, number: int) -> None:
    with running(server), Redis.from_url(server.url) as client:
        publish(number)  # over a connection that stays open
        assert client.llen("default") == number
        pid = client.info("server")["process_id"]
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            publish(number)
            seconds = time.monotonic() - began
        finally:
            os.kill(pid, signal.SIGCONT)

    time_out = settings.CELERY_BROKER_TRANSPORT_OPTIONS["socket_timeout"]
    assert seconds < time_out + REST_SECONDS < 2 * time_out


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

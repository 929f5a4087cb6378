"""The server of metrics: what clients that ask nothing can take from a role."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from wsgiref.simple_server import WSGIServer

import pytest
from prometheus_client import CollectorRegistry, Counter, make_wsgi_app

from telemetry import http_server
from tests.support.roles import wait_until


@pytest.fixture
def server() -> Iterator[WSGIServer]:
    registry = CollectorRegistry()
    Counter("scrapes", "Scrapes.", registry=registry)
    server = http_server.listen(make_wsgi_app(registry), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def answer(server: WSGIServer) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/", timeout=5) as response:
        return str(response.read().decode())


def test_clients_that_ask_nothing_cost_few_threads_and_not_for_ever(
    server: WSGIServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http_server.Handler, "timeout", 1.0)
    threads = threading.active_count()
    with ExitStack() as stack:
        clients: list[Any] = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
            for _ in range(60)
        ]
        for client in clients[http_server.MAXIMUM_CLIENTS :]:
            client.settimeout(5)
            assert client.recv(1) == b"", "hung up on"
        assert threading.active_count() - threads <= http_server.MAXIMUM_CLIENTS
        wait_until(lambda: threading.active_count() == threads, what="they are dropped")
        assert "scrapes_total 0.0" in answer(server)
    assert capfd.readouterr().err == "", "nor do they write the log"


def test_a_scrape_passes_while_others_are_slow(server: WSGIServer) -> None:
    threads = threading.active_count()
    slow = http_server.MAXIMUM_CLIENTS - 1
    with ExitStack() as stack:
        for _ in range(slow):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
        for _ in range(3):
            # The thread of the last answer ends a moment after its client has read it.
            wait_until(lambda: threading.active_count() == threads + slow, what="one is free")
            assert "scrapes_total 0.0" in answer(server)

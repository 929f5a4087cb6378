"""``/metrics``, and ``/livez`` for the probe."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.registry import Collector

#: Seconds after which a client that neither asks nor reads is dropped.
CLIENT_TIMEOUT_SECONDS: Final = 10

Environment = dict[str, Any]
Answer = Callable[[Environment, Any], Iterable[bytes]]


class Server(ThreadingMixIn, WSGIServer):
    """Answers each client in a thread of its own: a slow scrape does not hold up the probe."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Bind, without asking a name server for our own name as the base class does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class ServerOfVersion6(Server):
    """The same for an IPv6 address."""

    address_family = socket.AF_INET6


class Handler(WSGIRequestHandler):
    """Logs nothing: a line for each scrape says nothing."""

    timeout = CLIENT_TIMEOUT_SECONDS

    def log_message(self, *_: object) -> None:
        """Keep silent."""

    def address_string(self) -> str:
        """Return the client's address without asking a name server for its name."""
        return str(self.client_address[0])


def serve(
    collector: Collector, *, is_alive: Callable[[], bool], address: str, port: int
) -> WSGIServer:
    """Return a server that listens; ``serve_forever`` answers.

    Args:
        collector: What ``/metrics`` says.
        is_alive: What ``/livez`` asks. It is not asked whether servers are there: a restart of the
            exporter would not bring them back.
        address: Where to listen.
        port: The port there.

    Raises:
        OSError: The port is taken.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    metrics: Answer = make_wsgi_app(registry)

    def answer(environment: Environment, start: Any) -> Iterable[bytes]:
        match environment["PATH_INFO"]:
            case "/metrics":
                return metrics(environment, start)
            case "/livez":
                status, text = ("200 OK", "alive") if is_alive() else ("503 Stuck", "stuck")
            case _:
                status, text = "404 Not Found", "There is /metrics and /livez."
        start(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    kind = ServerOfVersion6 if ":" in address else Server
    return make_server(address, port, answer, server_class=kind, handler_class=Handler)

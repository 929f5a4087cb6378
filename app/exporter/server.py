"""``/metrics``, and ``/livez`` for the probe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.registry import Collector

from telemetry import http_server
from telemetry.http_server import Application, Environment


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
    metrics: Application = make_wsgi_app(registry)

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

    return http_server.listen(answer, address, port)

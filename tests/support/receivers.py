"""Servers that take what the application sends to the outside, and keep it."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Received:
    """One POST request; ``client`` is the other end of the connection it came through."""

    path: str
    headers: dict[str, str]
    body: bytes
    client: tuple[str, int]


@dataclass
class Receiver:
    """A running server.

    Attributes:
        url: Its base address.
        received: What has come so far, also what it refused.
        status: The answer from now on; 500 is what a server gives that is broken.
    """

    url: str
    received: list[Received] = field(default_factory=list)
    status: int = 200


@dataclass(frozen=True)
class Span:
    """What a span says that tests look at."""

    service: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]


def spans(receiver: Receiver) -> list[Span]:
    """Return all spans that a collector has got, as OTLP's own schema reads them."""
    found = []
    for request in receiver.received:
        assert request.path == "/v1/traces"
        assert request.headers["content-type"] == "application/x-protobuf"
        message = ExportTraceServiceRequest.FromString(request.body)
        for resource_spans in message.resource_spans:
            resource = _attributes(resource_spans.resource.attributes)
            for scope in resource_spans.scope_spans:
                found += [
                    Span(
                        resource["service.name"], span.name, span.kind, span.trace_id.hex(),
                        span.span_id.hex(), span.parent_span_id.hex(),
                        {**resource, **_attributes(span.attributes)},
                    )
                    for span in scope.spans
                ]  # fmt: skip
    return found


def _attributes(pairs: Any) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value"))
        for pair in pairs
        if pair.value.WhichOneof("value")
    }


@contextmanager
def running_receiver(port: int = 0) -> Iterator[Receiver]:
    """Run a server that takes every POST request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            address = (str(self.client_address[0]), int(self.client_address[1]))
            receiver.received.append(Received(self.path, headers, body, address))
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def silent_server() -> Iterator[str]:
    """Listen, take connections, and never answer; yields the base address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"

"""A small HTTP server for metrics: whoever asks nothing, or too often, takes little from the role.

Without Django: the exporter serves with it too.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog

logger = structlog.get_logger(__name__)

#: Seconds after which a client that neither asks nor reads is dropped.
CLIENT_TIMEOUT_SECONDS: Final = 10
#: Clients that are answered at the same time, each by a thread. Prometheus is one, a probe another.
#: Containers may have 50 processes and threads in all (docker-compose.yml), and must have some left
#: for the pool.
MAXIMUM_CLIENTS: Final = 8

Environment = dict[str, Any]
Application = Callable[[Environment, Any], Iterable[bytes]]


class Server(ThreadingMixIn, WSGIServer):
    """Answers each client in a thread of its own: a slow scrape does not hold up the probe.

    One client more than ``MAXIMUM_CLIENTS`` is hung up on.
    """

    daemon_threads = True
    #: Those that wait for ``accept``: with the base class's five, a crowd costs a scrape a second.
    request_queue_size = 128

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._free = threading.BoundedSemaphore(MAXIMUM_CLIENTS)
        super().__init__(*arguments, **options)

    def server_bind(self) -> None:
        """Bind, without asking a name server for our own name as the base class does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if one is free."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread can be started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and free the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong, unless it is the client, who has gone or asks nothing."""
        error = sys.exception()
        if not isinstance(error, OSError):
            logger.error("metrics_request_failed", exc_info=error)


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


def listen(application: Application, address: str, port: int) -> WSGIServer:
    """Return a server that listens; ``serve_forever`` answers.

    Raises:
        OSError: The port is taken, or the address is not ours.
    """
    kind = ServerOfVersion6 if ":" in address else Server
    return make_server(address, port, application, server_class=kind, handler_class=Handler)

"""What alerts are posted to in tests: a web server that keeps them, and can refuse them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class AlertReceiver:
    """A running receiver.

    Attributes:
        url: What Alertmanager is told to post to.
        notifications: What it has posted, oldest first.
        status: The answer from now on; 500 is what a receiver gives that is broken.
    """

    url: str = ""
    notifications: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200

    def names(self, state: str = "firing") -> list[str]:
        """Return the name of every alert that was posted in a state, in order."""
        return [
            alert["labels"]["alertname"]
            for notification in list(self.notifications)
            for alert in notification["alerts"]
            if alert["status"] == state
        ]


@contextmanager
def running_alert_receiver() -> Iterator[AlertReceiver]:
    """Run a receiver on a free port of this machine."""
    receiver = AlertReceiver()

    class Handler(BaseHTTPRequestHandler):
        """Keeps what is posted, also what it refuses."""

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            receiver.notifications.append(json.loads(self.rfile.read(length)))
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}/alerts"
        thread = threading.Thread(target=server.serve_forever, name="alert receiver", daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()

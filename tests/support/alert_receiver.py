"""What alerts are posted to in tests: a web server that keeps them, and can refuse them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.receivers import Receiver, running_receiver


@dataclass
class AlertReceiver:
    """A running receiver.

    Attributes:
        server: Where the posts arrive; its ``status`` is the answer from now on.
    """

    server: Receiver

    @property
    def url(self) -> str:
        """Return what Alertmanager is told to post to."""
        return f"{self.server.url}/alerts"

    @property
    def notifications(self) -> list[dict[str, Any]]:
        """Return what it has posted, oldest first."""
        return [json.loads(request.body) for request in list(self.server.received)]

    def names(self, state: str = "firing") -> list[str]:
        """Return the name of every alert that was posted in a state, in order."""
        return [
            alert["labels"]["alertname"]
            for notification in self.notifications
            for alert in notification["alerts"]
            if alert["status"] == state
        ]


@contextmanager
def running_alert_receiver() -> Iterator[AlertReceiver]:
    """Run a receiver on a free port of this machine."""
    with running_receiver() as server:
        yield AlertReceiver(server)

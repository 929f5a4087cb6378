"""Asks an Alertmanager."""

from __future__ import annotations

import json
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any


class Alertmanager:
    """A running Alertmanager, by its API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def request(self, path: str, body: Any = None) -> Any:
        """Ask it; POST with a body, else GET."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            text = response.read()
        return json.loads(text) if text else None

    def is_ready(self) -> bool:
        """Say whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def alerts(self) -> list[dict[str, Any]]:
        """Return every alert that fires now, those included that another one silences."""
        now = datetime.now(UTC)
        found: list[dict[str, Any]] = self.request("/api/v2/alerts")
        return [alert for alert in found if datetime.fromisoformat(alert["endsAt"]) > now]

    def alert(self, *, minutes: float = 5, annotations: Any = None, **labels: str) -> None:
        """Tell it, as Prometheus does, that an alert fires for so many minutes from now.

        Not more than 0 minutes: that it is over.
        """
        now = datetime.now(UTC)
        alert = {
            "labels": labels,
            "annotations": annotations or {},
            "startsAt": (now - timedelta(milliseconds=1)).isoformat(),
            "endsAt": (now + timedelta(minutes=minutes)).isoformat(),
            "generatorURL": "http://prometheus.example/graph",
        }
        self.request("/api/v2/alerts", [alert])

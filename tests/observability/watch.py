"""Looks at Alertmanager all the time, and remembers when each alert fired and when it was over."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.alertmanager import Alertmanager
from tests.support.roles import wait_until

#: Seconds between two looks: the precision of what is measured.
LOOK_SECONDS = 0.5


@dataclass
class Firing:
    """One alert that fired.

    Attributes:
        labels: All its labels.
        began: When it was first seen (``time.monotonic``).
        ended: When it was first missing; None while it fires.
        silenced: Whether another alert was seen to silence it.
    """

    labels: Mapping[str, str]
    began: float
    ended: float | None = None
    silenced: bool = False

    @property
    def name(self) -> str:
        """What the alert is called."""
        return self.labels["alertname"]

    def seconds(self) -> float:
        """Return how long it fired, or has until now."""
        return (time.monotonic() if self.ended is None else self.ended) - self.began

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Say whether it is the alert of this name, with at least these labels."""
        return self.name == name and labels.items() <= self.labels.items()


@dataclass
class Watch:
    """What Alertmanager has said since the start."""

    alertmanager: Alertmanager
    firings: list[Firing] = field(default_factory=list)

    def look(self) -> None:
        """Compare what fires now with what fired at the last look."""
        try:
            alerts = self.alertmanager.alerts()
        except OSError:  # it is restarted: what was known stays known
            return
        now = time.monotonic()
        current = [alert["labels"] for alert in alerts]
        silenced = [alert["labels"] for alert in alerts if alert["status"]["state"] == "suppressed"]
        for firing in self.firings:
            if firing.ended is None and firing.labels not in current:
                firing.ended = now
        open_now = [firing.labels for firing in self.firings if firing.ended is None]
        self.firings += [Firing(labels, now) for labels in current if labels not in open_now]
        for firing in self.firings:
            firing.silenced |= firing.ended is None and firing.labels in silenced

    def firing(self, name: str, labels: Mapping[str, str]) -> Firing | None:
        """Return the alert if it fires now."""
        for firing in list(self.firings):
            if firing.ended is None and firing.matches(name, labels):
                return firing
        return None

    def names(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        return {firing.name for firing in list(self.firings) if firing.ended is None}

    def wait_for(
        self, name: str, labels: Mapping[str, str], *, since: float, timeout: float
    ) -> Firing:
        """Wait until the alert has fired, also if it is over by now.

        Args:
            name: The alert's.
            labels: Some of its labels.
            since: What fired before is another fault's (``time.monotonic``).
            timeout: Seconds to wait.

        Raises:
            AssertionError: It did not, within so many seconds.
        """

        def fired() -> list[Firing]:
            return [
                firing
                for firing in list(self.firings)
                if firing.began >= since and firing.matches(name, labels)
            ]

        try:
            wait_until(fired, timeout=timeout, what=f"{name} {dict(labels)} fires")
        except AssertionError as error:
            error.add_note(f"Seconds since then at which alerts began: {self._began(since)}")
            raise
        return fired()[0]

    def _began(self, since: float) -> str:
        """Return what has begun from a minute before a moment on."""
        return ", ".join(
            f"{firing.name} {firing.began - since:.1f}"
            for firing in list(self.firings)
            if firing.began >= since - 60
        )


@contextmanager
def watching(alertmanager: Alertmanager) -> Iterator[Watch]:
    """Look until the end, from a thread."""
    watch = Watch(alertmanager)
    over = threading.Event()

    def look_on() -> None:
        while not over.wait(LOOK_SECONDS):
            watch.look()

    thread = threading.Thread(target=look_on, name="watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()

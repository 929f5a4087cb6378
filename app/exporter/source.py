"""A server that is read at each scrape, and must not be able to hold one up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import structlog

logger = structlog.get_logger(__name__)

#: Seconds that a scrape waits for a reading. Prometheus waits 10.
PATIENCE_SECONDS: Final = 4.0
#: A reading that cost less is made anew for everybody who asks.
CHEAP_SECONDS: Final = 0.1
#: Another is good for all who ask while it is younger than so many times what it cost, so that a
#: slow server is read less often, however many ask.
COST_FACTOR: Final = 10
LONGEST_FRESH_SECONDS: Final = 10.0

Read = TypeVar("Read")


class Source(Generic[Read]):
    """Reads in a thread, one at a time.

    A server that is frozen keeps its thread, not the scrape; until it answers nobody asks again.

    Attributes:
        name: The ``source`` label.
        succeeded_at: When it was last read, in seconds since the epoch; 0 before.
        seconds: How long that took.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], Read],
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Take what reads, and how many seconds a scrape waits for it."""
        self.name = name
        self.succeeded_at = 0.0
        self.seconds = 0.0
        self._read = read
        self._patience = patience
        self._lock = threading.Lock()
        self._running: threading.Thread | None = None
        self._fresh_until = 0.0
        self._last: Read | None = None
        self._well = True

    def begin(self) -> None:
        """Start a reading, unless one runs or the last is fresh."""
        with self._lock:
            if self._running is not None and self._running.is_alive():
                return
            if self._last is not None and time.monotonic() < self._fresh_until:
                return
            self._running = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._running.start()

    def result(self) -> Read | None:
        """Wait for the reading; None if it failed or takes too long."""
        running = self._running
        if running is not None:
            running.join(self._patience)
            if running.is_alive():
                self._note(well=False, error=f"no answer within {self._patience:g} s")
                return None
        return self._last

    def _run(self) -> None:
        began = time.monotonic()
        try:
            found = self._read()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other source is served
            self._last = None
            self._note(well=False, error=str(error).strip() or repr(error))
            return
        self.seconds = time.monotonic() - began
        self.succeeded_at = time.time()
        if self.seconds > CHEAP_SECONDS:
            fresh = min(self.seconds * COST_FACTOR, LONGEST_FRESH_SECONDS)
            self._fresh_until = time.monotonic() + fresh
        self._last = found
        self._note(well=True, error="")

    def _note(self, *, well: bool, error: str) -> None:
        """Log once when the server goes, and once when it is back."""
        if well != self._well:
            self._well = well
            if well:
                logger.info("source_is_back", source=self.name)
            else:
                logger.warning("source_is_away", source=self.name, error=error)

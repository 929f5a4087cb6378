"""What a fault is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from tests.observability.victim import Victim

#: Seconds between two repetitions of what is done again and again.
REPEAT_SECONDS = 0.25


@dataclass(frozen=True)
class Expected:
    """An alert that a fault fires.

    Attributes:
        alert: Its name.
        labels: Those that say what is broken; it may have more.
    """

    alert: str
    labels: Mapping[str, str] = field(default_factory=dict)


def expected(alert: str, **labels: str) -> Expected:
    """Return an alert with the labels that say what is broken."""
    return Expected(alert, labels)


@dataclass(frozen=True)
class Fault:
    """Something that breaks.

    Attributes:
        what: What is done, for the table in docs/alerts.md.
        inject: Does it; the context's end undoes it.
        alerts: What fires while it lasts.
        afterwards: What fires when it is undone, because of what it left behind.
        patience: Seconds within which all of them must fire.
    """

    what: str
    inject: Callable[[Victim], AbstractContextManager[None]]
    alerts: tuple[Expected, ...]
    afterwards: tuple[Expected, ...] = ()
    patience: float = 60.0


@contextmanager
def repeating(action: Callable[[], object], *, threads: int = 1) -> Iterator[None]:
    """Do something again and again, from so many threads; a failure of it is no matter."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(REPEAT_SECONDS):
            with suppress(OSError, RedisError):
                action()

    running = [threading.Thread(target=repeat, daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in running:
            thread.join()


@contextmanager
def stopped(victim: Victim, *services: str) -> Iterator[None]:
    """Stop services in order, and start them again."""
    for service in services:
        victim.stack.stop(service)
    try:
        yield
    finally:
        for service in services:
            victim.stack.start(service)


@contextmanager
def frozen(victim: Victim, service: str) -> Iterator[None]:
    """Have a service be there and do nothing (SIGSTOP)."""
    victim.target.freeze(service)
    try:
        yield
    finally:
        victim.target.thaw(service)

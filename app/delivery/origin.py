"""What a delivery keeps of whoever asked for it, so that its attempts can be told apart and found.

Kept in the row's ``options`` and put back wherever its message is published, at once or much later
by the relay. Of the log that is here; a trace is added by ``telemetry.tracing`` where it is on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog
from django_structlog.celery import signals

#: Where the context of the log is, in a delivery's options.
LOG: Final = "context"
#: These say something of one attempt at one task, not of what it asks for.
OF_ONE_ATTEMPT: Final = frozenset({"queue", "attempt"})


@dataclass(frozen=True, slots=True)
class Carrier:
    """Something that a delivery keeps.

    Attributes:
        capture: Returns it as it is now, as JSON; nothing if it is empty.
        restored: Makes it what it was for a block.
    """

    capture: Callable[[], Mapping[str, Any]]
    restored: Callable[[Mapping[str, Any]], AbstractContextManager[None]]


def captured() -> dict[str, Any]:
    """Return what a delivery that is entered now keeps, for its options."""
    return {name: kept for name, carrier in _carriers.items() if (kept := carrier.capture())}


@contextmanager
def restored(options: Mapping[str, Any]) -> Iterator[None]:
    """Make the origin of a delivery with these options the current one."""
    with ExitStack() as stack:
        for name, carrier in _carriers.items():
            stack.enter_context(carrier.restored(options.get(name) or {}))
        yield


def without(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are Celery's."""
    return {name: value for name, value in options.items() if name not in _carriers}


def carry(name: str, carrier: Carrier) -> None:
    """Have every delivery keep something more, under a name in its options."""
    _carriers[name] = carrier


@contextmanager
def log_context(**context: Any) -> Iterator[None]:
    """Have the lines of a block say this, and nothing else of what surrounds it."""
    surrounding = structlog.contextvars.get_contextvars()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**context)
    try:
        yield
    finally:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**surrounding)


def _log_captured() -> dict[str, Any]:
    return {
        name: value
        for name, value in structlog.contextvars.get_contextvars().items()
        if isinstance(value, str | int) and name not in OF_ONE_ATTEMPT
    }


def _leave_the_attempt(context: dict[str, Any], **_: Any) -> None:
    """Keep what a plain task gets of the one that publishes it to what is true of both."""
    for name in OF_ONE_ATTEMPT:
        context.pop(name, None)


_carriers: dict[str, Carrier] = {
    LOG: Carrier(_log_captured, lambda context: log_context(**context)),
}

signals.modify_context_before_task_publish.connect(
    _leave_the_attempt, dispatch_uid="delivery-origin"
)

"""THE order in which things are broken: faults of one phase do not touch each other.

What a fault drags along may fire too. So the phases are in an order in which no alert is expected
that an earlier fault keeps firing: windows of an hour are longer than a phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.observability.faults import (
    broker,
    database,
    monitoring,
    queues,
    schedule,
    tasks,
    web,
    workers,
)
from tests.observability.faults.fault import Expected, Fault

PHASES: Final[tuple[tuple[Fault, ...], ...]] = (
    # Broken first: the alert about the exporter is what cannot be delivered.
    (monitoring.RECEIVER_BROKEN, monitoring.EXPORTER_STOPPED),
    (monitoring.ACCOUNT_REFUSED, queues.PAUSED),
    (
        tasks.FAILING, tasks.NIGHTLY, tasks.KILLED, tasks.STUCK, tasks.ETA, tasks.FORGED,
        tasks.UNKNOWN,
    ),
    (queues.FLOOD, queues.NO_CONSUMER, web.FAILING_VIEW, web.SLOW_VIEW, web.MISSING_MIGRATION),
    (
        web.DOWN, database.CONNECTIONS, database.DEADLOCK, database.IDLE_TRANSACTION,
        broker.CANNOT_SAVE,
    ),
    (broker.FULL, schedule.SECOND_BEAT, workers.LITTLE_MEMORY),
    (schedule.RELAY_STOPPED, schedule.BEAT_FROZEN),
    (schedule.MISFIT, broker.TOO_FEW_CLIENTS),
    (workers.CRASH_LOOP,),
    (workers.KILLED,),
    (broker.EMPTIED,),
    (monitoring.EXPORTER_FROZEN,),
    (broker.DOWN,),
    (database.DOWN,),
)  # fmt: skip

#: Fires while nothing is broken, and must.
ALWAYS: Final = "Watchdog"


def faults() -> Iterator[Fault]:
    """Return every fault."""
    for phase in PHASES:
        yield from phase


def alerts(fault: Fault) -> tuple[Expected, ...]:
    """Return all that a fault fires, in the end."""
    return (*fault.alerts, *fault.afterwards)

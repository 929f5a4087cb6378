"""All groups of rules, in the order of the file."""

from __future__ import annotations

from deploy.prometheus.rulebook import (
    broker,
    database,
    ledger,
    monitoring,
    queues,
    recordings,
    schedule,
    tasks,
    web,
    workers,
)
from deploy.prometheus.rulebook.pace import Pace
from deploy.prometheus.rulebook.rule import Alert, Group


def groups(pace: Pace) -> tuple[Group, ...]:
    """Return all rules at a pace."""
    return (
        *recordings.groups(pace),
        queues.group(pace),
        *tasks.groups(pace),
        workers.group(pace),
        ledger.group(pace),
        schedule.group(pace),
        broker.group(pace),
        database.group(pace),
        web.group(pace),
        monitoring.group(pace),
    )


def alerts(pace: Pace) -> tuple[tuple[Group, Alert], ...]:
    """Return each alert with its group, in the order of the file."""
    return tuple(
        (group, rule) for group in groups(pace) for rule in group.rules if isinstance(rule, Alert)
    )

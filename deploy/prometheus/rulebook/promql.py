"""Patterns of PromQL that several rules need, each with the trap that it avoids."""

from __future__ import annotations

from typing import Final

from deploy.prometheus.rulebook.pace import MINUTE, Pace

#: Jobs of the stack's own processes. Where one of them is a target, all of them should be there.
OWN_JOBS: Final = "celery-worker|celery-beat|celery-relay|celery-exporter|web"

#: A counter that was there so long before a window began is not new in it, even if scrapes failed
#: at that moment.
_MEMORY_SECONDS: Final = 15 * MINUTE
#: A gauge outlives its exporter for so long: a restart must not end an alert, or its ``for``.
_RESTART_SECONDS: Final = MINUTE
#: A process that was seen in this time and is gone is missed.
_MISSED_SECONDS: Final = 60 * MINUTE


def grown(series: str, seconds: float, pace: Pace) -> str:
    """Return how much each counter grew in a window, the first event of a new series included.

    ``increase`` needs two samples, so a series that is born at 1 (a new label, a new process) has
    grown by nothing. A series that is younger than the window has grown by all it has.
    """
    window = pace.window(seconds)
    memory = pace.window(min(seconds, _MEMORY_SECONDS))
    return (
        f"(({series} unless last_over_time({series}[{memory}] offset {window}))"
        f" or increase({series}[{window}]))"
    )


def held(series: str, pace: Pace, by: str = "namespace, queue_name") -> str:
    """Return a gauge of the exporters: the largest of what they say, across their restarts."""
    return f"max by ({by}) (last_over_time({series}[{pace.window(_RESTART_SECONDS)}]))"


def gone(series: str, value: str, pace: Pace) -> str:
    """Return ``value`` for each namespace in which nobody serves this gauge.

    It should be there where another process of the stack is a target, or where it was seen in the
    last hour. Where there is nothing at all, the answer has no namespace.
    """
    seen = f"group by (namespace) (last_over_time({series}[{pace.window(_MISSED_SECONDS)}]))"
    expected = f'(group by (namespace) (up{{job=~"{OWN_JOBS}"}}) or {seen})'
    there = f"group by (namespace) ({series})"
    return (
        f"({value} * ({expected} unless on (namespace) {there}))\n"
        f"or ({value} * (absent({series}) unless on () {expected}))"
    )

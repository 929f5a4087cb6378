"""Patterns of PromQL that several rules need, each with the trap that it avoids."""

from __future__ import annotations

from typing import Final

from deploy.prometheus.rulebook.pace import MINUTE, Pace, duration

#: Jobs that only this stack has. Where one of them is a target, all of its processes should be
#: there. ``web`` is left out: any application of another namespace may call itself that.
OWN_JOBS: Final = "celery-worker|celery-beat|celery-relay|celery-exporter"

#: Recorded at every evaluation: since when the rules can know what was there before.
RULES_EVALUATED: Final = "celeriac:rules:evaluated"
#: All targets of a new Prometheus are scraped within this time.
_BEGINNING_SECONDS: Final = MINUTE
#: Steps in which the beginning of a series is looked for; finer than needed costs memory.
_LONGEST_STEP_SECONDS: Final = 5 * MINUTE

#: A series that was there so long before a window began is not new in it, even if scrapes failed
#: at that moment.
_MEMORY_SECONDS: Final = 15 * MINUTE
#: The same for a counter: a worker that nobody could scrape meanwhile comes back with its past.
#: Longer than for a gauge, whose series may end and begin with what it counts.
_COUNTER_MEMORY_SECONDS: Final = 60 * MINUTE
#: A gauge outlives its exporter for so long: a restart must not end an alert, or its ``for``.
_RESTART_SECONDS: Final = MINUTE
#: A process that was seen in this time and is gone is missed.
_MISSED_SECONDS: Final = 60 * MINUTE


def grown(series: str, seconds: float, pace: Pace) -> str:
    """Return how much each counter grew in a window, the first event of a new series included.

    ``increase`` needs two samples, so a series that is born at 1 (a new label, a new process) has
    grown by nothing. A series that is younger than the window has grown by the most it ever had:
    its process may have started anew, and counts from 0.
    """
    window = pace.window(seconds)
    most = f"max_over_time({series}[{window}])"
    young = newborn(series, seconds, pace, value=most, memory_seconds=_COUNTER_MEMORY_SECONDS)
    return f"(({young}) or increase({series}[{window}]))"


def newborn(
    series: str,
    seconds: float,
    pace: Pace,
    *,
    by: str = "",
    value: str = "",
    memory_seconds: float = _MEMORY_SECONDS,
) -> str:
    """Return the series, or their largest value ``by`` labels, that are younger than a window.

    ``value`` is what to return of each of them, where that is not what it is now.
    ``memory_seconds`` is how long before the window a series may have been seen last to be old.

    A series that is as old as the evaluation of the rules is not young: it is what a new Prometheus
    finds, and its past is not news. Nor is one that was there before the window.
    """
    window = pace.window(seconds)
    memory = pace.window(memory_seconds)
    step = duration(
        max(min(seconds * pace.scale / 60, _LONGEST_STEP_SECONDS), pace.scrape_interval)
    )
    value = value or series
    before = f"last_over_time({series}[{memory}] offset {window})"
    first = f"min_over_time(timestamp({series})[{window}:{step}])"
    on = ""
    if by:
        value, before = f"max by ({by}) ({value})", f"max by ({by}) ({before})"
        first, on = f"min by ({by}) ({first})", f" on ({by})"
    begin = f"min_over_time(timestamp({RULES_EVALUATED})[{window}:{step}])"
    tolerance = pace.age(_BEGINNING_SECONDS)
    return (
        f"{value} and{on} {first} > on () group_left () ({begin} + {tolerance}) unless{on} {before}"
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

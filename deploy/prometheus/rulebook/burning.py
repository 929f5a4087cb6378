"""Alerts on the error budget: promises are broken faster than a month allows.

99 % over 30 days is promised, so 1 % is the budget. Windows and factors are those of the Google SRE
Workbook, chapter 5: at 14.4 times the pace an hour spends 2 % of the month, at 6 times six hours
spend 5 %. The short window beside each long one ends the alert soon after the fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from deploy.prometheus.rulebook.pace import HOUR, MINUTE, Pace, number
from deploy.prometheus.rulebook.promql import grown
from deploy.prometheus.rulebook.rule import CRITICAL, WARNING, Alert

#: Share of tasks and requests for which a promise may be broken within 30 days.
ERROR_BUDGET: Final = 0.01

#: Events a minute, below which a share says little: one failure at night is not 100 %. The canary
#: alone makes one a minute in each queue. Less frequent work is watched by CeleryTaskFailing,
#: CeleryTaskNeverSucceeds and CeleryQueueOldestMessageTooOld.
LEAST_EVENTS_PER_MINUTE: Final = 2


@dataclass(frozen=True, slots=True)
class Promise:
    """A promise whose budget can burn.

    Attributes:
        alert: Start of the names of its two alerts.
        recorded: Start of the names of its recorded burn rates.
        events: Counter of everything that the promise is about.
        by: Labels that tell one promise from the next.
        meaning: For the table of alerts.
        what: What happened to a share of the events, for the description.
        dashboard: As in ``Alert``.
        dashboard_variables: As in ``Alert``.
        born_at_zero: Whether the counter is there before its first event.
        rare: What shows that it is broken where events are too rare for a share of a window: an
            expression ``by`` the same labels. It counts for the slow alert.
    """

    alert: str
    recorded: str
    events: str
    by: str
    meaning: str
    what: str
    dashboard: str
    dashboard_variables: tuple[str, ...] = ()
    born_at_zero: bool = True
    rare: str = ""


@dataclass(frozen=True, slots=True)
class _Speed:
    suffix: str
    severity: str
    factor: float
    long: str
    long_seconds: float
    short: str
    hold_seconds: float
    words: str


#: Times the pace at which the budget lasts for its 30 days, from which on it is spent too fast.
FAST: Final = 14.4
SLOW: Final = 6
_SPEEDS: Final = (
    _Speed("Fast", CRITICAL, FAST, "1h", HOUR, "5m", 2 * MINUTE, "hour"),
    _Speed("Slow", WARNING, SLOW, "6h", 6 * HOUR, "30m", 15 * MINUTE, "six hours"),
)


def alerts(pace: Pace, promise: Promise) -> tuple[Alert, ...]:
    """Return the fast and the slow alert of a promise."""
    return tuple(_alert(pace, promise, speed) for speed in _SPEEDS)


def _alert(pace: Pace, promise: Promise, speed: _Speed) -> Alert:
    limit = number(speed.factor * ERROR_BUDGET)
    events = (
        f"increase({promise.events}[{pace.window(speed.long_seconds)}])"
        if promise.born_at_zero
        else grown(promise.events, speed.long_seconds, pace)
    )
    too_fast = f"{promise.recorded}:burnrate{speed.long} > {limit}"
    rare = (
        f"\nor\n{too_fast}\nand on ({promise.by}) (\n{promise.rare}\n)"
        if promise.rare and speed.severity == WARNING
        else ""
    )
    least = pace.count(LEAST_EVENTS_PER_MINUTE, speed.long_seconds)
    return Alert(
        f"{promise.alert}ErrorBudgetBurn{speed.suffix}",
        speed.severity,
        f"{promise.meaning}: at least {number(speed.factor)} times as often as the month allows, "
        f"for {'an hour' if speed.long == '1h' else 'six hours'}",
        f"{too_fast}\n"
        f"and {promise.recorded}:burnrate{speed.short} > {limit}\n"
        f"and on ({promise.by})\n"
        f"sum by ({promise.by}) ({events}) >= {least}{rare}",
        summary=f"{promise.meaning}, {number(speed.factor)} times as often as the month allows",
        description=f"{{{{ $value | humanizePercentage }}}} of {promise.what}, in the last "
        f"{speed.words}. {ERROR_BUDGET:.0%} over 30 days is the budget.",
        dashboard=promise.dashboard,
        hold=pace.hold(speed.hold_seconds),
        dashboard_variables=promise.dashboard_variables,
    )

"""Durations of rules, all stretched or shrunk by one factor.

In production the factor is 1. A test that breaks things for real renders the same rules with 0.02,
so that five minutes become six seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MINUTE: Final = 60
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

#: A rate needs two samples. Three intervals hold two even when one scrape failed or came late.
SCRAPES_IN_A_WINDOW: Final = 3
#: An age is as old as the last scrape, which may be one interval ago and one interval late.
SCRAPES_IN_AN_AGE: Final = 2


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the rules judge.

    Attributes:
        scale: Factor for every window, every ``for`` and every age that is a judgement.
        scrape_interval: Seconds between two scrapes of the Prometheus that evaluates the rules.

    Raises:
        ValueError: One of them is not positive.
    """

    scale: float = 1.0
    scrape_interval: float = 15.0

    def __post_init__(self) -> None:
        if self.scale <= 0 or self.scrape_interval <= 0:
            raise ValueError("scale and scrape interval must be greater than 0")

    def window_seconds(self, seconds: float) -> float:
        """Return the length of a range in seconds, never too short for a rate."""
        return max(seconds * self.scale, SCRAPES_IN_A_WINDOW * self.scrape_interval)

    def window(self, seconds: float) -> str:
        """Return the same as Prometheus writes it, as in ``[5m]``."""
        return duration(self.window_seconds(seconds))

    def hold(self, seconds: float) -> str:
        """Return how long a condition must hold: the ``for`` of an alert."""
        return duration(seconds * self.scale)

    def age(self, seconds: float, *, fact: float = 0) -> str:
        """Return an age in seconds, as a number for an expression.

        Args:
            seconds: The part that is a judgement, and is scaled.
            fact: The part that is how the system works (the interval of a schedule), and is not.
        """
        patience = max(seconds * self.scale, SCRAPES_IN_AN_AGE * self.scrape_interval)
        return number(patience + fact)

    def count(self, per_minute: float, seconds: float) -> str:
        """Return how many events of that rate a window of so many seconds holds."""
        return number(per_minute / MINUTE * self.window_seconds(seconds))


def duration(seconds: float) -> str:
    """Return a duration as Prometheus writes it: ``90s`` is ``1m30s``."""
    milliseconds = round(seconds * 1000)
    text = ""
    for unit, size in (("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", 1)):
        count, milliseconds = divmod(milliseconds, size * 1000)
        if count:
            text += f"{count}{unit}"
    if milliseconds:
        text += f"{milliseconds}ms"
    return text or "0s"


def number(value: float) -> str:
    """Return a number without a needless fraction."""
    return f"{round(value, 3):g}" if value != round(value) else str(round(value))

"""What a run of the generator submits, and when: checked numbers and plain arithmetic."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Self

from deploy.stack.errors import StackError

#: What can be submitted: the last part of the address in the HTTP API.
KINDS: Final = ("newsletter", "images", "capacity")
#: Jobs a second. Far more than one machine can do, and too few to take its web service down.
MOST_A_SECOND: Final = 100.0
#: Seconds. A forgotten generator ends by itself.
LONGEST: Final = 3600.0
#: Jobs in one burst. Each is stored by the web service before it answers.
MOST_IN_A_BURST: Final = 1000
#: Recipients of one newsletter; the API itself takes more.
MOST_RECIPIENTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Burst:
    """So many jobs at once, every so many seconds, on top of the steady rate."""

    jobs: int
    every: float

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read ``JOBS/SECONDS``, for example ``50/30``. StackError says what is wrong."""
        jobs, separator, every = text.partition("/")
        try:
            burst = cls(int(jobs), float(every))
        except ValueError:
            separator = ""
        if not separator:
            raise StackError(f"a burst is JOBS/SECONDS, for example 50/30, not {text!r}")
        if not 1 <= burst.jobs <= MOST_IN_A_BURST or not 1 <= burst.every <= LONGEST:
            raise StackError(
                f"a burst has 1 to {MOST_IN_A_BURST} jobs, every 1 to {LONGEST:.0f} seconds"
            )
        return burst


@dataclass(frozen=True, slots=True)
class Submission:
    """One planned request: the seconds from the start of the run, and what is asked for."""

    at: float
    kind: str


@dataclass(frozen=True)
class Plan:
    """A checked run.

    Attributes:
        rate: Jobs a second, besides bursts; 0: bursts only.
        duration: Seconds in which jobs are submitted.
        mix: Weight of each kind of job, above 0.
        failures: Share of mails (0 to 1) to recipients that the mail sink refuses.
        recipients: Of one newsletter.
        burst: On top of the rate.
    """

    rate: float
    duration: float
    mix: Mapping[str, int] = field(default_factory=lambda: {"newsletter": 1})
    failures: float = 0.0
    recipients: int = 20
    burst: Burst | None = None

    def __post_init__(self) -> None:
        """Refuse what is out of bounds with a StackError."""
        _within("--rate", self.rate, 0, MOST_A_SECOND)
        _within("--duration", self.duration, 1, LONGEST)
        _within("--failures", self.failures, 0, 1)
        _within("--recipients", self.recipients, 1, MOST_RECIPIENTS)
        if self.rate == 0 and self.burst is None:
            raise StackError("nothing to do: give --rate, --burst, or both")

    def submissions(self) -> Iterator[Submission]:
        """Yield everything the run submits, in order of time."""
        kinds = in_turn(self.mix)
        for at in self._moments():
            yield Submission(at, next(kinds))

    def _moments(self) -> Iterator[float]:
        steady = self._steady()
        next_steady = next(steady, None)
        for burst_at in self._bursts():
            while next_steady is not None and next_steady <= burst_at:
                yield next_steady
                next_steady = next(steady, None)
            yield burst_at
        if next_steady is not None:
            yield next_steady
            yield from steady

    def _steady(self) -> Iterator[float]:
        # Multiplied, not added up: an hour of small steps would drift.
        for number in count():
            if self.rate == 0 or (at := number / self.rate) >= self.duration:
                return
            yield at

    def _bursts(self) -> Iterator[float]:
        if self.burst is None:
            return
        for number in count(1):
            at = number * self.burst.every
            if at >= self.duration:
                return
            for _ in range(self.burst.jobs):
                yield at

    def requests_a_minute(self) -> float:
        """Return how many submissions an average minute of the run has."""
        bursts = 60 / self.burst.every * self.burst.jobs if self.burst else 0.0
        return 60 * self.rate + bursts


def mix_from_text(text: str) -> dict[str, int]:
    """Read ``newsletter=6,images=1``: how often each kind comes up. StackError if wrong."""
    mix: dict[str, int] = {}
    for part in text.split(","):
        kind, _, weight = part.strip().partition("=")
        if kind not in KINDS or not weight.isascii() or not weight.isdigit() or kind in mix:
            raise StackError(
                f"a mix is KIND=WEIGHT,..., for example newsletter=6,images=1; the kinds are "
                f"{', '.join(KINDS)}; wrong is {part!r}"
            )
        mix[kind] = int(weight)
    chosen = {kind: weight for kind, weight in mix.items() if weight}
    if not chosen or sum(chosen.values()) > 1000:
        raise StackError("the weights of a mix add up to 1 to 1000")
    return chosen


def in_turn(mix: Mapping[str, int]) -> Iterator[str]:
    """Yield kinds for ever, each as often as its weight says and as evenly as can be.

    Not by chance: a short run has the mix it was asked for, and two runs are alike.
    """
    total = sum(mix.values())
    credit = dict.fromkeys(mix, 0)
    while True:
        for kind, weight in mix.items():
            credit[kind] += weight
        chosen = max(credit, key=credit.__getitem__)
        credit[chosen] -= total
        yield chosen


def spread(share: float) -> Iterator[bool]:
    """Yield for ever whether the next one is of the share (0 to 1), as evenly as can be."""
    # Counted in whole steps of the share: adding fractions up would lose the last one of ten.
    before = 0
    for number in count(1):
        now = int(number * share + 1e-9)
        yield now > before
        before = now


def _within(option: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise StackError(f"{option} is {lowest:g} to {highest:g}, not {value:g}")

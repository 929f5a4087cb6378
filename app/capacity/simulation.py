"""How long do customers wait? A discrete-event simulation of one queue with several workers.

Arrivals are Poisson, the queue is first in, first out, service times are independent draws from
one distribution, workers are alike (M/G/c). Standard library only, and pure: the same arguments
give the same answer, whoever runs it.

Method (docs/decisions/0022): the recursion of Kiefer and Wolfowitz, one step for each customer; one
long run, whose beginning is dropped and whose rest is cut into sections; the spread of the sections
gives 95 % confidence intervals.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapreplace
from random import Random
from statistics import fmean, stdev
from typing import Final, Protocol

#: Customers between two looks at the outside: about a millisecond.
BLOCK: Final = 500
#: Sections that are measured.
SECTIONS: Final = 20
#: Sections that are dropped at the beginning: the queue starts empty, so early waits are short.
WARM_UP_SECTIONS: Final = 1
#: Steps of progress of one simulation.
STEPS: Final = WARM_UP_SECTIONS + SECTIONS
#: Quantile 0.975 of Student's t with 19 degrees of freedom, for 20 sections.
STUDENT_T: Final = 2.093
#: Customers in a section: at least so many, to see 25 waits beyond a percentile of 99.9 ...
SHORTEST_SECTION: Final = 25_000
#: ... and at most so many: 5.25 million customers in all, some seconds (bench/capacity.py).
LONGEST_SECTION: Final = 250_000
#: A section should last so many relaxation times, so that sections hardly depend on each other ...
WANTED_RELAXATIONS: Final = 50
#: ... and must last so many, or intervals would be too narrow.
LEAST_RELAXATIONS: Final = 10
#: Quantile 0.95 of the standard normal distribution.
NORMAL_95: Final = 1.6448536269514722
#: A log-normal distribution's p95 is at most so many times its mean: exp(NORMAL_95² / 2).
LARGEST_P95_TO_MEAN: Final = math.exp(NORMAL_95**2 / 2)


class ServiceTimes(Protocol):
    """A distribution of service times, in seconds."""

    @property
    def mean(self) -> float:
        """Seconds."""

    @property
    def variability(self) -> float:
        """Variance divided by the squared mean: 0 when constant, 1 when exponential."""

    def draw(self, source: Random, number: int) -> list[float]:
        """Return so many independent draws."""


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Log-normal service times.

    Attributes:
        mean: Seconds.
        sigma: Standard deviation of the logarithm; 0: every service takes the same time.
    """

    mean: float
    sigma: float

    @classmethod
    def fitted(cls, mean: float, p95: float) -> LogNormal:
        """Return the distribution with this mean and 95th percentile.

        With s for sigma and z for the normal quantile, ln(p95 / mean) = z s - s²/2, which has two
        solutions, z ± sqrt(z² - 2 ln(p95 / mean)). The smaller one is taken: it goes to a constant
        as p95 goes to the mean. The larger one has s > z: four of five services shorter than the
        mean, a standard deviation over 3.7 means, and most of the work in a few giants.

        Raises:
            ValueError: p95 is below the mean (only such a giant has that), or above
                ``LARGEST_P95_TO_MEAN`` times the mean (no log-normal distribution has that).
        """
        ratio = p95 / mean
        if not 1 <= ratio <= LARGEST_P95_TO_MEAN:
            raise ValueError(
                f"no usable log-normal distribution has a 95th percentile of {ratio:.3g} times its "
                f"mean; it must be 1 to {LARGEST_P95_TO_MEAN:.3f} times"
            )
        root = math.sqrt(max(0.0, NORMAL_95**2 - 2 * math.log(ratio)))
        return cls(mean, NORMAL_95 - root)

    @property
    def variability(self) -> float:
        """Variance divided by the squared mean."""
        return math.expm1(self.sigma**2)

    def draw(self, source: Random, number: int) -> list[float]:
        """Return so many independent draws (Box and Muller: two normal ones at a time)."""
        if self.sigma == 0:
            return [self.mean] * number
        uniform = source.random
        location = math.log(self.mean) - self.sigma**2 / 2
        drawn: list[float] = []
        for _ in range((number + 1) // 2):
            radius = self.sigma * math.sqrt(-2 * math.log(1 - uniform()))
            angle = math.tau * uniform()
            drawn.append(math.exp(location + radius * math.cos(angle)))
            drawn.append(math.exp(location + radius * math.sin(angle)))
        return drawn[:number]


@dataclass(frozen=True)
class Empirical:
    """Service times drawn from measured ones, each as likely as the others.

    Attributes:
        samples: Seconds, one or more.
    """

    samples: Sequence[float]

    @cached_property
    def mean(self) -> float:
        """Seconds."""
        return fmean(self.samples)

    @cached_property
    def variability(self) -> float:
        """Variance divided by the squared mean."""
        return fmean((sample / self.mean - 1) ** 2 for sample in self.samples)

    def draw(self, source: Random, number: int) -> list[float]:
        """Return so many independent draws."""
        uniform, samples, size = source.random, self.samples, len(self.samples)
        return [samples[int(uniform() * size)] for _ in range(number)]


@dataclass(frozen=True, slots=True)
class Load:
    """What arrives.

    Attributes:
        arrival_rate: Customers each second.
        service_times: How long each keeps a worker busy.
    """

    arrival_rate: float
    service_times: ServiceTimes

    @property
    def offered(self) -> float:
        """Workers that are busy on average; so many are not enough, there have to be more."""
        return self.arrival_rate * self.service_times.mean


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Waits:
    """What a simulation has measured.

    Attributes:
        mean: Seconds that a customer waits on average.
        waiting: Share of customers who wait at all.
        percentiles: Seconds, by the percentile that was asked for.
    """

    mean: Interval
    waiting: Interval
    percentiles: dict[float, Interval]


def first_stable(load: Load) -> int:
    """Return the smallest number of workers that keeps up: more than the offered load."""
    return math.floor(load.offered) + 1


def relaxation(load: Load, workers: int) -> float:
    """Return after how many customers a stable queue has about forgotten its past.

    For exponential service times it is the arrival rate divided by the spectral gap of M/M/c: that
    of the queue, (sqrt(c) - sqrt(a))² services, or that of a single service, whichever is smaller.
    For others it is scaled as in heavy traffic.
    """
    utilisation = load.offered / workers
    busy = utilisation / (1 - math.sqrt(utilisation)) ** 2
    return (1 + load.service_times.variability) / 2 * max(load.offered, busy)


def varies_too_much(load: Load) -> bool:
    """Whether a queue cannot be simulated however many workers there are."""
    least = (1 + load.service_times.variability) / 2 * load.offered
    return least * LEAST_RELAXATIONS > LONGEST_SECTION


def section_length(load: Load, workers: int) -> int | None:
    """Return how many customers a section needs; None when that is more than may be simulated.

    None also when the queue is not stable.
    """
    if workers < first_stable(load):
        return None
    customers = relaxation(load, workers)
    if customers * LEAST_RELAXATIONS > LONGEST_SECTION:
        return None
    wanted = math.ceil(customers * WANTED_RELAXATIONS / BLOCK) * BLOCK
    return min(max(wanted, SHORTEST_SECTION), LONGEST_SECTION)


def first_simulated(load: Load, most: int) -> int:
    """Return the smallest number of workers that can be simulated; ``most`` + 1 if that is more."""
    candidates = range(first_stable(load), most + 1)
    return next((number for number in candidates if section_length(load, number)), most + 1)


def waits(load: Load, workers: int, seed: int) -> Iterator[list[float]]:
    """Yield, without end, the waits in seconds of the next ``BLOCK`` customers.

    Customer n arrives at the same moment and needs the same service, however many workers there
    are. So numbers of workers are compared under the same conditions, and with more of them
    nobody waits longer.
    """
    # A stream for each, so that one does not depend on how many draws the other takes.
    arrivals = Random(f"{seed} arrivals")  # noqa: S311 - not a secret
    services = Random(f"{seed} services")  # noqa: S311
    uniform, logarithm, scale = arrivals.random, math.log, -1 / load.arrival_rate
    # When each worker is free, as a heap. Times count from the last arrival of the block before:
    # a clock that only grows would lose the digits of short waits.
    free = [0.0] * workers
    while True:
        now = 0.0
        waited: list[float] = []
        for service in load.service_times.draw(services, BLOCK):
            now += scale * logarithm(1 - uniform())
            earliest = free[0]
            if earliest > now:
                waited.append(earliest - now)
                heapreplace(free, earliest + service)
            else:
                waited.append(0.0)
                heapreplace(free, now + service)
        free = [max(0.0, moment - now) for moment in free]
        yield waited


def simulate(
    load: Load,
    workers: int,
    *,
    seed: int,
    percentiles: Sequence[float],
    section: int,
    checkpoint: Callable[[int], None] = lambda _steps: None,
) -> Waits:
    """Simulate a stable queue and measure its waits.

    Args:
        load: What arrives.
        workers: More than the offered load.
        seed: Of the random numbers; they do not depend on the number of workers.
        percentiles: What to measure besides the mean, each above 0 and below 100.
        section: Customers in a section, a multiple of ``BLOCK`` (``section_length``).
        checkpoint: Called every millisecond or so with the steps done, of ``STEPS``. An exception
            from it ends the simulation.
    """
    blocks = waits(load, workers, seed)
    sections: list[Sequence[float]] = []
    for step in range(STEPS):
        measured: list[float] = []
        for _ in range(section // BLOCK):
            measured += next(blocks)
            checkpoint(step)
        if step >= WARM_UP_SECTIONS:
            measured.sort()
            # A quarter of the memory of a list.
            sections.append(array("d", measured))
    return Waits(
        mean=_mean([fmean(part) for part in sections]),
        waiting=_mean([1 - bisect_right(part, 0.0) / section for part in sections], most=1.0),
        percentiles={percentile: _percentile(sections, percentile) for percentile in percentiles},
    )


def _mean(of_sections: Sequence[float], most: float = math.inf) -> Interval:
    value, margin = fmean(of_sections), _margin(of_sections)
    return Interval(value, max(0.0, value - margin), min(most, value + margin))


def _percentile(sections: Sequence[Sequence[float]], percentile: float) -> Interval:
    """Estimate a percentile from the whole run.

    The sections say how far the share of waits up to the estimate may be off; the percentiles that
    much lower and higher are the limits. The spread of the sections' own percentiles would give
    limits that are too low: those of short sections are biased, and a long wait is further off than
    a short one (docs/decisions/0022 has the figures).
    """
    value = _quantile(sections, percentile)
    margin = 100 * _margin([bisect_right(part, value) / len(part) for part in sections])
    return Interval(
        value,
        _quantile(sections, max(0.0, percentile - margin)),
        _quantile(sections, min(100.0, percentile + margin)),
    )


def _margin(of_sections: Sequence[float]) -> float:
    """Return the half width of the confidence interval of the mean of independent sections."""
    return STUDENT_T * stdev(of_sections) / math.sqrt(len(of_sections))


def _quantile(parts: Sequence[Sequence[float]], percentile: float) -> float:
    """Return the smallest value that so many percent of all values do not exceed.

    The parts are sorted, each by itself; putting them together would take time and memory.
    """
    rank = max(1, math.ceil(sum(map(len, parts)) * percentile / 100))

    def values_up_to(value: float) -> int:
        return sum(bisect_right(part, value) for part in parts)

    found: list[float] = []
    for part in parts:
        place = bisect_left(part, rank, key=values_up_to)
        found += part[place : place + 1]
    return min(found)

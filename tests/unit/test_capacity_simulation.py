"""The capacity simulation against closed forms, and what must hold whatever is simulated.

Confidence is tested by coverage: of 40 intervals at 95 %, 33 or fewer that hold the truth have a
probability of 0.3 % (binomial), so 34 are asked for. Seeds are fixed: the outcome never changes by
chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice, pairwise
from random import Random
from statistics import NormalDist, fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capacity.simulation import (
    BLOCK,
    LARGEST_P95_TO_MEAN,
    LEAST_RELAXATIONS,
    LONGEST_SECTION,
    NORMAL_95,
    SECTIONS,
    SHORTEST_SECTION,
    STEPS,
    Empirical,
    Interval,
    Load,
    LogNormal,
    ServiceTimes,
    Waits,
    first_simulated,
    first_stable,
    relaxation,
    section_length,
    simulate,
    waits,
)

SEEDS = range(40)
ENOUGH = 34
#: Shorter than in production, for loads that settle sooner.
SECTION = 2_000


@dataclass(frozen=True)
class Exponential:
    mean: float
    variability: float = 1.0

    def draw(self, source: Random, number: int) -> list[float]:
        return [-self.mean * math.log(1 - source.random()) for _ in range(number)]


def waiting_probability(offered: float, workers: int) -> float:
    """Erlang's C formula, by the recursion of his B formula."""
    blocked = 1.0
    for number in range(1, workers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return workers * blocked / (workers - offered * (1 - blocked))


def measured(times: ServiceTimes, workers: int, utilisation: float) -> list[Waits]:
    load = Load(utilisation * workers / times.mean, times)
    return [
        simulate(load, workers, seed=seed, percentiles=[50, 90, 95, 99], section=SECTION)
        for seed in SEEDS
    ]


def assert_covers(intervals: list[Interval], truth: float) -> None:
    covering = sum(interval.low <= truth <= interval.high for interval in intervals)
    assert covering >= ENOUGH, f"{covering} of {len(intervals)} hold {truth}"
    # And the estimates are right on average: so far off by chance once in a thousand times.
    if truth:
        estimates = [interval.value for interval in intervals]
        assert abs(fmean(estimates) - truth) <= 3.3 * stdev(estimates) / math.sqrt(len(estimates))


@pytest.mark.parametrize(("workers", "utilisation"), [(1, 0.5), (1, 0.8), (3, 0.7), (12, 0.85)])
def test_markovian_queues_wait_as_erlang_says(workers: int, utilisation: float) -> None:
    service = 0.25
    offered = utilisation * workers
    chance = waiting_probability(offered, workers)
    # Those who wait at all wait exponentially.
    rate = (workers - offered) / service
    results = measured(Exponential(service), workers, utilisation)

    assert_covers([result.waiting for result in results], chance)
    assert_covers([result.mean for result in results], chance / rate)
    for percentile in (50, 90, 95, 99):
        truth = max(0.0, math.log(chance / (1 - percentile / 100)) / rate)
        assert_covers([result.percentiles[percentile] for result in results], truth)


@pytest.mark.parametrize(
    ("times", "utilisation"),
    [
        pytest.param(LogNormal.fitted(2.0, 2.0), 0.7, id="constant (M/D/1)"),
        pytest.param(LogNormal.fitted(0.5, 1.25), 0.6, id="log-normal"),
        pytest.param(Empirical([0.1, 0.1, 0.2, 1.0]), 0.6, id="measured"),
    ],
)
def test_one_worker_lets_wait_as_pollaczek_and_khinchine_say(
    times: ServiceTimes, utilisation: float
) -> None:
    truth = utilisation / (1 - utilisation) * times.mean * (1 + times.variability) / 2
    results = measured(times, 1, utilisation)

    assert_covers([result.mean for result in results], truth)
    assert_covers([result.waiting for result in results], utilisation)


def test_the_run_of_production_is_as_long_as_its_intervals_need() -> None:
    load = Load(9.5, Exponential(1.0))
    section = section_length(load, 10)
    assert section is not None and section >= 50 * relaxation(load, 10)

    result = simulate(load, 10, seed=1, percentiles=[95], section=section)
    chance, rate = waiting_probability(9.5, 10), 0.5
    truth = math.log(chance / 0.05) / rate
    assert result.percentiles[95].low <= truth <= result.percentiles[95].high
    assert result.percentiles[95].high - result.percentiles[95].low < 0.25 * truth


def test_the_same_seed_has_the_same_answer_and_another_seed_another() -> None:
    load = Load(7.0, LogNormal.fitted(1.0, 2.5))
    first, again, other = (
        simulate(load, 9, seed=seed, percentiles=[95, 99.9], section=BLOCK) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_a_checkpoint_is_called_often_and_may_end_the_simulation() -> None:
    class Enough(Exception):  # noqa: N818 - not an error
        pass

    seen: list[int] = []

    def checkpoint(steps: int) -> None:
        seen.append(steps)
        if steps == 3:
            raise Enough

    load = Load(1.0, Exponential(0.5))
    with pytest.raises(Enough):
        simulate(load, 1, seed=1, percentiles=[50], section=2 * BLOCK, checkpoint=checkpoint)
    assert seen == [0, 0, 1, 1, 2, 2, 3]
    assert STEPS == SECTIONS + 1


@pytest.mark.parametrize("ratio", [1.0, 1.01, 1.5, 2.5, 3.8, LARGEST_P95_TO_MEAN])
def test_a_fitted_log_normal_has_the_mean_and_the_percentile(ratio: float) -> None:
    mean, p95 = 0.4, 0.4 * ratio
    fitted = LogNormal.fitted(mean, p95)
    location = math.log(mean) - fitted.sigma**2 / 2

    assert math.exp(location + NORMAL_95 * fitted.sigma) == pytest.approx(p95, rel=1e-6)
    # Of the two that have both, the one with fewer giants.
    assert 0 <= fitted.sigma <= NORMAL_95
    if ratio < 3:
        drawn = fitted.draw(Random(1), 40_001)
        assert len(drawn) == 40_001
        assert fmean(drawn) == pytest.approx(mean, rel=0.02)
        assert sorted(drawn)[38_000] == pytest.approx(p95, rel=0.03)


@pytest.mark.parametrize("ratio", [0.5, 0.999, 3.87, 100])
def test_what_no_log_normal_has_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"it must be 1 to 3\.868 times"):
        LogNormal.fitted(2.0, 2.0 * ratio)


def test_the_normal_quantile_is_right() -> None:
    assert pytest.approx(NormalDist().inv_cdf(0.95)) == NORMAL_95


def test_measured_times_are_drawn_each_as_likely() -> None:
    samples = [1.0, 2.0, 4.0, 9.0]
    drawn = Empirical(samples).draw(Random(3), 40_000)

    assert {sample: drawn.count(sample) for sample in samples} == pytest.approx(
        dict.fromkeys(samples, 10_000), rel=0.05
    )
    assert Empirical(samples).mean == 4
    assert Empirical(samples).variability == pytest.approx(9.5 / 16)


def test_what_cannot_keep_up_or_settle_is_not_simulated() -> None:
    load = Load(20.0, Exponential(1.0))

    assert first_stable(load) == 21
    assert [section_length(load, workers) for workers in (1, 20)] == [None, None]
    assert first_simulated(load, 100) == 21
    assert first_simulated(load, 15) == 16, "none up to the limit"
    close = Load(0.995, Exponential(1.0))
    assert first_stable(close) == 1
    assert section_length(close, 1) is None
    assert first_simulated(close, 10) == 2


@given(
    offered=st.floats(0.01, 900),
    spare=st.integers(1, 100),
    ratio=st.floats(1, LARGEST_P95_TO_MEAN),
)
def test_the_work_of_a_candidate_is_bounded(offered: float, spare: int, ratio: float) -> None:
    load = Load(offered, LogNormal.fitted(1.0, ratio))
    workers = first_stable(load) + spare
    section = section_length(load, workers)

    if section is not None:
        assert SHORTEST_SECTION <= section <= LONGEST_SECTION and section % BLOCK == 0
        assert section >= LEAST_RELAXATIONS * relaxation(load, workers)


@given(
    rate=st.floats(0.1, 50),
    mean=st.floats(0.01, 10),
    ratio=st.floats(1, 3.8),
    workers=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_with_more_workers_nobody_waits_longer(
    rate: float, mean: float, ratio: float, workers: int, seed: int
) -> None:
    """Also in an unstable queue: customers arrive and need the same, however many serve them."""
    load = Load(rate, LogNormal.fitted(mean, mean * ratio))
    runs = [
        [wait for block in islice(waits(load, number, seed), 2) for wait in block]
        for number in (workers, workers + 1, workers + 2)
    ]
    for fewer, more in pairwise(runs):
        assert fmean(more) <= fmean(fewer) * (1 + 1e-9)
        assert all(one <= other + 1e-6 * mean for one, other in zip(more, fewer, strict=True))


@given(st.lists(st.floats(0.001, 100), min_size=2, max_size=50), st.integers(0, 1000))
def test_measured_times_give_waits_that_are_numbers(samples: list[float], seed: int) -> None:
    times = Empirical(samples)
    load = Load(0.5 / times.mean, times)
    result = simulate(load, 1, seed=seed, percentiles=[50, 99.9], section=BLOCK)

    p50, p999 = result.percentiles[50], result.percentiles[99.9]
    assert 0 <= p50.low <= p50.value <= p50.high < math.inf
    assert p50.value <= p999.value
    assert 0 < result.waiting.value < 1


def test_short_waits_keep_their_digits_on_a_slow_clock() -> None:
    """One arrival in eleven days, a microsecond of service: nobody waits."""
    load = Load(1e-6, LogNormal.fitted(1e-6, 2e-6))
    assert not any(wait for block in islice(waits(load, 1, 1), 20) for wait in block)

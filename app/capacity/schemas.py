"""What a capacity plan may ask for."""

from __future__ import annotations

from typing import Annotated, Final, Self

from ninja import Schema
from pydantic import ConfigDict, Field, model_validator

from capacity.simulation import Empirical, Load, LogNormal, ServiceTimes

#: Arrivals each second, from one in eleven days to more than any machine of ours could serve.
LOWEST_RATE: Final = 1e-6
HIGHEST_RATE: Final = 100_000.0
#: Seconds: a microsecond to a day.
SHORTEST_TIME: Final = 1e-6
LONGEST_TIME: Final = 86_400.0
#: Workers. A candidate of this size still takes only seconds (bench/capacity.py).
MOST_WORKERS: Final = 1_000
MOST_SAMPLES: Final = 10_000
#: Both JavaScript and PostgreSQL keep it exactly.
LARGEST_SEED: Final = 2**53 - 1

Seconds = Annotated[float, Field(ge=SHORTEST_TIME, le=LONGEST_TIME, allow_inf_nan=False)]


class PlanIn(Schema):
    """How much work arrives, and how long it may wait.

    Service times are either log-normal (``service_time_mean`` and ``service_time_p95``) or drawn
    from measured ones (``service_times``).
    """

    model_config = ConfigDict(extra="forbid")

    arrival_rate: Annotated[
        float,
        Field(
            ge=LOWEST_RATE,
            le=HIGHEST_RATE,
            allow_inf_nan=False,
            description="Tasks that arrive each second, independently of each other.",
        ),
    ]
    service_time_mean: Seconds | None = Field(
        None, description="Seconds that a task takes on average."
    )
    service_time_p95: Seconds | None = Field(
        None,
        description="Seconds that 95 % of tasks do not exceed: 1 to 3.868 times the mean (no "
        "usable log-normal distribution has another); the mean itself: all take the same time.",
    )
    service_times: Annotated[list[Seconds], Field(min_length=2, max_length=MOST_SAMPLES)] | None = (
        Field(None, description="Measured seconds, instead of the two above.")
    )
    target_wait: Seconds = Field(description="Seconds that a task may wait before it starts.")
    percentile: Annotated[float, Field(ge=50, le=99.9, allow_inf_nan=False)] = Field(
        95, description="Percent of tasks that have to wait no longer than that."
    )
    max_workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)] = Field(
        description="Try at most so many workers (tasks that run at the same time)."
    )
    slots_per_pod: Annotated[int, Field(ge=1, le=MOST_WORKERS)] = Field(
        4, description="Workers (processes) in each pod."
    )
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = Field(
        1, description="The same plan with the same seed has the same answer."
    )

    @model_validator(mode="after")
    def _one_distribution(self) -> Self:
        """Refuse service times that are given twice, by halves, or that nothing has."""
        self.load()
        return self

    def load(self) -> Load:
        """Return what arrives, as the simulation takes it.

        Raises:
            ValueError: The service times are not given once, or no log-normal has them.
        """
        return Load(self.arrival_rate, self._service_times())

    def _service_times(self) -> ServiceTimes:
        mean, p95 = self.service_time_mean, self.service_time_p95
        if self.service_times is not None:
            if mean is not None or p95 is not None:
                raise ValueError("give either service_times, or service_time_mean and _p95")
            return Empirical(self.service_times)
        if mean is None or p95 is None:
            raise ValueError("give service_time_mean and service_time_p95, or service_times")
        return LogNormal.fitted(mean, p95)


class StrictPlanIn(PlanIn):
    """How much work arrives, and how long it may wait; numbers must not be written as text.

    Service times are either log-normal (``service_time_mean`` and ``service_time_p95``) or drawn
    from measured ones (``service_times``).
    """

    model_config = ConfigDict(extra="forbid", strict=True)

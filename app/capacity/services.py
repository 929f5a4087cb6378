"""Creating a capacity plan, simulating its candidates, and deciding when there are enough."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import UUID

import structlog
from django.db import InterfaceError, OperationalError, connection
from django.db.models import F, Sum

from capacity import simulation
from capacity.models import Candidate, Plan
from capacity.schemas import PlanIn
from capacity.simulation import STEPS, Interval, Load
from jobs.models import Job, State
from jobs.services import job_finish, job_progress, job_submit

logger = structlog.get_logger(__name__)

KIND: Final = "capacity"
#: Candidates that are simulated side by side before it is decided whether more are needed. It must
#: not depend on how many workers there are, or the answer would.
WAVE: Final = 4
#: Candidates below the first simulated one that are listed; the others are no better.
LISTED_BEFORE: Final = 5
#: Percentiles that are measured, besides the one that was asked for.
PERCENTILES: Final = (50.0, 95.0, 99.0)
#: Seconds between two looks at the job's state, and notes of progress, while simulating.
CHECK_INTERVAL_SECONDS: Final = 0.25


class AbandonedError(Exception):
    """The job is not running any more: there is nobody to simulate for."""


def plan_submit(*, plan: PlanIn, requested_by: str, idempotency_key: str | None = None) -> Job:
    """Store a plan, to be computed after the commit.

    Progress counts steps, ``STEPS`` for each number of workers up to ``max_workers``. Those that
    need no simulation, because they cannot keep up or because fewer are enough, count as done when
    that is known.

    Raises:
        IdempotencyKeyReusedError: The key belongs to a different request.
    """
    first = simulation.first_simulated(plan.load(), plan.max_workers)

    def create(job: Job) -> None:
        Plan.objects.create(job=job, first_simulated=first, **plan.model_dump())

    return job_submit(
        kind=KIND,
        total=plan.max_workers * STEPS,
        requested_by=requested_by,
        fingerprint=hashlib.sha256(plan.model_dump_json().encode()).hexdigest(),
        idempotency_key=idempotency_key,
        create_details=create,
    )


def plan_enqueue(job_id: UUID) -> None:
    """Have the plan computed if and when the current transaction commits."""
    from capacity.tasks import start_plan  # noqa: PLC0415 - tasks build on services

    start_plan.delay_on_commit(str(job_id))


def plan_next(job_id: UUID) -> list[int]:
    """Return the candidates to simulate next, and store them; finish the job when none are needed.

    Waves of ``WAVE`` candidates, from the first that can be simulated on, until one has somebody
    who meets the target: more workers would only be more. The decision looks at whole waves, in
    their order, so it does not depend on who was faster. What a wave lacks, because it was left
    when its job failed, is entered again.
    """
    plan = Plan.objects.select_related("job").get(job_id=job_id)
    if plan.job.state != State.RUNNING:
        return []
    load = plan_load(plan)
    found: dict[int, dict[str, Any]] = dict(
        plan.candidates.filter(result__isnull=False).values_list("workers", "result")
    )
    simulated: list[dict[str, Any]] = []
    for wave in _waves(plan):
        missing = [workers for workers in wave if workers not in found]
        if missing:
            Candidate.objects.bulk_create(
                [Candidate(plan=plan, workers=workers) for workers in missing],
                ignore_conflicts=True,
            )
            return missing
        simulated += [found[workers] for workers in wave]
        if any(result["meets_target"] for result in simulated):
            break
    job_finish(
        job_id,
        state=State.SUCCEEDED,
        done=plan.job.total,
        result=_result(plan, load, simulated),
    )
    return []


def plan_progress(job_id: UUID) -> None:
    """Count the steps that are done."""
    first = Plan.objects.values_list("first_simulated", flat=True).get(job_id=job_id)
    candidates = Candidate.objects.filter(plan_id=job_id)
    simulated = candidates.aggregate(steps=Sum("steps", default=0))["steps"]
    job_progress(job_id, done=(first - 1) * STEPS + simulated)


def plan_leave(job_id: UUID) -> None:
    """Do nothing when the job ends early: simulations look at the job's state, and leave."""


def plan_reopen(job_id: UUID) -> None:
    """Have what the last wave lacks simulated: others of it may be dead letters, or have left.

    That is a new round; tasks of earlier ones find that they are late, or all would be done twice.
    """
    from capacity.tasks import continue_plan  # noqa: PLC0415 - as above

    Plan.objects.filter(job_id=job_id).update(rounds=F("rounds") + 1)
    continue_plan.delay_on_commit(str(job_id), plan_round(job_id))


def plan_round(job_id: UUID) -> int:
    """Return the number of the round whose tasks work for a plan."""
    return Plan.objects.values_list("rounds", flat=True).get(job_id=job_id)


def candidate_simulate(job_id: UUID, workers: int) -> dict[str, Any] | None:
    """Simulate one number of workers; returns what goes into the job's result.

    None when there is nothing to do: it is known already, or the job is not running (any more).
    Changes nothing but progress.
    """
    candidate = Candidate.objects.select_related("plan").get(plan_id=job_id, workers=workers)
    if candidate.result is not None:
        return None
    plan = candidate.plan
    load = plan_load(plan)
    section = simulation.section_length(load, workers)
    if section is None:
        raise ValueError(f"{workers} workers cannot be simulated")  # plan_next never asks for it
    try:
        measured = simulation.simulate(
            load,
            workers,
            seed=plan.seed,
            percentiles=sorted({*PERCENTILES, plan.percentile}),
            section=section,
            checkpoint=_checkpoint(job_id, workers),
        )
    except AbandonedError:
        logger.info("simulation_abandoned", job_id=str(job_id), workers=workers)
        return None
    wait = _as_json(measured.percentiles[plan.percentile])
    return {
        **_unsimulated(load, workers),
        **{
            f"p{percentile:g}": _as_json(measured.percentiles[percentile])
            for percentile in PERCENTILES
        },
        "wait": wait,
        "mean": _as_json(measured.mean),
        "waiting": _as_json(measured.waiting),
        "meets_target": wait["high"] <= plan.target_wait,
    }


def candidate_store(job_id: UUID, workers: int, result: dict[str, Any]) -> None:
    """Store what was measured."""
    Candidate.objects.filter(plan_id=job_id, workers=workers).update(result=result, steps=STEPS)


def plan_load(plan: Plan) -> Load:
    """Return what arrives, as the simulation takes it."""
    names = ("arrival_rate", "service_time_mean", "service_time_p95", "service_times")
    return PlanIn.model_construct(**{name: getattr(plan, name) for name in names}).load()


def _checkpoint(job_id: UUID, workers: int) -> Callable[[int], None]:
    """Return what a simulation calls all the time: it looks up at intervals.

    Raises ``AbandonedError`` from there when the job is not running any more. A database that is
    away is no reason to stop: the simulation needs it only at its end.
    """
    looked_at = -math.inf
    noted = 0

    def checkpoint(steps: int) -> None:
        nonlocal looked_at, noted
        if time.monotonic() - looked_at < CHECK_INTERVAL_SECONDS:
            return
        try:
            if not Job.objects.filter(id=job_id, state=State.RUNNING).exists():
                raise AbandonedError
            if steps > noted:
                noted = steps
                behind = Candidate.objects.filter(plan_id=job_id, workers=workers, steps__lt=steps)
                if behind.update(steps=steps):
                    plan_progress(job_id)
        except (OperationalError, InterfaceError) as error:
            logger.warning("state_not_read", job_id=str(job_id), error=str(error))
            connection.close()
        looked_at = time.monotonic()

    return checkpoint


def _waves(plan: Plan) -> Iterator[range]:
    end = plan.max_workers + 1
    for first in range(plan.first_simulated, end, WAVE):
        yield range(first, min(first + WAVE, end))


def _unsimulated(load: Load, workers: int) -> dict[str, Any]:
    """Return what is known of a candidate without simulating it."""
    return {
        "workers": workers,
        "utilisation": _rounded(load.offered / workers),
        "stable": workers >= simulation.first_stable(load),
        **dict.fromkeys([*(f"p{percentile:g}" for percentile in PERCENTILES), "wait"]),
        "mean": None,
        "waiting": None,
        "meets_target": False,
    }


def _result(plan: Plan, load: Load, simulated: list[dict[str, Any]]) -> dict[str, Any]:
    enough = (result["workers"] for result in simulated if result["meets_target"])
    recommended = next(enough, None)
    first = plan.first_simulated
    before = range(max(1, first - LISTED_BEFORE), first)
    return {
        "recommended_workers": recommended,
        "recommended_pods": recommended and math.ceil(recommended / plan.slots_per_pod),
        "reason": None if recommended else _reason(plan, load, simulated),
        "slots_per_pod": plan.slots_per_pod,
        "target_wait": plan.target_wait,
        "percentile": plan.percentile,
        "offered_load": _rounded(load.offered),
        "candidates": [*(_unsimulated(load, workers) for workers in before), *simulated],
        "stopped_early": first + len(simulated) <= plan.max_workers,
        "seed": plan.seed,
    }


def _reason(plan: Plan, load: Load, simulated: list[dict[str, Any]]) -> str:
    """Say why no number of workers is recommended."""
    most, stable = plan.max_workers, simulation.first_stable(load)
    if most < stable:
        return (
            f"{load.offered:.6g} workers would be busy all the time: with {most} at most, the "
            f"queue grows without end. At least {stable} are needed."
        )
    if not simulated and simulation.varies_too_much(load):
        return (
            "These service times vary too much: most of the work is in a few very long tasks, and "
            "waits take longer to settle than is simulated. Give those a queue of their own."
        )
    if not simulated:
        return (
            f"With {most} workers at most, the queue is so close to its limit that its waits take "
            "longer to settle than is simulated. Allow more workers."
        )
    wait = simulated[-1]["wait"]
    return (
        f"With {most} workers at most, the wait at p{plan.percentile:g} is {wait['value']:g} s "
        f"({wait['low']:g} to {wait['high']:g}), not surely within {plan.target_wait:g} s."
    )


def _as_json(interval: Interval) -> dict[str, float]:
    return {
        "value": _rounded(interval.value),
        "low": _rounded(interval.low),
        "high": _rounded(interval.high),
    }


def _rounded(value: float) -> float:
    """Keep six digits: more would differ between mathematical libraries, and mean nothing."""
    return float(f"{value:.6g}")

"""Tasks of the capacity workload (queue: bulk)."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task

from capacity.services import (
    candidate_simulate,
    candidate_store,
    plan_next,
    plan_progress,
    plan_round,
)
from delivery import canvas
from delivery.tasks import run_once
from jobs.services import job_start
from jobs.tasks import JobTask


@shared_task(name="capacity.start_plan", base=JobTask)
def start_plan(job_id: str) -> None:
    """Enter the first wave of candidates.

    Queue: bulk. The wave and this task's success are committed together, so it is entered once.
    Retries: as every task.
    """
    with run_once():
        if job_start(UUID(job_id)):
            _enter_wave(job_id, 0)
    plan_progress(UUID(job_id))


@shared_task(name="capacity.continue_plan", base=JobTask)
def continue_plan(job_id: str, round_number: int) -> None:
    """Enter the next wave of candidates, or finish the job: the body of each wave's chord.

    Queue: bulk. As ``start_plan``.
    """
    with run_once():
        _enter_wave(job_id, round_number)


@shared_task(name="capacity.simulate_candidate", base=JobTask)
def simulate_candidate(job_id: str, workers: int, round_number: int) -> None:
    """Simulate one number of workers: a member of a wave's chord.

    Queue: bulk. Takes seconds; what was measured and the success are committed together. When its
    process dies it is simulated again, with the same random numbers. Retries: as every task.
    """
    plan_id = UUID(job_id)
    if round_number != plan_round(plan_id):
        return
    result = candidate_simulate(plan_id, workers)
    if result is None:
        return
    with run_once():
        candidate_store(plan_id, workers, result)
    plan_progress(plan_id)


def _enter_wave(job_id: str, round_number: int) -> None:
    if round_number != plan_round(UUID(job_id)):
        return
    candidates = plan_next(UUID(job_id))
    if candidates:
        canvas.chord(
            [simulate_candidate.si(job_id, workers, round_number) for workers in candidates],
            continue_plan.si(job_id, round_number),
        )

"""Capacity plans from submission to the plot, with a real broker and worker, and what kills it."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from django.contrib.auth import get_user_model
from django.db import OperationalError, connection
from django.db.models import F
from django.db.models.functions import Now
from django.test import Client
from redis import Redis

from capacity import simulation
from capacity.models import Candidate, Plan
from capacity.schemas import PlanIn
from capacity.services import (
    CHECK_INTERVAL_SECONDS,
    WAVE,
    candidate_simulate,
    candidate_store,
    plan_next,
    plan_submit,
)
from capacity.simulation import STEPS
from capacity.tasks import simulate_candidate
from delivery import ledger, publishing
from delivery.models import Delivery
from delivery.models import State as DeliveryState
from jobs.models import Job, State
from jobs.services import job_cancel, job_fail, job_start
from tests.integration.conftest import COMMIT_SECONDS, TOKEN, assert_error, wait_for_end
from tests.support.roles import Role, running_worker, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

#: Six workers are busy; the answer is in the first wave or two, in a second.
SHORT = {
    "arrival_rate": 12.0,
    "service_time_mean": 0.5,
    "service_time_p95": 1.2,
    "target_wait": 0.2,
    "max_workers": 30,
}
#: Two waves; its first candidates take seconds, because one task in 300 takes almost all the time.
LONG = {
    "arrival_rate": 3.2,
    "service_times": [0.001] * 299 + [300.0],
    "target_wait": 1e-6,
    "percentile": 99,
    "max_workers": 11,
}
LONG_CANDIDATES = range(4, 12)


def submit(values: dict[str, Any], **options: Any) -> Job:
    return plan_submit(plan=PlanIn(**values), requested_by="tester", **options)


def computed_here(monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]) -> Any:
    """Compute a plan in this process alone, the candidates of a wave in the wrong order."""
    with monkeypatch.context() as context:
        context.setattr(publishing, "publish_or_leave", lambda _messages: None)
        job = submit(values)
        Delivery.objects.all().delete()
    assert job_start(job.id)
    while candidates := plan_next(job.id):
        for workers in reversed(candidates):
            result = candidate_simulate(job.id, workers)
            assert result is not None
            candidate_store(job.id, workers, result)
    job.refresh_from_db()
    assert job.state == State.SUCCEEDED
    result = job.result
    job.delete()
    return result


@pytest.fixture(scope="module")
def computed() -> dict[str, Any]:
    """Return what the answers are kept in that were computed here: each once."""
    return {}


@pytest.fixture
def undisturbed(computed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what computes a plan without workers and without anything that disturbs."""

    def answer(values: dict[str, Any]) -> Any:
        name = json.dumps(values)
        if name not in computed:
            computed[name] = computed_here(monkeypatch, values)
        return computed[name]

    return answer


def simulations(job: Job) -> dict[int, Delivery]:
    """Return the deliveries of a plan's candidates, by the number of workers."""
    found = Delivery.objects.filter(task=simulate_candidate.name, args__0=str(job.id))
    return {delivery.args[1]: delivery for delivery in found}


def simulating(job: Job, worker: str = "") -> list[Delivery]:
    """Return the deliveries of candidates that a worker simulates at this moment."""
    return [
        delivery
        for delivery in simulations(job).values()
        if delivery.state == DeliveryState.RUNNING and delivery.worker.startswith(worker)
    ]


def frozen_in_mid_simulation(job: Job, worker: str = "", group: int | None = None) -> Delivery:
    """Stop a simulation when others are done: its process, or a whole group; returns its row."""
    caught: list[Delivery] = []

    def look() -> bool:
        for victim in simulating(job, worker) if stored(job) else []:
            process = int(victim.worker.rpartition(":")[2])
            send = partial(os.kill, process) if group is None else partial(os.killpg, group)
            send(signal.SIGSTOP)
            time.sleep(COMMIT_SECONDS)
            victim.refresh_from_db()
            if victim.state == DeliveryState.RUNNING:
                caught.append(victim)
                return True
            send(signal.SIGCONT)
        return False

    wait_until(look, timeout=60, what=f"a simulation of {job.id} is under way")
    return caught[0]


def stored(job: Job) -> set[int]:
    """Return the candidates that are done."""
    done = Candidate.objects.filter(plan_id=job.id, result__isnull=False)
    return set(done.values_list("workers", flat=True))


# --- The answer ----------------------------------------------------------------------------------


def test_the_answer_is_the_smallest_number_that_surely_meets_the_target(bulk_worker: Role) -> None:
    job = wait_for_end(submit(SHORT))

    assert (job.state, job.error, job.attempts) == (State.SUCCEEDED, "", 1)
    assert job.done == job.total == 30 * STEPS
    result = job.result
    assert set(result) == {
        "recommended_workers", "recommended_pods", "reason", "slots_per_pod", "target_wait",
        "percentile", "offered_load", "candidates", "stopped_early", "seed",
    }  # fmt: skip
    assert (result["offered_load"], result["percentile"], result["seed"]) == (6, 95, 1)
    assert result["reason"] is None and result["stopped_early"] is True
    candidates = {entry["workers"]: entry for entry in result["candidates"]}
    assert list(candidates) == sorted(candidates)
    for workers in (2, 6):
        assert candidates[workers]["stable"] is False and candidates[workers]["wait"] is None
        assert candidates[workers]["utilisation"] == pytest.approx(6 / workers)
    simulated = [entry for entry in candidates.values() if entry["wait"]]
    assert len(simulated) % WAVE == 0 and simulated[0]["workers"] == 7
    for entry in simulated:
        assert entry["stable"] is True and entry["wait"] == entry["p95"]
        for name in ("p50", "p95", "p99", "wait", "mean", "waiting"):
            assert 0 <= entry[name]["low"] <= entry[name]["value"] <= entry[name]["high"]
        assert entry["meets_target"] is (entry["wait"]["high"] <= 0.2)
    enough = [entry["workers"] for entry in simulated if entry["meets_target"]]
    assert result["recommended_workers"] == min(enough)
    assert result["recommended_pods"] == -(-min(enough) // 4)
    # More workers would only be more: the wave with the first that is enough was the last.
    assert max(candidates) - min(enough) < WAVE
    assert len(candidates) < 30


def test_one_and_two_processes_give_the_same_answer_and_another_seed_another(
    bulk_worker: Role, undisturbed: Callable[..., Any]
) -> None:
    alone = undisturbed(SHORT)
    together = wait_for_end(submit(SHORT)).result
    other = wait_for_end(submit({**SHORT, "seed": 2})).result

    assert together == alone
    assert other["candidates"] != alone["candidates"]


def test_measured_service_times_are_as_good(bulk_worker: Role) -> None:
    values = {"arrival_rate": 3.0, "service_times": [0.1, 0.2, 0.2, 0.9], "target_wait": 1.0}
    job = wait_for_end(submit({**values, "max_workers": 3, "percentile": 90, "slots_per_pod": 1}))

    assert job.result["offered_load"] == pytest.approx(1.05)
    assert job.result["recommended_workers"] == job.result["recommended_pods"] == 2
    assert job.result["stopped_early"] is False


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        pytest.param({"max_workers": 5}, "the queue grows without end. At least 7", id="too few"),
        pytest.param(
            {"max_workers": 8, "target_wait": 1e-6},
            "With 8 workers at most, the wait at p95 is ",
            id="not enough",
        ),
        pytest.param(
            {"max_workers": 7, "arrival_rate": 13.99},
            "so close to its limit that its waits take longer to settle",
            id="too close",
        ),
    ],
)
def test_no_answer_has_a_reason(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], reason: str
) -> None:
    result = computed_here(monkeypatch, {**SHORT, **values})

    assert result["recommended_workers"] is None and result["recommended_pods"] is None
    assert reason in result["reason"]
    assert result["stopped_early"] is False
    assert result["candidates"] and not any(c["meets_target"] for c in result["candidates"])


# --- Cancel, and pulling the plug ----------------------------------------------------------------


def test_cancelling_stops_simulations_in_the_middle(bulk_worker: Role) -> None:
    assert CHECK_INTERVAL_SECONDS <= 0.5
    job = submit(LONG)
    begun = Candidate.objects.filter(plan_id=job.id, steps__gt=0, steps__lt=STEPS // 2)
    wait_until(begun.exists, timeout=60, what="a simulation is under way")
    job_cancel(job.id)
    cancelled_at = time.monotonic()
    unfinished = set(LONG_CANDIDATES) - stored(job)

    wait_until(
        lambda: not any(delivery.is_open for delivery in simulations(job).values()),
        what="no simulation goes on",
    )
    # Promised are two seconds, on a machine that has nothing else to do.
    assert time.monotonic() - cancelled_at < 20
    # They did not run to their end: what was under way is left as it was.
    assert stored(job) == set(LONG_CANDIDATES) - unfinished
    left = Candidate.objects.filter(plan_id=job.id, result__isnull=True)
    assert 0 < max(left.values_list("steps", flat=True)) < STEPS
    job.refresh_from_db()
    assert (job.state, job.result) == (State.CANCELLED, None)
    assert 0 < job.done < job.total


def test_a_killed_pool_process_costs_only_its_own_candidate(
    bulk_worker: Role, undisturbed: Callable[..., Any]
) -> None:
    expected = undisturbed(LONG)
    job = submit(LONG)
    victim = frozen_in_mid_simulation(job)
    done = stored(job)
    os.kill(int(victim.worker.rpartition(":")[2]), signal.SIGKILL)

    assert wait_for_end(job, 90).state == State.SUCCEEDED
    assert job.result == expected
    assert job.done == job.total
    attempts = {workers: delivery.attempts for workers, delivery in simulations(job).items()}
    assert set(attempts) == set(LONG_CANDIDATES)
    assert attempts[victim.args[1]] == 2
    assert {attempts[workers] for workers in done} == {1}


def test_a_killed_worker_costs_only_what_it_was_simulating(
    bulk_worker: Role,
    role_settings: dict[str, str],
    broker: Redis,
    tmp_path: Path,
    undisturbed: Callable[..., Any],
) -> None:
    expected = undisturbed(LONG)
    settings = {**role_settings, "WORKER_SERVICE": "worker-bulk", "WORKER_CONCURRENCY": "2"}
    hostname = ("--hostname", "doomed@%h")
    with running_worker(tmp_path, *hostname, name="doomed", **settings) as doomed:
        job = submit(LONG)
        victim = frozen_in_mid_simulation(job, "doomed@", doomed.process.pid)
        done = stored(job)
        os.killpg(doomed.process.pid, signal.SIGKILL)
        doomed.process.wait()
    # Thirty seconds pass: the leases of the dead run out.
    Delivery.objects.filter(worker__startswith="doomed@", state=DeliveryState.RUNNING).update(
        due_at=Now()
    )
    ledger.notify_relays()

    assert wait_for_end(job, 90).state == State.SUCCEEDED
    assert job.result == expected
    attempts = {workers: delivery.attempts for workers, delivery in simulations(job).items()}
    assert attempts[victim.args[1]] == 2
    assert {attempts[workers] for workers in done} == {1}
    # Redis keeps what the dead had taken for the visibility timeout; nobody needs it any more.
    broker.delete("unacked", "unacked_index")


def test_failed_candidates_fail_the_job_and_the_replay_of_one_goes_on(
    bulk_worker: Role, undisturbed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = undisturbed(SHORT)
    with monkeypatch.context() as context:
        # Claimed by hand, before a worker can see it.
        context.setattr(publishing, "publish_or_leave", lambda _messages: None)
        job = submit(SHORT)
        Delivery.objects.all().delete()
        assert job_start(job.id)
        from capacity.tasks import _enter_wave  # noqa: PLC0415 - the task itself would be claimed

        _enter_wave(str(job.id), 0)
    letters = [simulations(job)[workers] for workers in (8, 9)]
    for letter in letters:
        claim = ledger.claim(letter.id, "a worker with a bug")
        assert claim is not None
        ledger.bury(claim, "RuntimeError: a bug")
    job.refresh_from_db()
    assert (job.state, job.error) == (State.FAILED, "RuntimeError: a bug")
    # The others of the wave find the job failed, and leave.
    Delivery.objects.filter(state=DeliveryState.DISPATCHED).update(due_at=Now())
    ledger.notify_relays()
    others = [delivery for delivery in simulations(job).values() if delivery not in letters]
    wait_until(
        lambda: not any(Delivery.objects.get(id=other.id).is_open for other in others),
        timeout=60,
        what="the others leave",
    )
    assert not stored(job)

    ledger.replay([letters[0].id])
    assert wait_for_end(job, 90).state == State.SUCCEEDED
    assert job.result == expected
    # The first round of one wave, then one round of all waves: none is done twice.
    entered = Delivery.objects.filter(task=simulate_candidate.name, args__0=str(job.id))
    assert entered.count() == len(others) + len(letters) + len(job.result["candidates"]) - sum(
        not candidate["wait"] for candidate in job.result["candidates"]
    )


def test_progress_never_falls_and_is_counted_from_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "publish_or_leave", lambda _messages: None)
    job = submit(SHORT)
    Delivery.objects.all().delete()
    job_start(job.id)
    workers, *_others = plan_next(job.id)
    # An attempt that was killed had come this far:
    Candidate.objects.filter(workers=workers).update(steps=STEPS - 1)
    Job.objects.update(done=F("total") - 1)

    result = candidate_simulate(job.id, workers)
    assert result is not None
    assert Candidate.objects.get(workers=workers).steps == STEPS - 1
    job.refresh_from_db()
    assert job.done == job.total - 1
    candidate_store(job.id, workers, result)
    assert candidate_simulate(job.id, workers) is None, "what is known is not simulated again"
    job_fail(job.id, "enough")
    assert plan_next(job.id) == []


def test_a_simulation_outlives_the_loss_of_its_database_session(
    undisturbed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = undisturbed(SHORT)
    simulate, lost = simulation.simulate, 0

    def simulate_without_session(*arguments: Any, **options: Any) -> Any:
        nonlocal lost
        with connection.cursor() as cursor, suppress(OperationalError):
            lost += 1
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return simulate(*arguments, **options)

    monkeypatch.setattr(simulation, "simulate", simulate_without_session)
    assert computed_here(monkeypatch, SHORT) == expected
    assert lost == WAVE


# --- The API -------------------------------------------------------------------------------------


@pytest.fixture
def api(redis: object, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Return a client of the API. What it submits is not done."""
    monkeypatch.setattr(publishing, "publish_or_leave", lambda _messages: None)
    return Client(headers={"Authorization": f"Bearer {TOKEN}"})


def post(client: Client, body: Any, **headers: str) -> Any:
    content = body if isinstance(body, str) else json.dumps(body)
    return client.post(
        "/api/jobs/capacity", content, content_type="application/json", headers=headers
    )


def test_a_plan_is_stored_and_answered_with_its_address(api: Client) -> None:
    response = post(api, SHORT)

    assert response.status_code == 202
    body = response.json()
    assert response["Location"] == f"/api/jobs/{body['id']}"
    assert (body["kind"], body["state"], body["total"]) == ("capacity", "queued", 30 * STEPS)
    plan = Plan.objects.get(job_id=body["id"])
    assert (plan.percentile, plan.slots_per_pod, plan.seed, plan.first_simulated) == (95, 4, 1, 7)
    assert plan.job.requested_by == "token:tester"


def test_a_repeated_request_with_the_same_key_returns_the_first_job(api: Client) -> None:
    first = post(api, SHORT, **{"Idempotency-Key": "one"})
    again = post(api, SHORT, **{"Idempotency-Key": "one"})
    other = post(api, {**SHORT, "seed": 2}, **{"Idempotency-Key": "one"})

    assert again.json() == first.json()
    assert_error(other, 409, "conflict")
    assert Plan.objects.count() == 1


WITHOUT_TIMES = {
    name: value for name, value in SHORT.items() if not name.startswith("service_time")
}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param("{", 400, id="not JSON"),
        pytest.param("null", 422, id="null"),
        pytest.param({}, 422, id="nothing in it"),
        pytest.param({**SHORT, "surprise": 1}, 422, id="an unknown field"),
        pytest.param({**SHORT, "arrival_rate": 0}, 422, id="nothing arrives"),
        pytest.param({**SHORT, "arrival_rate": -1}, 422, id="a negative rate"),
        pytest.param({**SHORT, "arrival_rate": 1e6}, 422, id="too high a rate"),
        pytest.param({**SHORT, "arrival_rate": float("nan")}, 400, id="not a number"),
        pytest.param({**SHORT, "arrival_rate": float("inf")}, 400, id="infinite"),
        pytest.param({**SHORT, "arrival_rate": "12"}, 422, id="a number as text"),
        pytest.param({**SHORT, "arrival_rate": True}, 422, id="a truth value"),
        pytest.param({**SHORT, "arrival_rate": 10**400}, 422, id="more digits than a float"),
        pytest.param({**SHORT, "target_wait": 0}, 422, id="no wait at all"),
        pytest.param({**SHORT, "percentile": 49}, 422, id="percentile too low"),
        pytest.param({**SHORT, "percentile": 100}, 422, id="percentile too high"),
        pytest.param({**SHORT, "percentile": 99.9}, 202, id="the highest percentile"),
        pytest.param({**SHORT, "max_workers": 0}, 422, id="no workers"),
        pytest.param({**SHORT, "max_workers": 1.5}, 422, id="half a worker"),
        pytest.param({**SHORT, "max_workers": 1001}, 422, id="too many workers"),
        pytest.param({**SHORT, "slots_per_pod": 0}, 422, id="empty pods"),
        pytest.param({**SHORT, "seed": -1}, 422, id="a negative seed"),
        pytest.param({**SHORT, "seed": 2**53}, 422, id="too large a seed"),
        pytest.param({**SHORT, "seed": 2**53 - 1}, 202, id="the largest seed"),
        pytest.param({**SHORT, "service_time_p95": 0.4}, 422, id="p95 below the mean"),
        pytest.param({**SHORT, "service_time_p95": 2.0}, 422, id="p95 far above the mean"),
        pytest.param({**SHORT, "service_time_p95": 0.5}, 202, id="constant service"),
        pytest.param(WITHOUT_TIMES, 422, id="no service times"),
        pytest.param({**WITHOUT_TIMES, "service_time_mean": 1}, 422, id="only a mean"),
        pytest.param({**SHORT, "service_times": [1, 2]}, 422, id="both kinds"),
        pytest.param({**WITHOUT_TIMES, "service_times": [1]}, 422, id="one sample"),
        pytest.param({**WITHOUT_TIMES, "service_times": [1, 0]}, 422, id="a sample of nothing"),
        pytest.param({**WITHOUT_TIMES, "service_times": [1, None]}, 422, id="a missing sample"),
        pytest.param({**WITHOUT_TIMES, "service_times": [1] * 10_001}, 422, id="10,001 samples"),
        pytest.param({**WITHOUT_TIMES, "service_times": [1] * 10_000}, 202, id="10,000 samples"),
    ],
)
def test_bad_plans_are_refused_and_nothing_is_stored(api: Client, body: Any, status: int) -> None:
    response = post(api, body)

    assert response.status_code == status, response.content
    if status != 202:
        assert_error(response, status, "bad_request" if status == 400 else "invalid")
        assert not Job.objects.exists()


def test_a_p95_that_no_log_normal_has_is_explained(api: Client) -> None:
    fault = post(api, {**SHORT, "service_time_p95": 5.0}).json()["detail"]["faults"][0]

    assert "95th percentile of 10 times its mean; it must be 1 to 3.868 times" in fault["what"]


def test_the_plot_is_there_once_there_is_a_result(
    api: Client, undisturbed: Callable[..., Any]
) -> None:
    job_id = post(api, SHORT).json()["id"]
    address = f"/api/jobs/{job_id}/plot.svg"
    assert_error(api.get(address), 404, "not_found")
    assert_error(api.get(f"/api/jobs/{uuid.uuid4()}/plot.svg"), 404, "not_found")
    newsletter = Job.objects.create(kind="newsletter", state=State.SUCCEEDED, result={})
    assert_error(api.get(f"/api/jobs/{newsletter.id}/plot.svg"), 404, "not_found")
    assert_error(Client().get(address), 401, "unauthenticated")

    Job.objects.filter(id=job_id).update(result=undisturbed(SHORT))
    response = api.get(address)
    assert response.status_code == 200
    assert response["Content-Type"].startswith("image/svg+xml")
    assert "no-store" in response["Cache-Control"]
    # Its own style sheet is allowed by its hash, and nothing else is.
    assert "style-src 'sha256-" in response["Content-Security-Policy"]
    assert "unsafe" not in response["Content-Security-Policy"]
    assert ET.fromstring(response.content).tag == "{http://www.w3.org/2000/svg}svg"


def test_plans_and_candidates_are_in_the_admin_to_look_at(
    api: Client, admin_client: Client
) -> None:
    job_id = post(api, SHORT).json()["id"]
    candidate = Candidate.objects.create(plan_id=job_id, workers=7)

    for path in ("plan", f"plan/{job_id}/change", "candidate", f"candidate/{candidate.pk}/change"):
        response = admin_client.get(f"/admin/capacity/{path}/")
        assert response.status_code == 200
        assert 'name="_save"' not in response.text
    assert get_user_model().objects.filter(is_superuser=True).exists()

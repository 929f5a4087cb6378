"""HTTP routes of capacity plans: submit, and look at the plot."""

from __future__ import annotations

from uuid import UUID

from csp.decorators import csp_update
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from ninja import Router, Status
from ninja.decorators import decorate_view
from ninja.errors import HttpError

from capacity.plot import STYLE_SOURCE, plot
from capacity.schemas import StrictPlanIn
from capacity.services import KIND, plan_submit
from jobs.api import SUBMISSION_RESPONSES, IdempotencyKey, accepted, caller_of
from jobs.models import Job

router = Router(tags=["capacity"])


@router.post(
    "/capacity",
    response=SUBMISSION_RESPONSES,
    summary="Find out how many workers keep waits under a target",
)
def submit_plan(
    request: HttpRequest,
    response: HttpResponse,
    plan: StrictPlanIn,
    idempotency_key: IdempotencyKey = None,
) -> Status[Job]:
    """Store the plan and answer; it is simulated in the background."""
    job = plan_submit(plan=plan, requested_by=caller_of(request), idempotency_key=idempotency_key)
    return accepted(response, job)


@router.get(
    "/{uuid:job_id}/plot.svg",
    openapi_extra={
        "responses": {
            200: {
                "description": "The plot",
                "content": {"image/svg+xml": {"schema": {"type": "string"}}},
            }
        }
    },
    summary="Show the plot of a capacity plan that has succeeded",
)
@decorate_view(never_cache, csp_update({"style-src": [STYLE_SOURCE]}))
def get_plot(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Draw the waits against the number of workers, as SVG."""
    job = Job.objects.filter(id=job_id, kind=KIND).first()
    if job is None:
        raise HttpError(404, "There is no such capacity plan.")
    if job.result is None:
        raise HttpError(404, "There is no plot: the plan has no result (yet).")
    return HttpResponse(plot(job.result), content_type="image/svg+xml; charset=utf-8")

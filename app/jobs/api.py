"""HTTP routes of jobs: list, one, cancel; and what the routes that submit one have in common."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from ninja import Header, Query, Router, Schema, Status
from ninja.errors import HttpError
from pydantic import Field

from jobs.models import Job, State
from jobs.services import job_cancel

router = Router(tags=["jobs"])


class JobOut(Schema):
    """A job as the API and the WebSocket show it."""

    id: UUID
    kind: str
    state: State
    done: int
    total: int
    result: Any = None
    error: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int


class JobPage(Schema):
    """A page of jobs, newest first."""

    items: list[JobOut]
    next_cursor: UUID | None = Field(
        description="Give it as `cursor` for the next page; null on the last one."
    )


class ErrorOut(Schema):
    """The shape of every error."""

    code: str
    message: str
    detail: Any = None
    request_id: str


#: The header of a submission. Its parameter has None as default.
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="A repeated request with the same key returns the first job.",
    ),
]

#: What a route that submits a job answers.
SUBMISSION_RESPONSES: Final = {
    202: JobOut, 400: ErrorOut, 409: ErrorOut, 413: ErrorOut, 422: ErrorOut,
}  # fmt: skip


def caller_of(request: HttpRequest) -> str:
    """Return the name of the token or user who calls."""
    return str(getattr(request, "auth"))  # noqa: B009 - set by ninja


def accepted(response: HttpResponse, job: Job) -> Status[Job]:
    """Answer a submission: 202 with the job, and its address in ``Location``."""
    response["Location"] = reverse("api:get_job", args=[job.id])
    return Status(202, job)


class JobFilter(Schema):
    """Which jobs to list."""

    cursor: UUID | None = Field(None, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=200)
    kind: str | None = Field(None, max_length=40, pattern=r"^[a-z_]+$")
    state: State | None = None


@router.get("", response={200: JobPage, 400: ErrorOut}, summary="List jobs, newest first")
def list_jobs(request: HttpRequest, wanted: Query[JobFilter]) -> dict[str, Any]:
    """List jobs, newest first."""
    jobs = Job.objects.all()
    if wanted.kind is not None:
        jobs = jobs.filter(kind=wanted.kind)
    if wanted.state is not None:
        jobs = jobs.filter(state=wanted.state)
    if wanted.cursor is not None:
        last = Job.objects.filter(id=wanted.cursor).only("created_at").first()
        if last is None:
            raise HttpError(400, "The cursor names a job that does not exist (any more).")
        jobs = jobs.filter(
            Q(created_at__lt=last.created_at) | Q(created_at=last.created_at, id__lt=last.id)
        )
    page = list(jobs[: wanted.limit + 1])
    more = len(page) > wanted.limit
    page = page[: wanted.limit]
    return {"items": page, "next_cursor": page[-1].id if more else None}


@router.get("/{uuid:job_id}", response={200: JobOut, 404: ErrorOut}, summary="Show a job")
def get_job(request: HttpRequest, job_id: UUID) -> Job:
    """Show one job."""
    return job_or_404(job_id)


@router.post("/{uuid:job_id}/cancel", response={200: JobOut, 404: ErrorOut}, summary="Stop a job")
def cancel_job(request: HttpRequest, job_id: UUID) -> Job:
    """Stop a job. One that has ended stays as it is, so repeating the call is harmless."""
    try:
        return job_cancel(job_id)
    except Job.DoesNotExist:
        raise _no_such_job() from None


def job_or_404(job_id: UUID) -> Job:
    """Return a job.

    Raises:
        HttpError: 404, there is none with this id.
    """
    job = Job.objects.filter(id=job_id).first()
    if job is None:
        raise _no_such_job()
    return job


def _no_such_job() -> HttpError:
    return HttpError(404, "There is no such job.")


def job_as_json(job: Job) -> str:
    """Return the job as the API shows it, as JSON text."""
    return JobOut.from_orm(job).model_dump_json()

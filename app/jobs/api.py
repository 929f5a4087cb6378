"""HTTP routes of jobs: list, one, cancel; and what the routes that submit one have in common."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from ninja import Header, Query, Router, Schema, Status
from ninja.errors import HttpError
from pydantic import AfterValidator, ConfigDict, Field

from jobs.models import Job, State
from jobs.paging import CURSOR_LENGTH, Cursor
from jobs.services import job_cancel

router = Router(tags=["jobs"])

#: The header of submissions that makes them repeatable.
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="1 to 200 visible ASCII characters. A repeated request of the same caller with "
        "the same key returns the first job, as long as that is kept.",
    ),
]


class JobOut(Schema):
    """A job as the API and the WebSocket show it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "0b0f6c0e-5a3c-4f0e-8a57-0c2f3c1d9b11",
                    "kind": "newsletter",
                    "state": "succeeded",
                    "done": 2,
                    "total": 2,
                    "result": {"sent": 2, "failed": 0},
                    "error": "",
                    "created_at": "2026-01-31T09:15:00.123Z",
                    "started_at": "2026-01-31T09:15:00.170Z",
                    "finished_at": "2026-01-31T09:15:00.420Z",
                    "attempts": 1,
                }
            ]
        }
    )

    id: UUID
    kind: str
    state: State
    done: int
    total: int
    result: Any
    error: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int


class JobPage(Schema):
    """A page of jobs, newest first."""

    items: list[JobOut]
    next_cursor: str | None = Field(
        description="Give it as `cursor` for the next page; null on the last one."
    )


class ErrorOut(Schema):
    """The shape of every error."""

    code: str
    message: str
    detail: Any
    request_id: str


#: What a route that submits a job answers; ``console.openapi`` adds errors to all routes.
SUBMISSION_RESPONSES: Final = {202: JobOut}


def caller_of(request: HttpRequest) -> str:
    """Return the name of the token or user who calls."""
    return str(getattr(request, "auth"))  # noqa: B009 - set by ninja


def accepted(response: HttpResponse, job: Job) -> Status[Job]:
    """Answer a submission: 202 with the job, and its address in ``Location``."""
    response["Location"] = reverse("api:get_job", args=[job.id])
    return Status(202, job)


def _cursor(text: str) -> str:
    Cursor.from_text(text)
    return text


class JobFilter(Schema):
    """Which jobs to list."""

    cursor: Annotated[str, AfterValidator(_cursor)] | None = Field(
        None,
        min_length=CURSOR_LENGTH,
        max_length=CURSOR_LENGTH,
        description="`next_cursor` of the page before.",
    )
    limit: int = Field(50, ge=1, le=200)
    kind: str | None = Field(None, max_length=40, pattern=r"^[a-z_]+$")
    state: State | None = None


@router.get("", response=JobPage, summary="List jobs, newest first")
def list_jobs(request: HttpRequest, wanted: Query[JobFilter]) -> dict[str, Any]:
    """List jobs, newest first."""
    jobs = Job.objects.all()
    if wanted.kind is not None:
        jobs = jobs.filter(kind=wanted.kind)
    if wanted.state is not None:
        jobs = jobs.filter(state=wanted.state)
    if wanted.cursor is not None:
        jobs = Cursor.from_text(wanted.cursor).jobs_after(jobs)
    page = list(jobs[: wanted.limit + 1])
    more = len(page) > wanted.limit
    page = page[: wanted.limit]
    return {"items": page, "next_cursor": str(Cursor.after(page[-1])) if more else None}


@router.get("/{uuid:job_id}", response=JobOut, summary="Show a job")
def get_job(request: HttpRequest, job_id: UUID) -> Job:
    """Show one job."""
    return job_or_404(job_id)


@router.post("/{uuid:job_id}/cancel", response=JobOut, summary="Stop a job")
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

"""HTTP routes of jobs: list, one, cancel."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.http import HttpRequest
from ninja import Query, Router, Schema
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
    return _job(job_id)


@router.post("/{uuid:job_id}/cancel", response={200: JobOut, 404: ErrorOut}, summary="Stop a job")
def cancel_job(request: HttpRequest, job_id: UUID) -> Job:
    """Stop a job. One that has ended stays as it is, so repeating the call is harmless."""
    try:
        return job_cancel(job_id)
    except Job.DoesNotExist:
        raise _no_such_job() from None


def _job(job_id: UUID) -> Job:
    job = Job.objects.filter(id=job_id).first()
    if job is None:
        raise _no_such_job()
    return job


def _no_such_job() -> HttpError:
    return HttpError(404, "There is no such job.")


def job_as_json(job: Job) -> str:
    """Return the job as the API shows it, as JSON text."""
    return JobOut.from_orm(job).model_dump_json()

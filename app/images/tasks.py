"""Tasks of the images workload (queue: bulk)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from celery import shared_task

from delivery.tasks import run_once
from images.formats import Format
from images.rendering import PictureDamagedError
from images.services import (
    Rendition,
    contact_sheet_make,
    picture_finish,
    picture_plan,
    rendition_make,
    rendition_store,
)
from jobs.tasks import JobTask


class PictureTask(JobTask):
    """A task whose reason for failing is a sentence for people, as the job shows it."""

    abstract = True

    def on_given_up(self, error: str, *args: Any, **kwargs: Any) -> None:
        """Fail the job with the sentence; the ledger keeps the name of the error too."""
        reason = error.removeprefix(f"{PictureDamagedError.__name__}: ")
        super().on_given_up(reason, *args, **kwargs)


@shared_task(name="images.render_picture", base=PictureTask)
def render_picture(job_id: str, number: int) -> int:
    """Enter a chord: a task for each missing rendition, then the contact sheet; returns how many.

    Queue: bulk. The chord and this task's success are committed together, so it is entered once.
    Retries: as every task.
    """
    with run_once() as outcome:
        outcome.result = picture_plan(UUID(job_id), number)
    return int(outcome.result)


@shared_task(name="images.make_rendition", base=PictureTask)
def make_rendition(job_id: str, width: int, form: str) -> None:
    """Make one rendition.

    Queue: bulk. Idempotent: a file is there once for its name, committed with this task's success;
    a job that has ended gets none. Retries: as every task; a picture that cannot be decoded fails
    the job at once.
    """
    rendition = Rendition(width, Format(form))
    made = rendition_make(UUID(job_id), rendition)
    with run_once():
        if made is not None:
            rendition_store(UUID(job_id), rendition, made)


@shared_task(name="images.assemble_files", base=PictureTask)
def assemble_files(job_id: str) -> None:
    """Make contact sheet and manifest of all renditions, and end the job (body of the chord).

    Queue: bulk. Idempotent: both files, the end of the job and this task's success are one commit.
    Retries: as every task.
    """
    sheet = contact_sheet_make(UUID(job_id))
    with run_once():
        if sheet is not None:
            picture_finish(UUID(job_id), sheet)

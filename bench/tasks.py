"""The tasks that are measured: most do nothing, or one INSERT."""

from __future__ import annotations

import math
import os
import time
from typing import Final
from uuid import UUID

from celery import shared_task
from django.contrib.sessions.models import Session
from django.core.mail import EmailMessage
from django.utils import timezone

from delivery.tasks import BaseTask, run_once
from jobs.models import State
from jobs.services import job_finish, job_progress, job_start

#: Roots that ``report`` takes between two notes: some milliseconds of computing.
WORK_ROUNDS: Final = 100_000


def _leave_effect() -> None:
    Session.objects.bulk_create(
        [Session(session_key=os.urandom(16).hex(), session_data="", expire_date=timezone.now())]
    )


@shared_task(name="bench.plain", base=BaseTask, durable=False)
def plain(number: int) -> int:
    """Do nothing; the result is stored."""
    return number


@shared_task(name="bench.plain_with_effect", base=BaseTask, durable=False)
def plain_with_effect(number: int) -> int:
    """Make an effect; the result is stored."""
    _leave_effect()
    return number


@shared_task(name="bench.durable", base=BaseTask)
def durable(number: int) -> int:
    """Do nothing, at least once; the result is stored."""
    return number


@shared_task(name="bench.durable_with_effect", base=BaseTask)
def durable_with_effect(number: int) -> None:
    """Make an effect, exactly once; the result is stored."""
    with run_once() as outcome:
        _leave_effect()
        outcome.result = number


@shared_task(name="bench.durable_with_effect_only", base=BaseTask)
def durable_with_effect_only(number: int) -> None:  # noqa: ARG001 - as the others
    """Make an effect, exactly once; there is no result."""
    with run_once():
        _leave_effect()


@shared_task(name="bench.send_mail", base=BaseTask)
def send_mail(address: str) -> None:
    """Write to one recipient."""
    EmailMessage("Hello", "Text", to=[address]).send()


@shared_task(name="bench.report", base=BaseTask, durable=False)
def report(job_id: str, notes: int) -> None:
    """Compute for some seconds, note the progress all the while, and store what that took."""
    began, began_cpu = time.perf_counter(), time.process_time()
    job_start(UUID(job_id))
    for done in range(1, notes + 1):
        # Python, not a C function: so the thread that announces takes its time from the task.
        for number in range(WORK_ROUNDS):
            math.sqrt(number)
        job_progress(UUID(job_id), done=done)
    result = {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - began_cpu,
    }
    job_finish(UUID(job_id), state=State.SUCCEEDED, done=notes, result=result)

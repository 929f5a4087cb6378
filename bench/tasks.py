"""The tasks whose overhead is measured: they do nothing, or one INSERT."""

from __future__ import annotations

import os

from celery import shared_task
from django.contrib.sessions.models import Session
from django.core.mail import EmailMessage
from django.utils import timezone

from delivery.tasks import BaseTask, run_once


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

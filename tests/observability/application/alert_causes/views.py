"""Publishes, steers workers, fails and dawdles, as it is asked to."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Final

from celery import current_app
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from alert_causes.tasks import TASKS, nightly, succeed
from delivery import ledger, publishing
from fault_injection import forgery

#: A task that is in the ledger, and in no code.
REMOVED_TASK: Final = "causes.removed"
#: Seconds that a slow answer takes; the alert is about more than one.
SLOW_SECONDS: Final = 1.6


@csrf_exempt
@require_POST
def publish(request: HttpRequest) -> JsonResponse:
    """Accept ``{task, number, arguments, options}``: so many calls of the task, in one commit."""
    order = json.loads(request.body)
    task = TASKS[order["task"]]
    with transaction.atomic():
        for _ in range(order["number"]):
            task.apply_on_commit((), order["arguments"], **order["options"])
    return JsonResponse({"accepted": order["number"]}, status=202)


@csrf_exempt
@require_POST
def publish_unknown(request: HttpRequest) -> JsonResponse:
    """Enter a task of an older release, whose code is gone."""
    with transaction.atomic():
        entry = replace(TASKS[succeed.name].entry(), task=REMOVED_TASK)
        publishing.publish_after_commit(ledger.enter([entry]))
    return JsonResponse({"accepted": 1}, status=202)


@csrf_exempt
@require_POST
def forge(request: HttpRequest) -> JsonResponse:
    """Put messages that nobody of us has signed into a queue, past the application."""
    return JsonResponse({"forged": len(forgery.messages_forge("default"))}, status=202)


@csrf_exempt
@require_POST
def schedule(request: HttpRequest) -> JsonResponse:
    """Accept ``{exists}``: an entry of the schedule that lacks an argument of its task, or not."""
    PeriodicTask.objects.filter(name="misfit").delete()
    if json.loads(request.body)["exists"]:
        second, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.SECONDS)
        PeriodicTask.objects.create(name="misfit", task=nightly.name, interval=second)
    return JsonResponse({})


@csrf_exempt
@require_POST
def control(request: HttpRequest) -> JsonResponse:
    """Accept ``{command, arguments}`` and have all workers obey; returns their answers."""
    order = json.loads(request.body)
    answers = current_app.control.broadcast(
        order["command"], arguments=order["arguments"], reply=True, timeout=2.0
    )
    return JsonResponse({name: answer for each in answers or [] for name, answer in each.items()})


def fail(request: HttpRequest) -> HttpResponse:
    """Fail as a view with a bug does."""
    raise RuntimeError("this view always fails")


async def slow(request: HttpRequest) -> HttpResponse:
    """Answer late."""
    await asyncio.sleep(SLOW_SECONDS)
    return HttpResponse("late")

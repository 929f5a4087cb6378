"""Submits work as a request of a person does: rows of its own and deliveries, in one commit."""

from __future__ import annotations

import json
import os
from typing import Any, Final

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from delivery import canvas
from fault_effects import tasks
from fault_effects.effects import store_submissions

#: What can be asked for: name -> tasks, of which the n-th number gets the n-th in turn.
KINDS: Final[dict[str, tuple[Any, ...]]] = {
    "record": tasks.RECORDERS,
    "kill_own_process": (tasks.kill_own_process,),
    "fail": (tasks.fail,),
    "fail_at_first": (tasks.fail_at_first,),
    "sleep_past_limits": (tasks.sleep_past_limits,),
}


@csrf_exempt
@require_POST
def submit(request: HttpRequest) -> JsonResponse:
    """Accept ``{run, kind, numbers, ids, options, message_options, crash}``, enqueue the numbers.

    The n-th id is the n-th number's idempotency key, so the request may be repeated. With ``crash``
    the process ends right after the commit, before any message is published.
    """
    order = json.loads(request.body)
    run, numbers = order["run"], order["numbers"]
    kinds = KINDS[order["kind"]]
    with transaction.atomic():
        if order["crash"]:
            # Registered before the deliveries register theirs, so it is called before them.
            transaction.on_commit(crash)
        store_submissions(run, numbers)
        for number, key in zip(numbers, order["ids"], strict=True):
            kinds[number % len(kinds)].apply_on_commit(
                (run, number), order["options"], task_id=key, **order["message_options"]
            )
    return JsonResponse({"accepted": len(numbers)}, status=202)


@csrf_exempt
@require_POST
def submit_chord(request: HttpRequest) -> JsonResponse:
    """Accept ``{run, numbers, body}``: all numbers, and one more when all of them are done."""
    order = json.loads(request.body)
    run, numbers, body = order["run"], order["numbers"], order["body"]
    with transaction.atomic():
        store_submissions(run, [*numbers, body])
        canvas.chord(
            [tasks.record.si(run, number) for number in numbers], tasks.record.si(run, body)
        )
    return JsonResponse({"accepted": len(numbers) + 1}, status=202)


def crash() -> None:
    """End as a process does that loses its machine: no handler runs."""
    os._exit(1)

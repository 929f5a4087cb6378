"""What a job's page shows of its result, by the kind of job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Count
from django.urls import reverse

from jobs.models import Job
from newsletters.models import Recipient, RecipientState

#: Recipients on a page.
RECIPIENTS_SHOWN: Final = 100

Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ResultView:
    """A template and what it needs besides the job."""

    template: str
    context: Mapping[str, Any]


def view_of(job: Job, query: Query) -> ResultView | None:
    """Return how to show the result of a job; None for a kind that has no view, or no result yet.

    Args:
        job: The job.
        query: The query of the page's address: ``state`` and ``page`` choose recipients.
    """
    view = _VIEWS.get(job.kind)
    return None if view is None else view(job, query)


def shortcut_of(job: Job) -> tuple[str, str] | None:
    """Return name and address of what people want most of an ended job; None if there is none."""
    if not isinstance(job.result, dict):
        return None
    if job.kind == "images" and job.result.get("contact_sheet"):
        return "Contact sheet", reverse("api:get_file", args=[job.id, job.result["contact_sheet"]])
    if job.kind == "capacity" and job.result.get("candidates"):
        return "Plot", reverse("api:get_plot", args=[job.id])
    return None


def _newsletter(job: Job, query: Query) -> ResultView:
    recipients = Recipient.objects.filter(newsletter_id=job.id)
    numbers = dict(recipients.values_list("state").annotate(number=Count("pk")).order_by("state"))
    state = query.get("state", "")
    state = state if state in RecipientState.values else ""
    chosen = recipients.filter(state=state) if state else recipients
    number = numbers.get(state, 0) if state else sum(numbers.values())
    last = max((number - 1) // RECIPIENTS_SHOWN + 1, 1)
    asked = query.get("page", "")
    page = min(max(int(asked) if asked.isdecimal() and len(asked) < 6 else 1, 1), last)
    first = (page - 1) * RECIPIENTS_SHOWN
    return ResultView(
        "console/result_newsletter.html",
        {
            "counts": [(str(one), numbers.get(one, 0)) for one in RecipientState.values],
            "everybody": sum(numbers.values()),
            "chosen": state,
            "recipients": chosen.order_by("position")[first : first + RECIPIENTS_SHOWN],
            "first": first + 1 if number else 0,
            "last": min(first + RECIPIENTS_SHOWN, number),
            "number": number,
            "page_before": page - 1,
            "page_after": page + 1 if page < last else 0,
        },
    )


def _images(job: Job, _query: Query) -> ResultView | None:
    if not isinstance(job.result, dict):
        return None
    return ResultView(
        "console/result_images.html", {"base": reverse("api:list_files", args=[job.id])}
    )


def _capacity(job: Job, _query: Query) -> ResultView | None:
    if not isinstance(job.result, dict):
        return None
    return ResultView(
        "console/result_capacity.html", {"plot": reverse("api:get_plot", args=[job.id])}
    )


_VIEWS: Final[Mapping[str, Callable[[Job, Query], ResultView | None]]] = {
    "newsletter": _newsletter,
    "images": _images,
    "capacity": _capacity,
}

"""The console: what runs, how to start something, and what became of it.

htmx renews parts of the pages; without JavaScript everything but that works too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.contrib.admin.views.decorators import staff_member_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.templatetags.static import static
from django.views.decorators.http import require_GET, require_POST
from django_htmx.http import HttpResponseClientRefresh
from pydantic import ValidationError

from capacity.schemas import PlanIn
from capacity.services import plan_submit
from console import results, status
from console.authentication import session_holder
from console.cards import (
    CAPACITY,
    IMAGES,
    INVENTED,
    NEWSLETTER,
    Card,
    Fault,
    cards,
    faults_of,
    fields_of,
    shown,
)
from fault_injection.services import faults_status
from images.services import PictureRefusedError, picture_submit
from jobs.feeds import JOBS_LISTED
from jobs.models import Job
from jobs.services import job_cancel, job_deliveries
from newsletters.api import NewsletterIn
from newsletters.services import newsletter_submit

#: Says that the part will not change any more (https://htmx.org/docs/#polling).
STOP_POLLING: Final = 286
#: What each tool is good for, on its link.
TOOLS: Final = {
    "Flower": "single tasks and workers, live",
    "Grafana": "dashboards: waits, failures, saturation",
    "Prometheus": "metrics, to query",
    "Alertmanager": "alerts that fire now",
    "Mail": "every mail that was sent; none leaves this machine",
}
SAMPLE_PICTURE: Final = Path(__file__).parent / "static" / "console" / "sample.jpg"

View = Callable[..., HttpResponse]


def staff_only(view: View) -> View:
    """Send those who are not signed in as staff to the sign-in page."""
    guarded: View = staff_member_required(login_url="sign-in")(view)

    @wraps(view)
    def check(request: HttpRequest, *arguments: Any, **options: Any) -> HttpResponse:
        # htmx would put the sign-in page where a table was.
        if getattr(request, "htmx", False) and session_holder(request.user) is None:
            return HttpResponseClientRefresh()
        return guarded(request, *arguments, **options)

    return check


def _jobs() -> dict[str, Any]:
    jobs = list(Job.objects.all()[:JOBS_LISTED])
    return {"jobs": [(job, results.shortcut_of(job)) for job in jobs]}


def _origin(request: HttpRequest) -> str:
    return f"{request.scheme}://{request.get_host()}"


def _console(
    request: HttpRequest,
    code: int = 200,
    *,
    card: Card | None = None,
    entered: Mapping[str, str] | None = None,
    faults: Iterable[Fault] = (),
) -> HttpResponse:
    """Show the first page; one card may have been filled in with faults."""
    page = {
        **_jobs(),
        "status": status.current(),
        "cards": [
            shown(one, _origin(request), entered, faults)
            if one is card
            else shown(one, _origin(request))
            for one in cards()
        ],
        "tools": [
            (name, address, TOOLS.get(name, "")) for name, address in settings.TOOL_LINKS.items()
        ],
        # What can be broken on purpose (fault_injection.services.faults_status).
        "faults": faults_status(),
    }
    return render(request, "console/console.html", page, status=code)


@require_GET
@staff_only
def console(request: HttpRequest) -> HttpResponse:
    """Show the first page."""
    return _console(request)


@require_GET
@staff_only
def status_part(request: HttpRequest) -> HttpResponse:
    """Show how everything is (a part of the first page)."""
    return render(request, "console/status.html", {"status": status.current()})


@require_GET
def icon(request: HttpRequest) -> HttpResponse:
    """Say where the icon is."""
    return redirect(static("console/icon.svg"))


@require_GET
@staff_only
def job_list(request: HttpRequest) -> HttpResponse:
    """Show the newest jobs (a part of the first page)."""
    return render(request, "console/job_list.html", _jobs())


@require_GET
@staff_only
def job_page(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Show one job; asked by htmx, only the part that changes."""
    job = get_object_or_404(Job, id=job_id)
    context = {
        "job": job,
        "result": results.view_of(job, request.GET.dict()),
        "shortcut": results.shortcut_of(job),
        "origin": _origin(request),
    }
    if getattr(request, "htmx", False):
        code = 200 if job.is_open else STOP_POLLING
        return render(request, "console/job_detail.html", context, status=code)
    return render(request, "console/job_page.html", context)


@require_GET
@staff_only
def deliveries(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Show the tasks of a job (a part of its page, asked for by people who want to know)."""
    job = get_object_or_404(Job, id=job_id)
    return render(request, "console/job_deliveries.html", {"deliveries": job_deliveries(job)})


@require_POST
@staff_only
def job_stop(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Stop a job and show it; asked by htmx, the list."""
    get_object_or_404(Job, id=job_id)
    job_cancel(job_id)
    if getattr(request, "htmx", False):
        return render(request, "console/job_list.html", _jobs())
    return redirect("job-page", job_id)


def _entered(request: HttpRequest, card: Card) -> dict[str, str]:
    return {one.name: request.POST.get(one.name, "") for one in fields_of(card)}


@require_POST
@staff_only
def newsletter_form(request: HttpRequest) -> HttpResponse:
    """Submit the newsletter of the form; a fault is shown with everything that was entered."""
    entered = _entered(request, NEWSLETTER)
    addresses = entered["recipients"].replace(",", " ").split()
    try:
        addresses += _invented(entered.get(INVENTED.name, ""))
        newsletter = NewsletterIn.model_validate(
            {"subject": entered["subject"], "body": entered["body"], "recipients": addresses}
        )
    except ValidationError as error:
        faults = faults_of(NEWSLETTER, error)
        return _console(request, 422, card=NEWSLETTER, entered=entered, faults=faults)
    except ValueError as error:
        faults = [Fault(INVENTED.name, f"{INVENTED.label}: {error}")]
        return _console(request, 422, card=NEWSLETTER, entered=entered, faults=faults)
    job = newsletter_submit(**newsletter.dict(), requested_by=request.user.get_username())
    return redirect("job-page", job.id)


def _invented(number: str) -> list[str]:
    """Return so many addresses that belong to nobody (example.com, RFC 2606).

    Raises:
        ValueError: It is not a number, or too large.
    """
    most = INVENTED.attributes["max"]
    if number and (not number.isdecimal() or len(number) > 6 or int(number) > int(most)):
        raise ValueError(f"a whole number from 0 to {most}")
    return [f"reader-{position + 1:04}@example.com" for position in range(int(number or 0))]


@require_POST
@staff_only
def images_form(request: HttpRequest) -> HttpResponse:
    """Submit the picture of the form, or the sample; says why a picture is refused."""
    sent = request.FILES.get("file")
    try:
        job = picture_submit(
            name=SAMPLE_PICTURE.name if sent is None else str(sent.name),
            content=SAMPLE_PICTURE.read_bytes() if sent is None else sent.read(),
            requested_by=request.user.get_username(),
        )
    except PictureRefusedError as error:
        return _console(request, error.status, card=IMAGES, faults=[Fault("file", str(error))])
    return redirect("job-page", job.id)


@require_POST
@staff_only
def capacity_form(request: HttpRequest) -> HttpResponse:
    """Submit the plan of the form; a fault is shown with everything that was entered."""
    entered = _entered(request, CAPACITY)
    try:
        plan = PlanIn.model_validate({name: value for name, value in entered.items() if value})
    except ValidationError as error:
        faults = faults_of(CAPACITY, error)
        return _console(request, 422, card=CAPACITY, entered=entered, faults=faults)
    job = plan_submit(plan=plan, requested_by=request.user.get_username())
    return redirect("job-page", job.id)

"""The console: what runs, and a form to start something. htmx renews parts of the pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.admin.views.decorators import staff_member_required
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.templatetags.static import static
from django.views.decorators.http import require_GET, require_POST
from pydantic import ValidationError

from fault_injection.services import faults_status
from jobs.models import Job
from jobs.services import job_cancel
from newsletters.api import NewsletterIn
from newsletters.models import Recipient
from newsletters.services import newsletter_submit

#: htmx stops to poll when it gets this status (https://htmx.org/docs/#polling).
STOP_POLLING = 286
JOBS_SHOWN = 25

View = Callable[..., HttpResponse]


def staff_only(view: View) -> View:
    """Send those who are not signed in as staff to the sign-in page."""
    return staff_member_required(login_url="sign-in")(view)


def _jobs() -> dict[str, Any]:
    return {"jobs": Job.objects.all()[:JOBS_SHOWN]}


def _console(request: HttpRequest, status: int = 200, **context: Any) -> HttpResponse:
    page = {
        **_jobs(),
        "faults": faults_status(),
        "tools": settings.TOOL_LINKS,
        "version": settings.VERSION,
        **context,
    }
    return render(request, "console/console.html", page, status=status)


@require_GET
@staff_only
def console(request: HttpRequest) -> HttpResponse:
    """Show the first page."""
    return _console(request, entered={})


@require_GET
def icon(request: HttpRequest) -> HttpResponse:
    """Say where the icon is."""
    return redirect(static("console/icon.svg"))


@require_GET
@staff_only
def job_list(request: HttpRequest) -> HttpResponse:
    """Show the newest jobs (a part of the page)."""
    return render(request, "console/job_list.html", _jobs())


@require_GET
@staff_only
def job_page(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Show one job; asked by htmx, only the part that changes."""
    job = get_object_or_404(Job, id=job_id)
    recipients = Recipient.objects.filter(newsletter_id=job_id)
    context = {
        "job": job,
        "counts": dict(
            recipients.values_list("state").annotate(number=Count("pk")).order_by("state")
        ),
        "troubled": recipients.exclude(error="").order_by("position")[:50],
    }
    if getattr(request, "htmx", False):
        status = 200 if job.is_open else STOP_POLLING
        return render(request, "console/job_detail.html", context, status=status)
    return render(request, "console/job_page.html", context)


@require_POST
@staff_only
def job_stop(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Stop a job and show it."""
    get_object_or_404(Job, id=job_id)
    job_cancel(job_id)
    return redirect("job-page", job_id)


@require_POST
@staff_only
def newsletter_form(request: HttpRequest) -> HttpResponse:
    """Submit the newsletter of the form; a fault is shown with everything that was entered."""
    entered = {name: request.POST.get(name, "") for name in ("subject", "body", "recipients")}
    try:
        newsletter = NewsletterIn.model_validate(
            {**entered, "recipients": entered["recipients"].replace(",", " ").split()}
        )
    except ValidationError as error:
        faults = [
            f"{' '.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()[:5]
        ]
        return _console(request, 422, form_faults=faults, entered=entered)
    job = newsletter_submit(
        **newsletter.dict(),
        requested_by=request.user.get_username(),
    )
    return redirect("job-page", job.id)

"""The panel that breaks things. Without ``FAULT_INJECTION`` there is nothing at its addresses."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from console.views import View, staff_only
from fault_injection.errors import FaultError, UnknownFaultError
from fault_injection.services import fault_start, fault_stop, faults_status, faults_stop


def where_faults_are_wanted(view: View) -> View:
    """Hide a view where nothing may be broken."""

    @wraps(view)
    def hidden(request: HttpRequest, *arguments: Any, **options: Any) -> HttpResponse:
        if not settings.FAULT_INJECTION:
            raise Http404
        return view(request, *arguments, **options)

    return hidden


@where_faults_are_wanted
@require_GET
@staff_only
def panel(request: HttpRequest) -> HttpResponse:
    """Show the faults (a part of the page)."""
    return _panel(request)


@where_faults_are_wanted
@require_POST
@staff_only
def start(request: HttpRequest, name: str) -> HttpResponse:
    """Start a fault and show the panel; one that is in force goes on."""
    return _after(request, lambda: fault_start(name, requested_by=request.user.get_username()))


@where_faults_are_wanted
@require_POST
@staff_only
def stop(request: HttpRequest, name: str) -> HttpResponse:
    """Stop a fault and show the panel; one that is not in force is no error."""
    return _after(request, lambda: fault_stop(name))


@where_faults_are_wanted
@require_POST
@staff_only
def stop_all(request: HttpRequest) -> HttpResponse:
    """Stop all faults and show the panel."""
    return _after(request, faults_stop)


def _after(request: HttpRequest, action: Callable[[], object]) -> HttpResponse:
    """Do something; answer htmx with the panel, a plain form with the page.

    What went wrong is a message in either: htmx shows no answer that is an error.
    """
    try:
        action()
    except UnknownFaultError as error:
        raise Http404(str(error)) from error
    except FaultError as error:
        messages.error(request, str(error))
    if getattr(request, "htmx", False):
        return _panel(request)
    return redirect("console")


def _panel(request: HttpRequest) -> HttpResponse:
    return render(request, "console/faults.html", {"faults": faults_status()})

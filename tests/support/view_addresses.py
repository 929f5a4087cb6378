"""The application's own addresses, and one with a bug."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import include, path


def fail(request: HttpRequest) -> HttpResponse:
    """Raise what nobody has expected."""
    visitor = request.GET["visitor"]
    raise ValueError(f"a bug, met by {len(visitor)} characters")


urlpatterns = [path("tests/fail", fail), path("", include("config.urls"))]

"""What every page shows."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest


def version(_request: HttpRequest) -> dict[str, str]:
    """Return what runs, for the header."""
    return {"version": settings.VERSION, "revision": settings.REVISION}

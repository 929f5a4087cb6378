"""Numbers as people read them."""

from __future__ import annotations

from typing import Final

from django import template
from django.utils import timezone

from jobs.models import Job

register = template.Library()

MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86_400
#: What is shorter is worth a decimal.
SHORT_SECONDS: Final = 10
#: What stands where there is no number: an en dash.
NOTHING: Final = "\u2013"


@register.filter
def duration(seconds: float | None) -> str:
    """Return seconds as ``4.2 s``, ``3 min 20 s``, ``5 h 10 min`` or ``3 d 4 h``."""
    if seconds is None:
        return NOTHING
    if seconds < SHORT_SECONDS:
        return f"{seconds:.1f} s"
    if seconds < MINUTE:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    for unit, name, smaller, small in (
        (DAY, "d", HOUR, "h"),
        (HOUR, "h", MINUTE, "min"),
        (MINUTE, "min", 1, "s"),
    ):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {small}"
    return f"{whole} s"


@register.filter
def runtime(job: Job) -> str:
    """Return how long a job has been worked on; a dash before it began."""
    if job.started_at is None:
        return NOTHING
    return duration(((job.finished_at or timezone.now()) - job.started_at).total_seconds())


@register.filter
def share(part: float | None, whole: float) -> str:
    """Return a part as whole percent."""
    return f"{100 * (part or 0) / whole:.0f} %" if whole else NOTHING


@register.filter
def percent(fraction: float | None) -> str:
    """Return a fraction as percent with one decimal."""
    return NOTHING if fraction is None else f"{100 * fraction:.1f} %"

"""Capacity plans in the admin: what was asked, and what was found."""

from __future__ import annotations

from typing import Any

from django.contrib import admin

from capacity.models import Candidate, Plan
from delivery.admin import ReadOnlyAdmin


@admin.register(Plan)
class PlanAdmin(ReadOnlyAdmin):
    """Plans, newest first."""

    list_display = (
        "__str__",
        "job",
        "state",
        "recommended_workers",
        "max_workers",
        "seed",
        "created_at",
    )
    list_select_related = ("job",)
    list_filter = ("job__state",)
    search_fields = ("job__id",)
    ordering = ("-job__created_at",)

    @admin.display(ordering="job__state")
    def state(self, plan: Plan) -> str:
        """Return the state of its job."""
        return plan.job.state

    @admin.display
    def recommended_workers(self, plan: Plan) -> int | None:
        """Return the answer; None when there is none."""
        return (plan.job.result or {}).get("recommended_workers")

    @admin.display(ordering="job__created_at")
    def created_at(self, plan: Plan) -> str:
        """Return when it was submitted."""
        return f"{plan.job.created_at:%Y-%m-%d %H:%M:%S}"


@admin.register(Candidate)
class CandidateAdmin(ReadOnlyAdmin):
    """Numbers of workers with their waits."""

    list_display = ("plan", "workers", "steps", "wait", "meets_target")
    list_select_related = ("plan",)
    search_fields = ("plan__job__id",)
    ordering = ("-plan__job__created_at", "workers")

    @admin.display(description="Wait at the percentile (s)")
    def wait(self, candidate: Candidate) -> str:
        """Return the estimate with its interval."""
        wait: dict[str, Any] | None = (candidate.result or {}).get("wait")
        return f"{wait['value']:g} ({wait['low']:g} to {wait['high']:g})" if wait else ""

    @admin.display(boolean=True)
    def meets_target(self, candidate: Candidate) -> bool | None:
        """Return whether it is enough; None while that is not known."""
        return (candidate.result or {}).get("meets_target")

"""Jobs in the admin: to look at and to cancel, not to edit."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from delivery.admin import ReadOnlyAdmin
from jobs.models import Job
from jobs.services import job_cancel


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """Jobs, newest first."""

    list_display = (
        "id", "kind", "state", "done", "total", "attempts", "requested_by",
        "created_at", "finished_at",
    )  # fmt: skip
    list_filter = ("state", "kind", "created_at")
    search_fields = ("id", "requested_by", "error")
    date_hierarchy = "created_at"
    actions = ("cancel",)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Allow cancelling to those who may change jobs, although nobody edits the fields."""
        return request.user.has_perm("jobs.change_job")

    @admin.action(description="Cancel the selected jobs", permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        """Stop the selected jobs that are still open."""
        open_jobs = [job for job in queryset if job.is_open]
        for job in open_jobs:
            job_cancel(job.id)
        messages.success(request, f"{len(open_jobs)} job(s) cancelled.")

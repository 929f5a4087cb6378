"""Jobs in the admin: to look at, to cancel and to try again, not to edit."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from delivery.admin import ReadOnlyAdmin
from jobs.models import Job, State
from jobs.services import job_cancel, job_deliveries, job_replay


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """Jobs, newest first."""

    list_display = (
        "id", "kind", "state", "progress", "attempts", "reason", "requested_by", "created_at",
        "seconds", "page",
    )  # fmt: skip
    list_filter = ("state", "kind", "created_at")
    search_fields = ("id", "requested_by", "error", "idempotency_key")
    search_help_text = "A part of an id, of a caller's name, of an error, or of an Idempotency-Key."
    date_hierarchy = "created_at"
    actions = ("cancel", "retry")
    readonly_fields = ("page", "deliveries")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse: tasks may still work for it. Retention deletes what has ended."""
        return False

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Allow actions to those who may change jobs, although nobody edits the fields."""
        return request.user.has_perm("jobs.change_job")

    @admin.display(ordering="done")
    def progress(self, job: Job) -> str:
        """Return how far it is."""
        return f"{job.done:,} of {job.total:,}"

    @admin.display(description="Error")
    def reason(self, job: Job) -> str:
        """Return the beginning of the error."""
        return job.error[:80]

    @admin.display(description="Seconds")
    def seconds(self, job: Job) -> str:
        """Return how long it took, from its start to its end."""
        if job.started_at is None or job.finished_at is None:
            return "-"
        return f"{(job.finished_at - job.started_at).total_seconds():,.1f}"

    @admin.display(description="Page")
    def page(self, job: Job) -> SafeString:
        """Return a link to its page on the console."""
        return format_html('<a href="{}">Open</a>', reverse("job-page", args=[job.pk]))

    @admin.display(description="Deliveries")
    def deliveries(self, job: Job) -> SafeString:
        """Return links to the durable tasks that work for it."""
        return format_html_join(
            mark_safe("<br>"),
            '<a href="{}">{}</a> {}',
            (
                (
                    reverse("admin:delivery_delivery_change", args=[delivery.pk]),
                    delivery,
                    delivery.state,
                )
                for delivery in job_deliveries(job)
            ),
        )

    @admin.action(description="Cancel the selected jobs", permissions=["decide"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        """Stop the selected jobs that are still open."""
        open_jobs = [job for job in queryset if job.is_open]
        for job in open_jobs:
            job_cancel(job.id)
        level = messages.SUCCESS if open_jobs else messages.WARNING
        self.message_user(request, f"{len(open_jobs)} job(s) cancelled.", level)

    @admin.action(description="Retry the selected failed jobs", permissions=["decide"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        """Replay the dead letters of the selected jobs that have failed."""
        retried = 0
        for job in queryset.filter(state=State.FAILED):
            if job_replay(job.id):
                retried += 1
            else:
                self.message_user(
                    request,
                    f"{job} has no dead letters: nothing can be replayed. Submit it again.",
                    messages.WARNING,
                )
        level = messages.SUCCESS if retried else messages.WARNING
        self.message_user(request, f"{retried} failed job(s) go on.", level)

"""Newsletters in the admin: what was sent, and to whom."""

from __future__ import annotations

from django.contrib import admin

from delivery.admin import ReadOnlyAdmin
from newsletters.models import Newsletter, Recipient


@admin.register(Newsletter)
class NewsletterAdmin(ReadOnlyAdmin):
    """Newsletters, newest first."""

    list_display = ("subject", "job", "state", "created_at")
    list_select_related = ("job",)
    list_filter = ("job__state",)
    search_fields = ("subject", "job__id")
    ordering = ("-job__created_at",)

    @admin.display(ordering="job__state")
    def state(self, newsletter: Newsletter) -> str:
        """Return the state of its job."""
        return newsletter.job.state

    @admin.display(ordering="job__created_at")
    def created_at(self, newsletter: Newsletter) -> str:
        """Return when it was submitted."""
        return f"{newsletter.job.created_at:%Y-%m-%d %H:%M:%S}"


@admin.register(Recipient)
class RecipientAdmin(ReadOnlyAdmin):
    """Recipients with their state and the mail server's last no."""

    list_display = ("address", "state", "attempts", "error", "sent_at", "newsletter")
    list_select_related = ("newsletter",)
    list_filter = ("state",)
    search_fields = ("address", "newsletter__job__id", "message_id")
    ordering = ("-pk",)

"""The ledger, its dead letters and refused messages in the admin: to look at and to decide on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from delivery import ledger
from delivery.models import Delivery, Group, QuarantinedMessage, State

if TYPE_CHECKING:
    # Django's class is generic for type checkers only.
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


class ReadOnlyAdmin(ModelAdmin):
    """Rows that the system writes: nobody adds or edits them by hand."""

    # Counting a table of millions for each page would take longer than the page.
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse: the system adds rows."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse: the system changes rows."""
        return False


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    """Deliveries. Dead letters: filter by state ``dead``."""

    list_display = (
        "task",
        "state",
        "queue",
        "attempts",
        "created_at",
        "finished_at",
        "reason",
        "id",
    )
    # Only what has its values in the code: the others would ask a table of millions for them.
    list_filter = ("state",)
    search_fields = ("id__exact", "task__exact", "queue__exact")
    search_help_text = "A task id, or the whole name of a task or queue."
    ordering = ("-created_at",)
    actions = ("replay", "discard", "cancel")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse: retention deletes what has ended; what has not may be cancelled."""
        return False

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Allow actions to those who may change deliveries, although nobody edits the fields."""
        return request.user.has_perm("delivery.change_delivery")

    @admin.display(description="Error")
    def reason(self, delivery: Delivery) -> str:
        """Return the beginning of the last error."""
        return delivery.error[:80]

    @admin.action(description="Replay the selected dead letters", permissions=["decide"])
    def replay(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        """Give dead letters all their attempts again."""
        self._report(request, ledger.replay(_ids(queryset, State.DEAD)), "replayed")

    @admin.action(description="Discard the selected dead letters", permissions=["decide"])
    def discard(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        """Give dead letters up."""
        self._report(request, ledger.discard(_ids(queryset, State.DEAD)), "discarded")

    @admin.action(description="Cancel the selected open deliveries", permissions=["decide"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        """End open deliveries without an effect."""
        who = request.user.get_username()
        self._report(request, ledger.cancel(_ids(queryset), f"Cancelled by {who}."), "cancelled")

    def _report(self, request: HttpRequest, number: int, what: str) -> None:
        level = messages.SUCCESS if number else messages.WARNING
        self.message_user(request, f"{number} delivery(s) {what}.", level)


def _ids(rows: QuerySet[Delivery], state: State | None = None) -> list[Any]:
    chosen = rows if state is None else rows.filter(state=state)
    return list(chosen.values_list("id", flat=True))


@admin.register(Group)
class GroupAdmin(ReadOnlyAdmin):
    """Groups and chords: how many members are left, and whether one has failed."""

    list_display = ("id", "size", "remaining", "failed_at", "finished_at", "created_at")
    search_fields = ("id__exact",)
    ordering = ("-created_at",)


@admin.register(QuarantinedMessage)
class QuarantinedMessageAdmin(ReadOnlyAdmin):
    """Messages that were refused. What they claim may be a lie."""

    list_display = ("received_at", "queue", "reason", "claimed_task", "claimed_id", "size")
    list_filter = ("queue", "reason", "received_at")
    search_fields = ("claimed_task", "claimed_id")

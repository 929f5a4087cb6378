"""The ledger, its dead letters, refused messages and results: to look at and to decide on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from celery import current_app, states
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

# Before ours: the library registers its own pages when it is imported.
from django_celery_results import admin as _library  # noqa: F401
from django_celery_results.models import GroupResult, TaskResult

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


class TaskFilter(admin.SimpleListFilter):
    """Results of one task. The names come from the code, not from a table of millions."""

    title = "task"
    parameter_name = "task"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the tasks that this code knows."""
        names = sorted(name for name in current_app.tasks if not name.startswith("celery."))
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the results of the chosen task."""
        return queryset.filter(task_name=self.value()) if self.value() else queryset


class StateFilter(admin.SimpleListFilter):
    """Results with one of Celery's states."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the states."""
        return [(state, state.lower()) for state in sorted(states.ALL_STATES)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the results in the chosen state."""
        return queryset.filter(status=self.value()) if self.value() else queryset


admin.site.unregister([TaskResult, GroupResult])


@admin.register(TaskResult)
class TaskResultAdmin(ReadOnlyAdmin):
    """What tasks returned, newest first. Housekeeping deletes old ones; people may, too."""

    list_display = ("task_id", "task_name", "state", "worker", "date_done", "runtime")
    list_filter = (StateFilter, TaskFilter, "date_done")
    search_fields = ("task_id__exact", "task_name__exact", "periodic_task_name__exact")
    search_help_text = "A task id, or the whole name of a task or of a schedule."
    ordering = ("-date_done",)
    readonly_fields = ("delivery",)

    @admin.display(description="State", ordering="status")
    def state(self, result: Any) -> str:
        """Return the state in small letters, as elsewhere."""
        return str(result.status).lower()

    @admin.display(description="Runtime")
    def runtime(self, result: Any) -> str:
        """Return seconds from start to end, where the start is known (task_track_started)."""
        if result.date_started is None or result.date_done is None:
            return "-"
        return f"{(result.date_done - result.date_started).total_seconds():.2f} s"

    @admin.display(description="Delivery")
    def delivery(self, result: Any) -> str:
        """Return a link to the ledger's row of a durable task."""
        try:
            delivery_id = UUID(result.task_id)
        except ValueError:
            return "-"
        page = reverse("admin:delivery_delivery_change", args=[delivery_id])
        return format_html('<a href="{}">Show</a>', page)


@admin.register(GroupResult)
class GroupResultAdmin(ReadOnlyAdmin):
    """Results of Celery's own groups; groups of durable tasks are in the ledger."""

    list_display = ("group_id", "date_created", "date_done")
    list_filter = ("date_done",)
    search_fields = ("group_id__exact",)
    search_help_text = "The id of a group."
    ordering = ("-date_done",)

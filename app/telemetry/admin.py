"""Schedules in the admin: what beat sends and when, to switch on and off, and to run now."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from celery import current_app
from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

# Before ours: the library registers its own pages when it is imported.
from django_celery_beat import admin as _library  # noqa: F401
from django_celery_beat.models import PeriodicTask, PeriodicTasks, SolarSchedule
from kombu.utils.json import loads

from delivery.admin import ModelAdmin


def registered_tasks() -> list[tuple[str, str]]:
    """Return the names of the tasks that this code has, as choices of a form."""
    current_app.loader.import_default_modules()
    names = sorted(name for name in current_app.tasks if not name.startswith("celery."))
    return [("", "---------"), *((name, name) for name in names)]


def queues() -> list[tuple[str, str]]:
    """Return the names of the queues, as choices of a form."""
    return [("", "that of the task"), *((name, name) for name in settings.QUEUE_WAIT_TARGETS)]


def is_from_settings(schedule: PeriodicTask) -> bool:
    """Whether beat writes the schedule from ``CELERY_BEAT_SCHEDULE`` each time it starts."""
    return schedule.name in settings.CELERY_BEAT_SCHEDULE


def arguments_of(schedule: PeriodicTask) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a schedule's task.

    Raises:
        ValueError: They are not what they have to be.
    """
    args, kwargs = loads(schedule.args or "[]"), loads(schedule.kwargs or "{}")
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise ValueError("args must be a JSON list, and kwargs a JSON object")  # noqa: TRY004
    return args, kwargs


def run(schedule: PeriodicTask) -> str:
    """Enter the task of a schedule now; returns the id of its delivery.

    Raises:
        LookupError: There is no such task, or no such queue.
        TypeError, ValueError: The arguments are not what they have to be.
    """
    task: Any = current_app.tasks.get(schedule.task)
    if not getattr(task, "is_durable", False):
        raise LookupError(f"there is no durable task named {schedule.task}")
    args, kwargs = arguments_of(schedule)
    headers = {"periodic_task_name": schedule.name}
    entered: str = task.apply_on_commit(args, kwargs, queue=schedule.queue or None, headers=headers)
    return entered


class ScheduleForm(forms.ModelForm):  # type: ignore[type-arg]  # generic for type checkers only
    """Refuses what beat could not send: it would only say so in its log, again and again."""

    task = forms.ChoiceField(
        choices=registered_tasks,
        error_messages={"invalid_choice": "There is no task named %(value)s in this code."},
    )
    queue = forms.ChoiceField(choices=queues, required=False)

    class Meta:
        """Exchanges, routing keys and priorities mean nothing here; solar needs a library."""

        model = PeriodicTask
        exclude: ClassVar = ("exchange", "routing_key", "priority", "solar")

    def clean_queue(self) -> str | None:
        """Return the queue, or None for that of the task."""
        return self.cleaned_data["queue"] or None

    def clean_args(self) -> str:
        """Return positional arguments: a JSON list."""
        return self._json("args", list, "a list, like [1, 2]")

    def clean_kwargs(self) -> str:
        """Return keyword arguments: a JSON object."""
        return self._json("kwargs", dict, 'an object, like {"name": "value"}')

    def clean_headers(self) -> str:
        """Return headers of the message: a JSON object."""
        return self._json("headers", dict, 'an object, like {"name": "value"}')

    def clean(self) -> dict[str, Any]:
        """Check that the arguments fit the task."""
        data = super().clean() or self.cleaned_data
        if data.get("expire_seconds") is not None and data.get("expires"):
            self.add_error("expires", "Give either a time or seconds.")
        task: Any = current_app.tasks.get(data.get("task", ""))
        if task is not None and "args" in data and "kwargs" in data:
            try:
                getattr(task, "__header__")(  # noqa: B009 - set by Celery
                    *json.loads(data["args"]), **json.loads(data["kwargs"])
                )
            except TypeError as error:
                self.add_error("args", f"The arguments do not fit the task: {error}")
        return data

    def _json(self, name: str, kind: type, example: str) -> str:
        text: str = self.cleaned_data[name] or ("[]" if kind is list else "{}")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise forms.ValidationError(f"This is not JSON: {error}") from None
        if not isinstance(value, kind):
            raise forms.ValidationError(f"This must be {example}.")
        return text


admin.site.unregister([PeriodicTask, SolarSchedule])


@admin.register(PeriodicTask)
class ScheduleAdmin(ModelAdmin):
    """Schedules. Those of the settings can be switched off here, everything else is in the code."""

    form = ScheduleForm
    list_display = (
        "name", "enabled", "task", "schedule", "last_run_at", "total_run_count", "next_due",
        "origin",
    )  # fmt: skip
    list_filter = ("enabled", "one_off", "last_run_at")
    search_fields = ("name", "task", "description")
    ordering = ("name",)
    list_select_related = ("interval", "crontab", "solar", "clocked")
    actions = ("enable", "disable", "run_now")
    readonly_fields = ("last_run_at", "total_run_count", "next_due", "origin")
    fieldsets = (
        (None, {"fields": ("name", "task", "enabled", "description", "origin")}),
        (
            "When (choose one)",
            {"fields": ("interval", "crontab", "clocked", "start_time", "one_off")},
        ),
        ("What with", {"fields": ("args", "kwargs", "queue", "headers")}),
        (
            "If workers are away: when a message is not worth anything any more",
            {"fields": ("expires", "expire_seconds")},
        ),
        ("So far", {"fields": ("last_run_at", "total_run_count", "next_due")}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Leave only the switch of schedules that beat writes anew when it starts."""
        if obj is None or not is_from_settings(obj):
            return self.readonly_fields
        every = [name for _, options in self.fieldsets for name in options["fields"]]
        return [name for name in every if name != "enabled"]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse for schedules of the settings: beat would bring them back."""
        if obj is not None and is_from_settings(obj):
            return False
        return bool(super().has_delete_permission(request, obj))

    @admin.display(description="Schedule")
    def schedule(self, schedule: PeriodicTask) -> str:
        """Return how often."""
        return str(schedule.interval or schedule.crontab or schedule.clocked or schedule.solar)

    @admin.display(description="Next due")
    def next_due(self, schedule: PeriodicTask) -> str:
        """Return when beat sends it next, as far as can be told."""
        if not schedule.enabled:
            return "never: disabled"
        if schedule.clocked is not None:
            return f"{schedule.clocked.clocked_time:%Y-%m-%d %H:%M:%S}"
        if schedule.last_run_at is None:
            return "soon"
        remaining = schedule.schedule.remaining_estimate(schedule.last_run_at)
        if remaining <= timedelta(0):
            return "now"
        # Both moments are a little apart: rounded, 04:29:59.999 is half past four.
        due = datetime.now(UTC) + remaining + timedelta(seconds=0.5)
        return f"{due:%Y-%m-%d %H:%M:%S}"

    @admin.display(description="Defined in")
    def origin(self, schedule: PeriodicTask) -> str:
        """Return where it is written down."""
        return "settings" if is_from_settings(schedule) else "admin"

    @admin.action(description="Enable the selected schedules", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Switch schedules on."""
        number = queryset.update(enabled=True)
        PeriodicTasks.update_changed()
        self.message_user(request, f"{number} schedule(s) enabled.")

    @admin.action(description="Disable the selected schedules", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Switch schedules off. What has been sent already is done all the same."""
        number = queryset.update(enabled=False, last_run_at=None)
        PeriodicTasks.update_changed()
        self.message_user(request, f"{number} schedule(s) disabled.")

    @admin.action(description="Run the selected schedules now", permissions=["change"])
    def run_now(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Enter the tasks of schedules into the ledger, beside what beat sends."""
        current_app.loader.import_default_modules()
        for schedule in queryset:
            try:
                task_id = run(schedule)
            except (TypeError, ValueError, LookupError) as error:
                fault = f"Schedule {schedule.name} does not run: {error.args[0]}"
                self.message_user(request, fault, messages.ERROR)
            else:
                self.message_user(request, f"Schedule {schedule.name} runs as {task_id}.")

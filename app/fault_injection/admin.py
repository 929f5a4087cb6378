"""Faults on purpose in the admin: who has broken what, and when."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from delivery.admin import ReadOnlyAdmin
from fault_injection.models import FaultRun


@admin.register(FaultRun)
class FaultRunAdmin(ReadOnlyAdmin):
    """Faults, newest first."""

    list_display = ("name", "requested_by", "started_at", "ends_at", "ended_at", "error")
    list_filter = ("name",)
    search_fields = ("requested_by",)
    ordering = ("-started_at",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse: without its row nobody would end a fault. Old ones go by themselves."""
        return False

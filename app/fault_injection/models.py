"""Which faults are in force, who asked for them, and when they end."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q


class FaultRun(models.Model):
    """A fault that somebody has started. Rows are deleted after some days."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=40, help_text="Its name in the catalogue.")
    requested_by = models.CharField(max_length=200)
    started_at = models.DateTimeField()
    ends_at = models.DateTimeField(help_text="It ends then, whatever happens.")
    ended_at = models.DateTimeField(null=True, blank=True, help_text="It has been undone.")
    error = models.TextField(blank=True, help_text="Why it could not be started.")

    class Meta:
        """Newest first; each fault is in force once."""

        ordering: ClassVar = ["-started_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["name"], condition=Q(ended_at__isnull=True), name="fault_once_at_a_time"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} by {self.requested_by}"

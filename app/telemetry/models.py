"""What processes write down about themselves, for those who look from elsewhere."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Presence(models.Model):
    """One process that runs, or ran until a moment ago. Only ``telemetry.presence`` writes here."""

    name = models.CharField(
        max_length=300, primary_key=True, help_text="Service, host and process id."
    )
    service = models.CharField(max_length=100, help_text="web, worker, worker-bulk, beat, relay.")
    state = models.CharField(
        max_length=20,
        help_text="What its loop says it does: consuming, paused, reconnecting, ticking, "
        "standby, relaying, serving.",
    )
    queues = models.TextField(blank=True, help_text="Of a worker: queues it consumes, by comma.")
    host = models.CharField(max_length=200)
    pid = models.PositiveIntegerField()
    version = models.CharField(max_length=200, help_text="Version and revision of its code.")
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField(help_text="When it last wrote, by the database's clock.")

    class Meta:
        """In the order in which people look for them."""

        ordering: ClassVar = ["service", "host", "pid"]

    def __str__(self) -> str:
        return self.name

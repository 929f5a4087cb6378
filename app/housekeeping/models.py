"""Traces of periodic work."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Canary(models.Model):
    """When a canary last came through a queue: from beat to a worker and into the ledger.

    Only the task ``housekeeping.canary`` writes here; the celery-exporter reads.
    """

    queue = models.CharField(max_length=200, primary_key=True, help_text="Name of the queue.")
    succeeded_at = models.DateTimeField(help_text="By the database's clock.")

    class Meta:
        """In the order of names."""

        ordering: ClassVar = ["queue"]
        verbose_name_plural = "canaries"

    def __str__(self) -> str:
        return self.queue

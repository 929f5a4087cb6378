"""What is known of a job."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.db import models
from django.db.models import Q


class State(models.TextChoices):
    """States of a job. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


#: States in which there is something left to do.
OPEN_STATES = (State.QUEUED, State.RUNNING)


class Job(models.Model):
    """One piece of work that a person asked for. Its workload keeps the details elsewhere."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=40, help_text="The workload, e.g. newsletter.")
    state = models.CharField(max_length=10, choices=State, default=State.QUEUED)
    done = models.PositiveIntegerField(default=0, help_text="Units of work that have ended.")
    total = models.PositiveIntegerField(default=0, help_text="Units of work in all.")
    result: models.JSONField[Any] = models.JSONField(null=True, blank=True)
    error = models.TextField(blank=True, help_text="Why the job failed.")
    attempts = models.PositiveIntegerField(
        default=0, help_text="Times that work was begun or tried again; 1 when all went well."
    )
    requested_by = models.CharField(
        max_length=150,
        help_text="Name of the user, or token:NAME. User names cannot hold a colon.",
    )
    idempotency_key = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001
    request_fingerprint = models.CharField(
        max_length=64, blank=True, help_text="SHA-256 of the request that created the job."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    updated_at = models.DateTimeField(auto_now=True, help_text="Last change.")

    class Meta:
        """Indexes for the list (newest first) and for retention."""

        ordering: ClassVar = ["-created_at", "-id"]
        indexes: ClassVar = [
            models.Index(fields=["-created_at", "-id"], name="job_newest_first"),
            models.Index(
                fields=["finished_at"],
                condition=Q(finished_at__isnull=False),
                name="job_by_end",
            ),
        ]
        constraints: ClassVar = [
            # NULL keys differ from each other, so jobs without a key are not affected.
            models.UniqueConstraint(
                fields=["requested_by", "idempotency_key"], name="job_once_per_key"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    @property
    def is_open(self) -> bool:
        """Whether there is something left to do."""
        return self.state in OPEN_STATES


class RateBucket(models.Model):
    """How much a caller of the API may ask at once (``jobs.rate_limit``).

    The table is UNLOGGED: written with each request, and worth nothing after a crash.
    """

    name = models.CharField(primary_key=True, max_length=200, help_text="Whose bucket it is.")
    full_at = models.DateTimeField(help_text="When all of its tokens have come back.")

    def __str__(self) -> str:
        return self.name

"""What PostgreSQL remembers of work on its way: the ledger, its groups, and what was refused."""

from __future__ import annotations

import json
import uuid
from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from kombu.utils.json import JSONEncoder, object_hook


class JSONDecoder(json.JSONDecoder):
    """Reads what Celery's own JSON writes: UUIDs, dates and decimals come back as they were."""

    def __init__(self, **options: Any) -> None:
        super().__init__(object_hook=object_hook, **options)


class State(models.TextChoices):
    """States of a delivery. The last three are final."""

    #: Waits for its time (``due_at``): a retry, an ``eta``, a ``countdown``.
    PENDING = "pending"
    #: Its message was published, or is about to be: right after the commit.
    DISPATCHED = "dispatched"
    #: A worker holds it until ``due_at``, and renews that while it works.
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    #: A dead letter: failed for good, kept until somebody replays or discards it.
    DEAD = "dead"
    CANCELLED = "cancelled"


#: States in which there is something left to do.
OPEN_STATES = (State.PENDING, State.DISPATCHED, State.RUNNING)


class Group(models.Model):
    """Deliveries that belong together, and what follows when all have succeeded."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    size = models.PositiveIntegerField(help_text="Members in all.")
    remaining = models.PositiveIntegerField(
        help_text="Members that have not succeeded. Falls in the transaction in which one does."
    )
    body: models.JSONField[Any] = models.JSONField(
        null=True,
        blank=True,
        encoder=JSONEncoder,
        decoder=JSONDecoder,
        help_text="The delivery that is entered when nothing remains.",
    )
    on_error: models.JSONField[Any] = models.JSONField(
        null=True,
        blank=True,
        encoder=JSONEncoder,
        decoder=JSONDecoder,
        help_text="The delivery that is entered when the first member fails for good.",
    )
    failed_at = models.DateTimeField(
        null=True, blank=True, help_text="When a member failed for good for the first time."
    )
    finished_at = models.DateTimeField(
        null=True, blank=True, help_text="When the last member succeeded."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        """An index for retention."""

        indexes: ClassVar = [models.Index(fields=["created_at"], name="delivery_group_by_age")]

    def __str__(self) -> str:
        return str(self.id)


class Delivery(models.Model):
    """One durable task: a row from the commit that asked for it until its effect is committed.

    Only ``delivery.ledger`` writes here.
    """

    id = models.UUIDField(
        primary_key=True,
        default=uuid.uuid4,
        editable=False,
        help_text="Also Celery's task id, and the idempotency key.",
    )
    task = models.CharField(max_length=255)
    args: models.JSONField[Any] = models.JSONField(
        default=list, encoder=JSONEncoder, decoder=JSONDecoder
    )
    kwargs: models.JSONField[Any] = models.JSONField(
        default=dict, encoder=JSONEncoder, decoder=JSONDecoder
    )
    queue = models.CharField(max_length=100)
    options: models.JSONField[Any] = models.JSONField(
        default=dict,
        blank=True,
        encoder=JSONEncoder,
        decoder=JSONDecoder,
        help_text="Options of its message: headers, log context, time limits, priority.",
    )
    state = models.CharField(max_length=10, choices=State)
    attempts = models.PositiveIntegerField(
        default=0,
        help_text="Times that a worker began it. Never falls: the number of an attempt is the "
        "fence that keeps an earlier one from committing.",
    )
    failures = models.PositiveIntegerField(
        default=0, help_text="Attempts that failed and said so, since the last replay."
    )
    interruptions = models.PositiveIntegerField(
        default=0,
        help_text="Attempts that ended without a word (a killed process, a lost machine), since "
        "the last replay.",
    )
    max_failures = models.PositiveIntegerField(
        help_text="With so many failures it is a dead letter."
    )
    due_at = models.DateTimeField(
        help_text="When the relay looks at it next: its time, the end of a worker's lease, or "
        "when a message that nobody has taken counts as lost."
    )
    created_at = models.DateTimeField()
    dispatched_at = models.DateTimeField(null=True, blank=True, help_text="Last publication.")
    started_at = models.DateTimeField(null=True, blank=True, help_text="Start of the last attempt.")
    finished_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text="It is cancelled if it has not succeeded by then."
    )
    worker = models.CharField(
        max_length=255, blank=True, help_text="Who made the last attempt: node name and process id."
    )
    result: models.JSONField[Any] = models.JSONField(
        null=True, blank=True, encoder=JSONEncoder, decoder=JSONDecoder
    )
    error = models.TextField(blank=True, help_text="Why the last attempt failed.")
    group = models.ForeignKey(
        Group,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="members",
        db_index=False,
    )
    position = models.PositiveIntegerField(default=0, help_text="Place among the group's members.")

    class Meta:
        """Indexes hold only the rows they are for: finished ones cost the hot path nothing."""

        verbose_name_plural = "deliveries"
        indexes: ClassVar = [
            models.Index(
                fields=["due_at"],
                condition=Q(state__in=["pending", "dispatched", "running"]),
                name="delivery_due",
            ),
            models.Index(
                fields=["task", "due_at"], condition=Q(state="pending"), name="delivery_waiting"
            ),
            models.Index(
                fields=["-finished_at"], condition=Q(state="dead"), name="delivery_dead_letters"
            ),
            models.Index(
                fields=["finished_at"],
                condition=Q(state__in=["succeeded", "cancelled"]),
                name="delivery_by_end",
            ),
            models.Index(
                fields=["group", "position"],
                condition=Q(group__isnull=False),
                name="delivery_by_group",
            ),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(
                    state__in=["pending", "dispatched", "running"], finished_at__isnull=True
                )
                | Q(state__in=["succeeded", "dead", "cancelled"], finished_at__isnull=False),
                name="delivery_ended_means_final",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.task} {self.id}"

    @property
    def is_open(self) -> bool:
        """Whether there is something left to do."""
        return self.state in OPEN_STATES


class QuarantinedMessage(models.Model):
    """A message that was refused before anything in it was believed. At most a bounded number."""

    received_at = models.DateTimeField(auto_now_add=True)
    queue = models.CharField(max_length=200, help_text="Where it was found.")
    reason = models.CharField(max_length=300)
    claimed_task = models.CharField(
        max_length=255, blank=True, help_text="The task it says it is for; anybody can say that."
    )
    claimed_id = models.CharField(max_length=255, blank=True)
    size = models.PositiveIntegerField(help_text="Bytes of the message.")
    content = models.TextField(
        help_text="Its beginning; bytes that are no text are shown as escapes."
    )

    class Meta:
        """Newest first, and an index for retention."""

        ordering: ClassVar = ["-received_at", "-id"]
        indexes: ClassVar = [
            models.Index(fields=["received_at"], name="delivery_quarantine_by_age")
        ]

    def __str__(self) -> str:
        return f"{self.reason} ({self.queue})"

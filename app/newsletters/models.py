"""A newsletter and its recipients, each with a state of its own."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q

from jobs.models import Job


class Newsletter(models.Model):
    """What is sent. Its job holds state and progress."""

    job = models.OneToOneField(
        Job, on_delete=models.CASCADE, primary_key=True, related_name="newsletter"
    )
    subject = models.CharField(max_length=200)
    body = models.TextField()

    def __str__(self) -> str:
        return self.subject


class RecipientState(models.TextChoices):
    """States of a recipient. All but pending are final."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Recipient(models.Model):
    """One address of one newsletter."""

    newsletter = models.ForeignKey(Newsletter, on_delete=models.CASCADE, related_name="recipients")
    position = models.PositiveIntegerField(help_text="Place in the list as it was submitted.")
    address = models.CharField(max_length=254)
    state = models.CharField(max_length=9, choices=RecipientState, default=RecipientState.PENDING)
    waiting = models.BooleanField(
        default=False,
        # The version before does not know the column, and runs beside this one during an update.
        db_default=False,
        help_text="Waits to be put into one batch with recipients of other newsletters.",
    )
    attempts = models.PositiveSmallIntegerField(default=0)
    message_id = models.UUIDField(
        default=uuid.uuid4,
        help_text="Names the mail. A mail that is sent again, because its sender died before it "
        "could note the success, has the same name, so that receivers can drop it.",
    )
    error = models.TextField(blank=True, help_text="Last answer of the mail server that was a no.")
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        """One row for each address; batches are ranges of positions."""

        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["newsletter", "position"], name="recipient_once_per_position"
            ),
            models.UniqueConstraint(
                fields=["newsletter", "address"], name="recipient_once_per_newsletter"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["newsletter", "state"], name="recipient_by_state"),
            models.Index(
                fields=["id"], condition=Q(waiting=True, state="pending"), name="recipient_waiting"
            ),
        ]

    def __str__(self) -> str:
        return self.address

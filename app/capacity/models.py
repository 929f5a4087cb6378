"""A capacity plan and what was found for each number of workers."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models

from jobs.models import Job


class Plan(models.Model):
    """What was asked. Its job holds state, progress and result."""

    job = models.OneToOneField(
        Job, on_delete=models.CASCADE, primary_key=True, related_name="capacity_plan"
    )
    arrival_rate = models.FloatField(help_text="Tasks each second.")
    service_time_mean = models.FloatField(null=True, blank=True, help_text="Seconds.")
    service_time_p95 = models.FloatField(null=True, blank=True, help_text="Seconds.")
    service_times: models.JSONField[Any] = models.JSONField(
        null=True, blank=True, help_text="Measured seconds, instead of mean and p95."
    )
    target_wait = models.FloatField(help_text="Seconds.")
    percentile = models.FloatField(help_text="Percent of tasks that must not wait longer.")
    max_workers = models.PositiveIntegerField()
    slots_per_pod = models.PositiveIntegerField()
    seed = models.PositiveBigIntegerField()
    first_simulated = models.PositiveIntegerField(
        help_text="The smallest number of workers that is simulated; fewer cannot keep up, or "
        "hardly. Above max_workers: none is."
    )

    rounds = models.PositiveIntegerField(
        default=0, help_text="Times that the plan went on after a failure."
    )

    def __str__(self) -> str:
        return f"{self.arrival_rate:g}/s, p{self.percentile:g} <= {self.target_wait:g} s"


class Candidate(models.Model):
    """One number of workers that is simulated."""

    plan = models.ForeignKey(Plan, on_delete=models.CASCADE, related_name="candidates")
    workers = models.PositiveIntegerField()
    steps = models.PositiveSmallIntegerField(
        default=0, help_text="Steps simulated so far, by the attempt that got furthest."
    )
    result: models.JSONField[Any] = models.JSONField(
        null=True, blank=True, help_text="What was measured; stored once, with the task's success."
    )

    class Meta:
        """One row for each number of workers."""

        constraints: ClassVar = [
            models.UniqueConstraint(fields=["plan", "workers"], name="candidate_once_per_plan"),
        ]

    def __str__(self) -> str:
        return f"{self.workers} workers"

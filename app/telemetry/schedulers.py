"""The scheduler of beat, made to note that it ticks."""

from __future__ import annotations

from typing import Any

from django_celery_beat.schedulers import DatabaseScheduler

from telemetry import heartbeat


class WatchedDatabaseScheduler(DatabaseScheduler):
    """django-celery-beat's scheduler; each tick (at most 5 s apart) is noted for the probe."""

    def tick(self, *arguments: Any, **options: Any) -> float:
        """Send what is due; returns the seconds until the next tick."""
        seconds: float = super().tick(*arguments, **options)
        heartbeat.note(heartbeat.TICKING)
        return seconds

    def close(self) -> None:
        """Stop on purpose: write the schedule and remove the note."""
        super().close()
        heartbeat.forget()

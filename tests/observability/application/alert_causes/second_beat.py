"""A beat that leads whoever else does: the release that changed the number of the lock."""

from __future__ import annotations

from typing import Any

from delivery.leadership import AdvisoryLock
from telemetry import schedulers


class UnlockedScheduler(schedulers.WatchedDatabaseScheduler):
    """The scheduler with a lock of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._lock = AdvisoryLock(schedulers.LEADER_LOCK + 1, application_name="second-beat")

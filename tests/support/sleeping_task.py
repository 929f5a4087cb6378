"""A task of the tests' own, for workers that are started with ``--include``."""

from __future__ import annotations

import time
from pathlib import Path

from celery import shared_task

from delivery.tasks import BaseTask


@shared_task(name="images.sleep", base=BaseTask, durable=False)
def sleep(seconds: float, notes: str) -> None:
    """Note the start, sleep, note the end. Queue: bulk."""
    note(notes, "start")
    time.sleep(seconds)
    note(notes, "end")


def note(notes: str, word: str) -> None:
    """Append a line to a file, in one piece whoever else does."""
    with Path(notes).open("a", encoding="utf-8") as file:
        file.write(f"{word}\n")

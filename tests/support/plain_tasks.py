"""Plain Celery tasks of the tests' own, for workers that are started with ``--include``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery import shared_task

from delivery.tasks import BaseTask


@shared_task(name="images.double", base=BaseTask, durable=False)
def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


@shared_task(name="images.silent", base=BaseTask, durable=False, ignore_result=True)
def silent(number: int) -> int:
    """Return the number, which nobody stores."""
    return number


@shared_task(name="images.note", base=BaseTask, durable=False)
def note(value: Any, file: str) -> Any:
    """Append a value to a file, one a line; return it."""
    with Path(file).open("a", encoding="utf-8") as notes:
        notes.write(f"{value}\n")
    return value


@shared_task(name="images.note_failure", base=BaseTask, durable=False)
def note_failure(request: Any, error: Exception, traceback: str | None, file: str) -> None:
    """Append the error of another task to a file (Celery's newer form of an error callback)."""
    note(repr(error), file)

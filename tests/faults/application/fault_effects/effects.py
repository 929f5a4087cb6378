"""What the tasks leave behind, in plain SQL."""

from __future__ import annotations

from collections.abc import Sequence

from celery import current_task
from django.db import connection


def store_submissions(run: str, numbers: Sequence[int]) -> None:
    """Note that these numbers were asked for: the business data of the request.

    A repeated request changes nothing.
    """
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO fault_submissions (run, number) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [(run, number) for number in numbers],
        )


def store_start(run: str, number: int) -> int:
    """Note that an attempt has begun; returns how many have, this one included."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO fault_starts (run, number) VALUES (%s, %s)", [run, number])
        cursor.execute(
            "SELECT count(*) FROM fault_starts WHERE run = %s AND number = %s", [run, number]
        )
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def store_effect(run: str, number: int) -> None:
    """Make the effect. Made twice, it is there twice."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO fault_effects (run, number, delivery) VALUES (%s, %s, %s)",
            [run, number, current_task.request.id],
        )

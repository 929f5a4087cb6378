"""Durable tasks of the tests' own, for workers that are started with ``--include``."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import shared_task
from celery.exceptions import Reject, SoftTimeLimitExceeded
from django.contrib.sessions.models import Session
from django.db import connection
from django.utils import timezone

from delivery.buffering import BatchTask, BufferedTask
from delivery.errors import PermanentError, TransientError
from delivery.tasks import BaseTask, run_once
from tests.support.sleeping_task import note


def leave_effect(name: str) -> None:
    """Make an effect in the database that can be counted: a session whose data is the name."""
    Session.objects.create(
        session_key=os.urandom(16).hex(), session_data=name, expire_date=timezone.now()
    )


def effects(name: str) -> int:
    """Return how often an effect was committed."""
    return Session.objects.filter(session_data=name).count()


@shared_task(name="tests.leave_effect_once", base=BaseTask)
def leave_effect_once(name: str) -> str:
    """Make an effect exactly once."""
    with run_once() as outcome:
        leave_effect(name)
        outcome.result = name
    return "not stored"


@shared_task(name="tests.add", base=BaseTask)
def add(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


@shared_task(name="tests.session", base=BaseTask)
def session() -> list[int]:
    """Return the ids of this process and of its PostgreSQL session."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return [os.getpid(), cursor.fetchone()[0]]


@shared_task(name="tests.total", base=BaseTask)
def total(numbers: list[int], name: str) -> int:
    """Add up the results of a chord, with an effect."""
    with run_once() as outcome:
        leave_effect(name)
        outcome.result = sum(numbers)
    return sum(numbers)


@shared_task(name="tests.failed", base=BaseTask)
def failed(member: str, error: str, name: str) -> None:
    """Note the failure of a chord."""
    with run_once():
        leave_effect(f"{name}: {error}")


@shared_task(name="tests.fail", base=BaseTask, bind=True, max_retries=2, retry_backoff_max=1)
def fail(self: BaseTask, notes: str, *, times: int = 100, retry_after: float | None = None) -> int:
    """Fail so many times in a way that may pass."""
    note(notes, f"{self.request.retries} {time.time():.2f}")
    if self.request.retries < times:
        raise TransientError("not yet", retry_after=retry_after)
    return self.request.retries


@shared_task(name="tests.fail_for_good", base=BaseTask)
def fail_for_good(notes: str) -> None:
    """Fail in a way that does not pass."""
    note(notes, "tried")
    raise PermanentError("never")


@shared_task(name="tests.kill_process", base=BaseTask)
def kill_process(notes: str) -> None:
    """Die like a process that the kernel kills for its memory."""
    note(notes, "tried")
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(name="tests.linger", base=BaseTask)
def linger(notes: str, seconds: float, name: str) -> None:
    """Take long, then make an effect."""
    note(notes, f"start {os.getpid()}")
    time.sleep(seconds)
    with run_once():
        leave_effect(name)
    note(notes, "end")


@shared_task(name="tests.overstay", base=BaseTask, soft_time_limit=2, time_limit=4)
def overstay(notes: str, *, stubborn: bool) -> None:
    """Run into the soft time limit, and stubbornly into the hard one."""
    note(notes, "tried")
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        if not stubborn:
            raise
        time.sleep(60)


class Watched(BaseTask):
    """Notes what becomes of it in the database."""

    abstract = True

    def on_given_up(self, error: str, *args: Any, **kwargs: Any) -> None:
        """Make an effect."""
        leave_effect(f"{args[0]} was given up: {error}")

    def on_replayed(self, *args: Any, **kwargs: Any) -> None:
        """Make an effect."""
        leave_effect(f"{args[0]} was replayed")


@shared_task(name="tests.watched", base=Watched)
def watched(name: str) -> None:
    """Fail for good, until somebody has mended what was broken."""
    if not effects(f"{name} is mended"):
        raise ValueError("broken")
    with run_once():
        leave_effect(name)


#: Marks a session as a row that waits; what follows is its name.
WAITING = "waits: "


@shared_task(name="tests.gather", base=BufferedTask, bind=True, flush_every=20)
def gather(self: BufferedTask) -> int:
    """Make the effects of rows that wait."""
    with run_once() as outcome:
        waiting = Session.objects.filter(session_data__startswith=WAITING)
        rows = list(waiting.select_for_update(skip_locked=True)[: self.flush_every])
        for row in rows:
            leave_effect(row.session_data.removeprefix(WAITING))
        Session.objects.filter(pk__in=[row.pk for row in rows]).delete()
        self.flush_again(len(rows))
        outcome.result = len(rows)
    return len(rows)


@shared_task(name="tests.work_on", base=BatchTask)
def work_on(names: list[str]) -> None:
    """Make an effect for each name that has none; some names are bad."""
    for name in names:
        if name.startswith("bad"):
            raise ValueError(name)
        if name.startswith("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        if not effects(name):
            leave_effect(name)


@shared_task(name="tests.put_off", base=BaseTask, default_retry_delay=0)
def put_off(notes: str) -> None:
    """Reject the message once, and want it back."""
    is_first = not Path(notes).exists()
    note(notes, "attempt")
    if is_first:
        raise Reject("not now", requeue=True)

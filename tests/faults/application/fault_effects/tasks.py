"""Tasks that work, fail, kill and sleep, on the queues that their names lead to."""

from __future__ import annotations

import os
import signal
import time

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded

from delivery.errors import TransientError
from delivery.tasks import run_once
from fault_effects.effects import store_effect, store_start


def _record(run: str, number: int, seconds: float = 0.0) -> None:
    """Take a while, then make the effect and the success of the delivery one transaction."""
    time.sleep(seconds)
    with run_once():
        store_effect(run, number)


record = shared_task(name="faults.record")(_record)
record_as_mail = shared_task(name="newsletters.faults_record")(_record)
record_as_bulk = shared_task(name="images.faults_record")(_record)
#: One of each queue that people's work goes through.
RECORDERS = (record, record_as_mail, record_as_bulk)


@shared_task(name="faults.kill_own_process")
def kill_own_process(run: str, number: int) -> None:
    """Poison: no attempt survives."""
    store_start(run, number)
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(name="faults.fail")
def fail(run: str, number: int) -> None:
    """Fail in a way that another attempt cannot mend."""
    store_start(run, number)
    raise ValueError("this task always fails")


@shared_task(name="faults.fail_at_first")
def fail_at_first(run: str, number: int, failures: int) -> None:
    """Fail so many times in a way that may pass, then make the effect."""
    if store_start(run, number) <= failures:
        raise TransientError("not yet")
    with run_once():
        store_effect(run, number)


@shared_task(name="faults.sleep_past_limits")
def sleep_past_limits(run: str, number: int, *, stubborn: bool) -> None:
    """Sleep longer than a task may; a stubborn one does not even hear the soft limit."""
    store_start(run, number)
    try:
        time.sleep(600)
    except SoftTimeLimitExceeded:
        if not stubborn:
            raise
        time.sleep(600)


@shared_task(name="faults.tick")
def tick() -> None:
    """Make the effect of a periodic task; its number is the second at which it ran."""
    with run_once():
        store_effect("tick", int(time.time()))

"""Tasks that do harm, and the one that ends it. Without ``FAULT_INJECTION`` they refuse."""

from __future__ import annotations

import os
import signal
import time
from typing import Any
from uuid import UUID

from celery import Task, shared_task

from delivery.errors import PermanentError, TransientError
from delivery.tasks import BaseTask
from fault_injection import services
from fault_injection.catalogue import FLOOD_TASK_SECONDS, LOCK_FREE_SECONDS
from fault_injection.database import database_hold
from fault_injection.errors import FaultError


@shared_task(name="fault_injection.end", base=BaseTask)
def end(run_id: str) -> None:
    """End a fault whose time is over (queue: maintenance). Also where faults are switched off."""
    try:
        services.fault_end(UUID(run_id))
    except FaultError as error:
        raise TransientError(str(error)) from error


@shared_task(name="fault_injection.slow_database", base=BaseTask)
def slow_database(run_id: str) -> int:
    """Hold up everybody until the fault ends (queue: maintenance); returns the number of times.

    Durable, so that it begins with the commit that notes the fault; a second attempt goes on until
    the time of the first one.
    """
    services.refuse_unless_enabled()
    times = 0
    while services.fault_is_active(UUID(run_id)):
        times += database_hold()
        time.sleep(LOCK_FREE_SECONDS)
    return times


class Poison(BaseTask):
    """A task whose end is the end of its fault."""

    abstract = True

    def on_given_up(self, error: str, *args: Any, **kwargs: Any) -> None:
        """Note that the fault is over."""
        services.fault_note_end(UUID(args[0]))


@shared_task(name="fault_injection.poison", base=Poison, bind=True)
def poison(self: Task[Any, Any], run_id: str) -> None:
    """Kill the pool process that runs this (queue: default), at each attempt."""
    services.refuse_unless_enabled()
    if self.request.called_directly or self.request.is_eager:
        raise PermanentError("this process is not one of a worker's pool")
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(name="fault_injection.bug", base=BaseTask)
def bug(run_id: str) -> None:
    """Fail in a way that repeating does not mend (queue: default)."""
    services.refuse_unless_enabled()
    raise PermanentError("This task fails on purpose: division by zero, say.")


@shared_task(name="fault_injection.brief", base=BaseTask, ignore_result=True)
def brief(run_id: str) -> None:
    """Take ``FLOOD_TASK_SECONDS`` and do nothing (queue: default)."""
    services.refuse_unless_enabled()
    time.sleep(FLOOD_TASK_SECONDS)

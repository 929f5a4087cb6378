"""Plain tasks that meet a certain fate, for workers that are started with ``--include``."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from celery import shared_task
from celery.exceptions import Ignore, Reject

from delivery.errors import TransientError
from delivery.tasks import BaseTask


class PlainTask(BaseTask):
    """Plain Celery, tried again after a second if its process was killed."""

    abstract = True
    durable = False
    default_retry_delay = 1


def is_first_attempt(marker: str) -> bool:
    """Whether this is the first call with this name of a file."""
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@shared_task(name="tests.plain_sleep", base=PlainTask)
def plain_sleep(seconds: float) -> None:
    """Take so many seconds."""
    time.sleep(seconds)


@shared_task(name="tests.plain_ignore", base=PlainTask)
def plain_ignore() -> None:
    """Come to no end that Celery announces."""
    raise Ignore("nothing to do")


@shared_task(name="tests.plain_drop", base=PlainTask)
def plain_drop() -> None:
    """Reject the message for good."""
    raise Reject("not wanted", requeue=False)


@shared_task(name="tests.plain_give_back", base=PlainTask)
def plain_give_back(marker: str) -> None:
    """Give the message back to its queue, once; then fail in a way that passes, once."""
    if is_first_attempt(marker):
        raise Reject("not now", requeue=True)
    if is_first_attempt(f"{marker}.again"):
        raise TransientError("not yet", retry_after=0)


@shared_task(name="tests.plain_kill", base=PlainTask)
def plain_kill(marker: str) -> None:
    """Die like a process that the kernel kills for its memory, once."""
    if is_first_attempt(marker):
        os.kill(os.getpid(), signal.SIGKILL)


@shared_task(name="tests.plain_out_of_memory", base=PlainTask)
def plain_out_of_memory() -> None:
    """Ask for more memory than there is, and see the error."""
    raise MemoryError

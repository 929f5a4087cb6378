"""Tasks that end as they are told to."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Final

from celery import shared_task


@shared_task(name="causes.succeed")
def succeed() -> None:
    """Do nothing, with success."""


def _fail_unless(*, works: bool) -> None:
    if not works:
        raise ValueError("this task fails")


@shared_task(name="causes.fail")
def fail(*, works: bool) -> None:
    """Fail in a way that another attempt cannot mend, or succeed."""
    _fail_unless(works=works)


@shared_task(name="causes.nightly")
def nightly(*, works: bool) -> None:
    """Do the same under a name of its own."""
    _fail_unless(works=works)


@shared_task(name="causes.sleep")
def sleep(seconds: float) -> None:
    """Keep a pool process for so many seconds."""
    time.sleep(seconds)


@shared_task(name="causes.kill_own_process", max_retries=1)
def kill_own_process() -> None:
    """End as one does that the kernel kills for its memory."""
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(name="causes.plain", durable=False)  # type: ignore[call-overload,untyped-decorator]
def plain() -> None:
    """Do nothing, as plain Celery does: no row, only a message."""


TASKS: Final[dict[str, Any]] = {
    task.name: task for task in (succeed, fail, nightly, sleep, kill_own_process, plain)
}

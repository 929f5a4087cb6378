"""Ends a worker in bounded time: running tasks may finish, then they go back to the queue.

Celery's own soft shutdown (``worker_soft_shutdown_timeout`` with ``REMAP_SIGTERM=SIGQUIT``) sleeps
for the whole time whatever is running (celery/worker/worker.py, wait_for_soft_shutdown): with 30 s,
a worker whose tasks ended after 3 s stopped after 32 s instead of 5 s. Its warm shutdown stops when
the tasks have ended, but waits for ever. So: warm, and cold when the time is up.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from celery import signals
from django.conf import settings


def _limit_warm_shutdown(how: str, **_: Any) -> None:
    """Turn a warm shutdown into a cold one after ``WORKER_WARM_SHUTDOWN_SECONDS``.

    SIGQUIT is Celery's signal for it: unfinished tasks are cancelled and their messages given back.
    """
    if how != "Warm":
        return
    timer = threading.Timer(
        settings.WORKER_WARM_SHUTDOWN_SECONDS, os.kill, (os.getpid(), signal.SIGQUIT)
    )
    # A worker that has ended before does not wait for its own timer.
    timer.daemon = True
    timer.start()


def install() -> None:
    """Limit the warm shutdown of this process, if it is a worker."""
    signals.worker_shutting_down.connect(
        _limit_warm_shutdown, weak=False, dispatch_uid="delivery-graceful-stop"
    )

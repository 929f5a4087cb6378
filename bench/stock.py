"""Celery with django-celery-results as their manuals set it up, to compare with.

Late acknowledgement and a prefetch of one, as this project has them; everything else as it comes.
As a program it enqueues as many tasks as each line of its input says, and prints the seconds of CPU
that it took: a process of its own, because the project's guards change Celery wherever they are.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import django
from celery import Celery

django.setup()

app: Celery[Any] = Celery("stock", broker=os.environ["BROKER_URL"], set_as_current=False)
app.conf.update(
    result_backend="django-db",
    task_default_queue="stock",
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


@app.task(name="stock.plain")
def plain(number: int) -> int:
    """Do nothing; the result is stored."""
    return number


def main() -> None:
    """Enqueue until the input ends."""
    for line in sys.stdin:
        began = time.process_time()
        for number in range(int(line)):
            plain.delay(number)
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    main()

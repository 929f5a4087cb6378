"""celery-batches as its manual sets it up, to compare with; see ``bench.stock``.

As a program it enqueues a mail to each address that a line of its input lists, and prints the
seconds of CPU that it took.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from celery_batches import Batches  # type: ignore[import-not-found]  # not in our lock
from django.core.mail import EmailMessage, get_connection

from bench.stock import app

# Batches cannot be larger than what a worker prefetches.
app.conf.worker_prefetch_multiplier = 100


@app.task(name="stock.send", base=Batches, flush_every=100, flush_interval=1, ignore_result=True)
def send(requests: list[Any]) -> None:
    """Write to all recipients of the batch over one connection."""
    with get_connection() as connection:
        for request in requests:
            EmailMessage("Hello", "Text", to=[request.args[0]], connection=connection).send()


def main() -> None:
    """Enqueue until the input ends."""
    for line in sys.stdin:
        began = time.process_time()
        for address in json.loads(line):
            send.delay(address)
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    main()

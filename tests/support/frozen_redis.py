"""A Redis that is there and does nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis


@contextmanager
def frozen(client: Redis) -> Iterator[None]:
    """Freeze the server of a client, on this machine, until the context ends (SIGSTOP)."""
    process: int = client.info("server")["process_id"]
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)

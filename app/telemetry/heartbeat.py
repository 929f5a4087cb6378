"""A file in which worker and beat note that their loop turns, for probes that cost nothing.

Why not ``celery inspect ping``: it goes through the broker, so an outage would restart the whole
fleet in the middle of its tasks; it loads the application each time; and it is answered by a
worker that consumes nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from django.conf import settings

from telemetry import presence

#: Seconds between two notes of a worker. Probes allow for several missed ones.
INTERVAL_SECONDS: Final = 5.0

CONSUMING: Final = "consuming"
#: Alive, and told to take no messages (fault_injection/pausing.py).
PAUSED: Final = "paused"
RECONNECTING: Final = "reconnecting"
TICKING: Final = "ticking"
STANDBY: Final = "standby"
RELAYING: Final = "relaying"


def note(state: str, queues: Iterable[str] = ()) -> None:
    """Write the time and the state; a reader sees the old content or the new, never a part.

    A full disk must not stop work, so a failed write is left for the probe to find. Whoever looks
    from elsewhere learns the same from the database (``telemetry.presence``), a worker's queues
    included.
    """
    presence.note(state, queues)
    path = Path(settings.HEARTBEAT_FILE)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(json.dumps({"at": time.time(), "state": state, "pid": os.getpid()}))
        unfinished.replace(path)
    except OSError:
        pass


def forget() -> None:
    """Remove the file and the row: this process stops on purpose."""
    presence.end()
    Path(settings.HEARTBEAT_FILE).unlink(missing_ok=True)

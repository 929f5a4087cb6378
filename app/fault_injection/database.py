"""The slow database: locks on the tables that everything passes through.

Locks, because they slow every process in the same way, need no hook in normal operation, and are
gone with the session that holds them, whatever becomes of it. Settings of the server would need
its administrator, and a trigger that sleeps would stay behind after a crash.
"""

from __future__ import annotations

from typing import Final

import psycopg
from django.db import OperationalError, connection, transaction

from fault_injection.catalogue import LOCK_HELD_SECONDS

#: Milliseconds to wait for the locks. Meanwhile everybody else waits behind this request, and a
#: deadlock (found by PostgreSQL after 1 s) ends here, never at somebody's work.
LOCK_TIMEOUT_MILLISECONDS: Final = 100


def database_hold() -> bool:
    """Lock the tables for ``LOCK_HELD_SECONDS``; returns False when they were busy for too long."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MILLISECONDS}ms'")
            cursor.execute("LOCK TABLE delivery_delivery, jobs_job IN ACCESS EXCLUSIVE MODE")
            # The server sleeps: if this process is killed, the locks go when it wakes up.
            cursor.execute("SELECT pg_sleep(%s)", [LOCK_HELD_SECONDS])
    except OperationalError as error:
        if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
            return False
        raise
    return True

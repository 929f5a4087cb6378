"""Keeps what was refused, for people to look at. Never puts anything back.

Called in the main process of workers, between two messages: whatever goes wrong here, the message
stays refused and work goes on. The table has a bound, so that forgeries cannot fill the disk; the
log has a line for each of them.
"""

from __future__ import annotations

import hashlib
import json
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import structlog
from django.db import close_old_connections, connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

if TYPE_CHECKING:
    from delivery.models import QuarantinedMessage

logger = structlog.get_logger(__name__)

#: Rows of the table.
LARGEST_NUMBER: Final = 10_000
#: Characters of a message that are kept.
LARGEST_CONTENT: Final = 16 * 1024
#: Days after which housekeeping deletes a row.
RETENTION_DAYS: Final = 30
#: Seconds that each statement may take: the worker waits for it.
STATEMENT_SECONDS: Final = 1
#: Seconds without another trial after one that failed: opening a connection to a server that is
#: gone takes up to ``connect_timeout``, and there may be thousands of messages.
PAUSE_SECONDS: Final = 30.0

_paused_until = 0.0


def refuse(queue: str, raw: bytes, reason: str) -> None:
    """Note that a message was refused; it is gone from the broker already.

    Args:
        queue: Where it was found.
        raw: What was found.
        reason: Why it was refused, in words.
    """
    stored = _store(queue, raw, reason)
    logger.warning(
        "message_refused",
        queue=queue,
        reason=reason,
        size=len(raw),
        digest=hashlib.sha256(raw).hexdigest()[:16],
        stored=stored,
    )


def old_quarantined_messages() -> QuerySet[QuarantinedMessage]:
    """Return the rows that nobody needs any more."""
    from delivery.models import QuarantinedMessage  # noqa: PLC0415 - guards precede the models

    limit = timezone.now() - timedelta(days=RETENTION_DAYS)
    return QuarantinedMessage.objects.filter(received_at__lt=limit)


def printable(raw: bytes, limit: int) -> str:
    """Return bytes as text that PostgreSQL accepts: what is no UTF-8, and NUL, as escapes."""
    text = raw[:limit].decode("utf-8", "backslashreplace")
    return text.replace("\0", "\\x00")[:limit]


def _store(queue: str, raw: bytes, reason: str) -> bool:
    """Store a message if there is room; returns whether it was stored."""
    global _paused_until  # noqa: PLW0603 - what is known of the database is known of the process
    # Inside a caller's transaction the row would share its fate, and a failure would end it.
    if time.monotonic() < _paused_until or connection.in_atomic_block:
        return False
    try:
        close_old_connections()
        stored = _insert(queue, raw, reason)
    except Exception as error:  # noqa: BLE001 - see the module: nothing may end the worker here
        logger.warning("quarantine_failed", error=repr(error))
        close_old_connections()
        stored = False
    if not stored:
        _paused_until = time.monotonic() + PAUSE_SECONDS
    return stored


def _insert(queue: str, raw: bytes, reason: str) -> bool:
    from delivery.models import QuarantinedMessage  # noqa: PLC0415 - guards precede the models

    claimed_task, claimed_id = _claims(raw)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")
        # Several workers at once may go a little beyond the bound.
        if QuarantinedMessage.objects.order_by()[:LARGEST_NUMBER].count() >= LARGEST_NUMBER:
            return False
        QuarantinedMessage.objects.create(
            queue=printable(queue.encode("utf-8", "backslashreplace"), 200),
            reason=reason[:300],
            claimed_task=claimed_task,
            claimed_id=claimed_id,
            size=len(raw),
            content=printable(raw, LARGEST_CONTENT),
        )
    return True


def _claims(raw: bytes) -> tuple[str, str]:
    """Return the task and the id that a message claims; empty if it cannot be read."""
    headers: Any = None
    if len(raw) <= 1 << 20:
        try:
            headers = json.loads(raw)["headers"]
        except (ValueError, RecursionError, LookupError, TypeError):
            headers = None
    if not isinstance(headers, dict):
        return "", ""
    task, identity = (
        printable(value.encode("utf-8", "backslashreplace"), 255) if isinstance(value, str) else ""
        for value in (headers.get("task"), headers.get("id"))
    )
    return task, identity

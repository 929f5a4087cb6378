"""What a message in Redis says of its own time.

Nothing in it is believed beyond that: a message that is no message has no time.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any


def waits_since(message: bytes) -> float | None:
    """Return since when a message waits: its publication, or its eta if that is later.

    Seconds since the epoch; None where it does not say (it was published by somebody else).
    """
    headers = headers_of(_parsed(message))
    moments = [
        moment for moment in (_number(headers.get("enqueued_at")), eta_of(headers)) if moment
    ]
    return max(moments, default=None)


def unacknowledged(entry: bytes) -> tuple[dict[str, Any], str]:
    """Return headers and queue of an entry of ``unacked``: message, exchange, routing key.

    Each of our queues has its own name as routing key, as Celery declares them.
    """
    match _parsed(entry):
        case [message, _, str(queue)]:
            return headers_of(message), queue
    return {}, ""


def headers_of(message: Any) -> dict[str, Any]:
    """Return the headers of a parsed message, or nothing."""
    headers = message.get("headers") if isinstance(message, dict) else None
    return headers if isinstance(headers, dict) else {}


def eta_of(headers: dict[str, Any]) -> float | None:
    """Return the eta of a message in seconds since the epoch, if it has one."""
    eta = headers.get("eta")
    if not isinstance(eta, str):
        return None
    try:
        moment = datetime.fromisoformat(eta)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError: also bytes that are no text
        return None

"""What a task raises to say whether another attempt makes sense."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


class TransientError(Exception):
    """The attempt failed for a reason that may pass: try again later.

    Attributes:
        retry_after: Seconds that the other side asked to wait; None when it did not say.
    """

    def __init__(self, *arguments: object, retry_after: float | None = None) -> None:
        super().__init__(*arguments)
        self.retry_after = retry_after


class PermanentError(Exception):
    """The work cannot succeed, however often it is tried: do not retry."""


class SupersededError(Exception):
    """This attempt may not commit: the delivery was cancelled, or another attempt has taken it.

    Raised by ``run_once`` before the effect is made. Let it through: nothing is left to do.
    """


def retry_after_seconds(header: str) -> float | None:
    """Read an HTTP ``Retry-After`` header (RFC 9110 §10.2.3): seconds, or a date.

    Returns:
        Seconds from now, 0 or more; None when the header is malformed.
    """
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())

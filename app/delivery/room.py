"""Whether the broker has room: a full Redis refuses what needs memory, and gives out the rest."""

from __future__ import annotations

from typing import Final

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError

logger = structlog.get_logger(__name__)

#: What Redis says of a transaction or a script that it ends for this reason, with another code.
_REFUSAL: Final = "command not allowed when used memory > 'maxmemory'"

_is_full = False


class FullBrokerError(RedisConnectionError):
    """The broker has no room for what must be written first: as good as away, and survived so."""


def survive(error: ResponseError) -> None:
    """Note that Redis has refused something because it is full; only the first time is logged.

    Raises:
        ResponseError: The error given, which means something else.
    """
    global _is_full  # noqa: PLW0603 - what is known of the broker is known of the process
    if not isinstance(error, OutOfMemoryError) and _REFUSAL not in str(error):
        raise error
    if not _is_full:
        _is_full = True
        logger.warning("broker_is_full", error=str(error)[:300])


def granted() -> None:
    """Note that something was stored: there is room, again."""
    global _is_full  # noqa: PLW0603 - as above
    if _is_full:
        _is_full = False
        logger.warning("broker_has_room_again")

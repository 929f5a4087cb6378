"""The broker's Redis, for those who look at it without kombu."""

from __future__ import annotations

from typing import Final

from django.conf import settings
from redis import Redis

#: Seconds after which a broker that does not answer counts as away.
TIMEOUT_SECONDS: Final = 2.0


def client(*, timeout: float = TIMEOUT_SECONDS) -> Redis:
    """Return a client that connects when it is used, and gives up after so many seconds."""
    return Redis.from_url(
        settings.CELERY_BROKER_URL,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
    )

"""What Redis holds at this moment: one pipeline for each scrape, whatever the length of the queues.

The names of keys are those of kombu 5.7's Redis transport.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from delivery.queue_lists import PRIORITY_STEPS, lists_of
from exporter.messages import waits_since

#: Seconds for an answer of the broker; a healthy one needs a thousandth. A connection that has
#: broken since the last scrape is opened again once, so that a failure takes twice as long.
TIMEOUT_SECONDS: Final = 1.5
#: Messages at the head of each list whose time is looked at: one that goes next but is not due yet
#: must not hide those behind it.
HEADS: Final = 10

UNACKED: Final = "unacked"
UNACKED_INDEX: Final = "unacked_index"


def client(url: str) -> Redis:
    """Return a client that keeps its connections and gives up after ``TIMEOUT_SECONDS``."""
    return Redis.from_url(
        url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1),
        # Nothing is said but what the account may say: no CLIENT SETINFO, no HELLO.
        protocol=2,
        driver_info=None,
        client_name=None,
    )


@dataclass(frozen=True, slots=True)
class QueueReading:
    """One queue.

    Attributes:
        lengths: Messages by priority step.
        oldest: Age in seconds of the oldest message at the heads of its lists; 0 for an empty
            queue, None if no message there says when it was published.
    """

    lengths: dict[int, int]
    oldest: float | None


@dataclass(frozen=True, slots=True)
class BrokerReading:
    """What the broker holds.

    Attributes:
        queues: By name.
        unacked: Messages in the hands of workers.
        unacked_oldest: Seconds since the oldest of them was delivered; 0 without any.
        unacked_past_visibility: Those delivered longer ago than the visibility timeout.
    """

    queues: dict[str, QueueReading]
    unacked: int
    unacked_oldest: float
    unacked_past_visibility: int


def read(redis: Redis, queues: Iterable[str], visibility_timeout: float) -> BrokerReading:
    """Ask the broker, in one round trip.

    Args:
        redis: The broker.
        queues: Names of the queues to look at.
        visibility_timeout: Seconds after which an unacknowledged message is delivered again.

    Raises:
        RedisError: The broker is away, slow, or refuses.
    """
    now = time.time()
    names = list(dict.fromkeys(queues))
    pipeline = redis.pipeline(transaction=False)
    for name in names:
        for key in lists_of(name):
            pipeline.llen(key)
            pipeline.lrange(key, -HEADS, -1)
    pipeline.zcard(UNACKED_INDEX)
    pipeline.zrange(UNACKED_INDEX, 0, 0, withscores=True)
    pipeline.zcount(UNACKED_INDEX, "-inf", now - visibility_timeout)
    *lists, unacked, oldest, past = pipeline.execute()

    answers = iter(lists)
    readings = {}
    for name in names:
        lengths: dict[int, int] = {}
        heads: list[bytes] = []
        for step in PRIORITY_STEPS:
            lengths[step] = next(answers)
            heads += next(answers)
        readings[name] = QueueReading(lengths, _oldest(heads, now))
    return BrokerReading(readings, unacked, _age(oldest, now), past)


def _oldest(heads: Iterable[bytes], now: float) -> float | None:
    messages = list(heads)
    if not messages:
        return 0.0
    moments = [moment for message in messages if (moment := waits_since(message)) is not None]
    return max(0.0, now - min(moments)) if moments else None


def _age(scored: list[tuple[Any, float]], now: float) -> float:
    return max(0.0, now - scored[0][1]) if scored else 0.0

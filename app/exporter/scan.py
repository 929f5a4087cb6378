"""What a scrape has no time for: the messages in the hands of workers, and who is bound to what.

A thread looks every minute. One that fails is repeated soon, and leaves no numbers behind.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import structlog
from redis import Redis

from exporter.broker import UNACKED, UNACKED_INDEX
from exporter.messages import eta_of, unacknowledged

logger = structlog.get_logger(__name__)

#: Messages that one scan looks at; parsing them costs some 0.2 s. Far more than workers hold,
#: except where thousands wait for their eta, which is what this finds.
LIMIT: Final = 5000
#: Messages for each answer of the broker, which answers nobody else meanwhile.
PAGE: Final = 250
#: Keys that one search for bindings looks at; a broker has a few for each queue.
KEYS_LIMIT: Final = 20_000
#: Queues beside those of the table that are reported. Each costs series.
QUEUES_LIMIT: Final = 50
#: Seconds until a scan that failed is repeated.
RETRY_SECONDS: Final = 5.0
#: Seconds without a turn after which the thread counts as stuck: a scan ends long before.
STUCK_AFTER_SECONDS: Final = 120.0

#: kombu's sets of bindings, by exchange: members are routing key, pattern, queue.
BINDINGS: Final = "_kombu.binding."
BINDING_SEPARATOR: Final = b"\x06\x16"
#: Exchanges whose queues are no work: control commands, their answers, events.
NO_WORK: Final = (".pidbox", "celeryev")


@dataclass(frozen=True, slots=True)
class Scan:
    """What one scan found.

    Attributes:
        queues: Queues that somebody has bound, in the table or not.
        waiting: Messages that wait for their eta, by queue.
        beyond: Those whose eta is later than they will be handed to another worker.
        truncated: Whether there were more messages than ``LIMIT``.
        seconds: How long it took.
        at: When it ended, in seconds since the epoch.
    """

    queues: frozenset[str]
    waiting: Mapping[str, int]
    beyond: Mapping[str, int]
    truncated: bool
    seconds: float
    at: float = field(default_factory=time.time)


def scan(redis: Redis, visibility_timeout: float, *, limit: int = LIMIT) -> Scan:
    """Look at what workers hold, and at the bindings.

    Raises:
        RedisError: The broker is away, slow, or refuses.
    """
    began = time.monotonic()
    now = time.time()
    queues = frozenset(bound_queues(redis))
    waiting: Counter[str] = Counter()
    beyond: Counter[str] = Counter()
    seen, cursor = 0, 0
    while True:
        page: Any
        cursor, page = redis.hscan(UNACKED, cursor, count=PAGE)
        for tag, delivered, entry in _with_moments(redis, page):
            seen += bool(tag)
            headers, queue = unacknowledged(entry)
            eta = eta_of(headers)
            if eta is not None and eta > now:
                waiting[queue] += 1
                beyond[queue] += eta > (delivered or now) + visibility_timeout
        if not cursor or seen >= limit:
            break
    return Scan(queues, waiting, +beyond, bool(cursor), time.monotonic() - began)


def _with_moments(
    redis: Redis, page: Mapping[bytes, bytes]
) -> Iterator[tuple[bytes, float | None, bytes]]:
    """Yield tag, time of delivery and entry of each message of a page."""
    if page:
        moments: Any = redis.zmscore(UNACKED_INDEX, cast("list[str]", list(page)))
        for (tag, entry), moment in zip(page.items(), moments, strict=True):
            yield tag, moment, entry


def bound_queues(redis: Redis) -> set[str]:
    """Return the queues that somebody has bound to an exchange: also those that nobody reads."""
    found: set[str] = set()
    looked_at, cursor = 0, 0
    while True:
        keys: Any
        cursor, keys = redis.scan(cursor, match=f"{BINDINGS}*", count=1000)
        looked_at += 1000
        for key in keys:
            exchange = key.decode("utf-8", "replace").removeprefix(BINDINGS)
            if exchange.endswith(NO_WORK):
                continue
            members: Any = redis.smembers(key)
            found |= {
                member.rpartition(BINDING_SEPARATOR)[2].decode("utf-8", "replace")
                for member in members
            }
        if not cursor or looked_at >= KEYS_LIMIT:
            return found


class Scanner:
    """Scans in a thread of its own, and keeps what the last scan found."""

    def __init__(self, redis: Redis, visibility_timeout: float, interval: float) -> None:
        """Take a client of its own, and two times in seconds; nothing runs yet."""
        self._redis = redis
        self._visibility_timeout = visibility_timeout
        self._interval = interval
        self._turned_at = time.monotonic()
        self._ended = threading.Event()
        self.last: Scan | None = None
        self.succeeded_at = 0.0

    def start(self) -> None:
        """Start the thread; it ends with the process."""
        threading.Thread(target=self._run, name="scan", daemon=True).start()

    def stop(self) -> None:
        """Have the thread end after its turn."""
        self._ended.set()

    @property
    def is_stuck(self) -> bool:
        """Whether the thread has stopped turning."""
        allowed = self._interval + STUCK_AFTER_SECONDS
        return time.monotonic() - self._turned_at > allowed

    def _run(self) -> None:
        while not self._ended.is_set():
            self._turned_at = time.monotonic()
            self._ended.wait(self._interval if self.turn() else RETRY_SECONDS)

    def turn(self) -> bool:
        """Scan once; returns whether the broker answered."""
        try:
            found = scan(self._redis, self._visibility_timeout)
        except Exception as error:  # noqa: BLE001 - the thread goes on, whatever it met
            if self.last is not None:
                logger.warning("scan_failed", error=repr(error))
            self.last = None
            return False
        self.last, self.succeeded_at = found, found.at
        return True

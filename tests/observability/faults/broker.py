"""What breaks in Redis."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from redis import Redis

from tests.observability.faults.fault import Fault, expected, repeating, stopped
from tests.observability.victim import Victim

#: A database of the server that nobody uses.
FOREIGN_DATABASE = 5
#: Bytes of a foreign key.
KEY_BYTES = 20_000
#: Messages when Redis is emptied: twice as many as there are pool processes (conftest.py).
MESSAGES = 12


@contextmanager
def _too_little_memory(victim: Victim) -> Iterator[None]:
    """Share the server with a cache: it may evict, and is full.

    Only the cache's own keys may go (volatile-lru), so that the fault loses no message of ours.
    """
    cache = Redis.from_url(victim.target.broker_url, db=FOREIGN_DATABASE)
    numbers = iter(range(1_000_000))

    def fill() -> None:
        for _ in range(20):
            cache.set(f"cached:{next(numbers)}", "x" * KEY_BYTES, ex=600)

    for _ in range(30):
        fill()
    usual = victim.redis.config_get("maxmemory*")
    used = int(victim.redis.info("memory")["used_memory"])
    victim.redis.config_set("maxmemory-policy", "volatile-lru")
    victim.redis.config_set("maxmemory", used)
    try:
        with repeating(fill):
            yield
    finally:
        cache.flushdb()
        for name in ("maxmemory", "maxmemory-policy"):
            victim.redis.config_set(name, str(usual[name]))


@contextmanager
def _too_few_clients(victim: Victim) -> Iterator[None]:
    """Have the server refuse connections for a moment: its exporter cannot ask it meanwhile."""
    most = str(victim.redis.config_get("maxclients")["maxclients"])
    victim.redis.config_set("maxclients", 1)
    port = int(victim.stack.values["REDIS_PORT"])
    with ExitStack() as connections:
        for _ in range(10):
            refused = socket.create_connection(("127.0.0.1", port), timeout=5)
            assert b"max number of clients" in connections.enter_context(refused).recv(100)
    victim.redis.config_set("maxclients", most)
    yield


@contextmanager
def _cannot_save(victim: Victim) -> Iterator[None]:
    """Put something where the snapshot belongs, so that it cannot be moved there."""
    obstacle = victim.stack.state / "redis" / "dump.rdb"
    (obstacle / "in the way").mkdir(parents=True)
    victim.redis.bgsave()
    try:
        yield
    finally:
        (obstacle / "in the way").rmdir()
        obstacle.rmdir()
        victim.redis.bgsave()


@contextmanager
def _emptied(victim: Victim) -> Iterator[None]:
    """Take messages away that wait behind others: only the relay can bring these back.

    It looks every two seconds. Without open work it has nothing to say.
    """
    victim.publish("causes.sleep", MESSAGES, seconds=3.0)
    victim.redis.flushall()
    yield


DOWN = Fault("Redis is stopped", lambda victim: stopped(victim, "redis"), (expected("RedisDown"),))
FULL = Fault(
    "a cache fills Redis up to maxmemory, with a policy that evicts",
    _too_little_memory,
    (
        expected("RedisBrokerEvicting"),
        expected("RedisBrokerWrongPolicy", maxmemory_policy="volatile-lru"),
        expected("RedisMemoryHigh"),
    ),
)
TOO_FEW_CLIENTS = Fault(
    "maxclients of Redis is reached", _too_few_clients, (expected("RedisRejectedConnections"),)
)
CANNOT_SAVE = Fault(
    "Redis cannot write its snapshot", _cannot_save, (expected("RedisPersistenceFailing"),)
)
EMPTIED = Fault("Redis is emptied (FLUSHALL)", _emptied, (expected("CeleryBrokerLostItsData"),))

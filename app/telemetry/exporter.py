"""The celery-exporter role: what the broker holds, as Prometheus metrics.

Reads Redis only, in one pipeline for each scrape; it never asks the workers. ``/metrics`` always
answers: a broker that is down is ``celery_broker_up 0``, not a failed scrape.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from delivery.broker import client

#: Lists in which kombu's Redis transport keeps one queue: one for each priority step, the first
#: under the queue's own name (kombu.transport.redis.Channel.priority_steps and .sep).
PRIORITY_STEPS: Final = (0, 3, 6, 9)
PRIORITY_SEPARATOR: Final = "\x06\x16"


def lists_of(queue: str) -> list[str]:
    """Return the names of the Redis lists that hold a queue's messages."""
    return [f"{queue}{PRIORITY_SEPARATOR}{step}" if step else queue for step in PRIORITY_STEPS]


class BrokerCollector(Collector):
    """Queue lengths (all priorities) and unacknowledged messages, read at each scrape."""

    def __init__(self, redis: Redis, wait_targets: dict[str, int]) -> None:
        """Take a client with short time-outs, and each queue's wait target in seconds."""
        self._redis = redis
        self._wait_targets = wait_targets

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics of this moment."""
        up = GaugeMetricFamily("celery_broker_up", "1 when the broker answered this scrape.")
        target = GaugeMetricFamily(
            "celery_queue_slo_seconds",
            "Seconds that a message of the queue may wait.",
            labels=["queue_name"],
        )
        for queue, seconds in self._wait_targets.items():
            target.add_metric([queue], seconds)
        yield target
        try:
            lengths, unacknowledged = self._read()
        except RedisError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        length = GaugeMetricFamily(
            "celery_queue_length",
            "Messages that wait in the queue, all priorities.",
            labels=["queue_name"],
        )
        for queue, count in lengths.items():
            length.add_metric([queue], count)
        yield length
        unacked = GaugeMetricFamily(
            "celery_broker_unacked", "Messages delivered to workers and not yet acknowledged."
        )
        unacked.add_metric([], unacknowledged)
        yield unacked

    def _read(self) -> tuple[dict[str, int], int]:
        pipeline = self._redis.pipeline(transaction=False)
        for queue in self._wait_targets:
            for name in lists_of(queue):
                pipeline.llen(name)
        pipeline.hlen("unacked")
        *counts, unacknowledged = pipeline.execute()
        per_queue = len(PRIORITY_STEPS)
        lengths = {
            queue: sum(counts[index * per_queue : (index + 1) * per_queue])
            for index, queue in enumerate(self._wait_targets)
        }
        return lengths, unacknowledged


def serve(redis: Redis, wait_targets: dict[str, int], *, address: str, port: int) -> Any:
    """Serve ``/metrics`` in a thread; returns the server and its thread."""
    registry = CollectorRegistry()
    registry.register(BrokerCollector(redis, wait_targets))
    return start_http_server(port, addr=address, registry=registry)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    from django.conf import settings  # noqa: PLC0415 - after the module's name is set

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server, _thread = serve(
        client(),
        settings.QUEUE_WAIT_TARGETS,
        address=settings.BIND_HOST,
        port=settings.EXPORTER_PORT,
    )
    stopped.wait()
    server.shutdown()


if __name__ == "__main__":
    main()

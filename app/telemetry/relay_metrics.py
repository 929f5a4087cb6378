"""What a relay says of its rounds, to its probe and in its metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from celery import Celery
from prometheus_client import CollectorRegistry

from delivery.ledger import Message
from delivery.models import Delivery
from delivery.relay import Observer
from telemetry import heartbeat
from telemetry.instruments import counter, gauge
from telemetry.sent_messages import our_tasks


class RelayMetrics(Observer):
    """Notes what a relay does; every counter begins at 0."""

    def __init__(self, app: Celery[Any], registry: CollectorRegistry) -> None:
        self._last_round = gauge("celery_relay_last_round_timestamp_seconds", registry)
        self._published = counter("celery_relay_published_total", registry)
        self._failures = counter("celery_relay_round_failures_total", registry)
        self._unpublishable = counter("celery_relay_unpublishable_total", registry)
        self._data_losses = counter("celery_relay_broker_data_losses_total", registry)
        for queue in app.amqp.queues:
            self._published.labels(queue)
        # An end that no worker sees: each attempt looked like one that is made again.
        self._ended = counter("celery_sli_execution_total", registry)
        for name, queue in our_tasks(app):
            self._unpublishable.labels(name)
            self._ended.labels(name, queue)

    def alive(self) -> None:
        """Note it for the probe."""
        heartbeat.note(heartbeat.RELAYING)

    def round_finished(self) -> None:
        """Note when."""
        self._last_round.set_to_current_time()

    def round_failed(self) -> None:
        """Count it."""
        self._failures.inc()

    def published(self, messages: Sequence[Message]) -> None:
        """Count them by queue."""
        for queue, number in Counter(message.queue for message in messages).items():
            self._published.labels(queue).inc(number)

    def set_aside(self, messages: Sequence[Message]) -> None:
        """Count them by task."""
        for name, number in Counter(message.task for message in messages).items():
            self._unpublishable.labels(name).inc(number)

    def buried(self, deliveries: Sequence[Delivery]) -> None:
        """Count them as ends, none of them good."""
        for delivery in deliveries:
            self._ended.labels(delivery.task, delivery.queue).inc()

    def broker_lost_its_data(self) -> None:
        """Count it."""
        self._data_losses.inc()

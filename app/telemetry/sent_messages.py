"""Counts the messages of tasks that this process publishes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery, signals
from prometheus_client import CollectorRegistry

from delivery import publishing
from delivery.ledger import Message
from telemetry.instruments import counter


def our_tasks(app: Celery[Any]) -> list[tuple[str, str]]:
    """Return name and queue of each task that the code has, but for Celery's own."""
    app.loader.import_default_modules()
    return [
        (name, str(app.amqp.router.route({}, name)["queue"].name))
        for name in sorted(app.tasks)
        if not name.startswith("celery.")
    ]


def count(app: Celery[Any], registry: CollectorRegistry) -> None:
    """Count from now on; each task begins at 0. Once in a process."""
    sent = counter("celery_task_sent_total", registry)
    for labels in our_tasks(app):
        sent.labels(*labels)

    def count_durable(messages: Sequence[Message], **_: Any) -> None:
        for message in messages:
            sent.labels(message.task, message.queue).inc()

    def count_plain(
        sender: str, routing_key: str, headers: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        # Those of the ledger are counted above, once the broker has them.
        if not (headers or {}).get("durable"):
            sent.labels(sender, routing_key).inc()

    publishing.published.connect(count_durable, weak=False)
    signals.after_task_publish.connect(count_plain, weak=False)

"""From the ledger to the broker. A message only rings: what it says is in the ledger already."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import structlog
from celery import current_app
from django.db import transaction
from django.dispatch import Signal
from kombu.exceptions import BatchPublishError, OperationalError  # type: ignore[attr-defined]
from redis.exceptions import RedisError

from delivery import origin
from delivery.ledger import Message

logger = structlog.get_logger(__name__)

#: What it looks like when the broker is away, slow, or gone in the middle.
BROKER_ERRORS: Final = (OperationalError, BatchPublishError, RedisError, OSError)
#: After a failure a process leaves publishing to the relay for so many seconds, so that a broker
#: that is down or frozen costs one time-out, not one for each task.
QUIET_SECONDS: Final = 5.0

#: Sent when the broker has taken messages of deliveries (``messages``: a sequence). Celery's own
#: ``after_task_publish`` comes too early for a batch, which may still fail.
published = Signal()
#: Sent when messages were left to the relay (``messages``), because the broker is away or slow.
left_to_the_relay = Signal()

_quiet_until = 0.0


def publish(messages: Sequence[Message]) -> None:
    """Publish messages; more than one go to the broker in one round trip.

    A broker that is frozen costs one time-out (``BROKER_SOCKET_TIMEOUT_SECONDS``).

    Raises:
        Exception: The broker is away or does not answer. Some messages may have been published.
    """
    with current_app.producer_or_acquire() as producer:
        if len(messages) == 1:
            _send(messages[0], producer)
        else:
            with producer.batch():
                for message in messages:
                    _send(message, producer)
    published.send_robust(sender=None, messages=messages)


def publish_after_commit(messages: Sequence[Message]) -> None:
    """Publish once the transaction has committed; nothing after a rollback.

    A broker that is away neither fails nor holds up the caller: the relay publishes later.
    """
    if messages:
        transaction.on_commit(partial(publish_or_leave, messages), robust=True)


def publish_or_leave(messages: Sequence[Message]) -> None:
    """Publish, or leave it to the relay."""
    global _quiet_until  # noqa: PLW0603 - of this process
    if time.monotonic() < _quiet_until:
        left_to_the_relay.send_robust(sender=None, messages=messages)
        return
    try:
        publish(messages)
    except Exception as error:  # noqa: BLE001 - whatever it is, the ledger has the work
        _quiet_until = time.monotonic() + QUIET_SECONDS
        logger.warning("publishing_left_to_the_relay", count=len(messages), error=repr(error)[:300])
        left_to_the_relay.send_robust(sender=None, messages=messages)


def _send(message: Message, producer: Any) -> None:
    task: Any = current_app.tasks[message.task]
    # Of whoever asked for the work, also when the relay publishes much later.
    with origin.restored(message.options):
        task.publish(message, producer)

"""The relay: publishes what is due and was not published, or whose message or worker was lost.

Any number may run; each takes rows that no other one has in hand. It asks the broker nothing but
what waits at the head of each queue, and keeps a bookmark there: a broker without it has lost its
data, and everything that it held is published again.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import structlog
from celery import Celery
from django.db import (
    DatabaseError,
    InterfaceError,
    close_old_connections,
    connection,
    connections,
)
from kombu.transport.redis import Channel

from delivery import broker, ledger, publishing
from delivery.ledger import Message
from delivery.models import Delivery

logger = structlog.get_logger(__name__)

#: Rows that are decided on, and messages that are published, in one go.
BATCH: Final = 200
#: Seconds between two looks when nobody says that something is due. Also how fast it notices that
#: the broker has lost its data.
POLL_SECONDS: Final = 2.0
SHORTEST_PAUSE_SECONDS: Final = 0.1
#: Longest pause in seconds after an error.
MAXIMUM_PAUSE_SECONDS: Final = 10.0
#: Seconds that clocks may differ before a message counts as one that lies about its time.
CLOCK_TOLERANCE_SECONDS: Final = 60.0
#: In the broker's database; gone when its data is gone.
BOOKMARK: Final = "celeriac-relay-bookmark"
#: What cannot be published is tried again so often, and is a dead letter when it is so old.
UNPUBLISHABLE_PAUSE_SECONDS: Final = 60.0
UNPUBLISHABLE_PATIENCE_SECONDS: Final = 3600.0


class Observer:
    """Is told what a relay does: for probes and metrics. This one does not listen."""

    def alive(self) -> None:
        """Note that a round begins; comes at most some seconds apart."""

    def round_finished(self) -> None:
        """Note that a round ended without an error."""

    def round_failed(self) -> None:
        """Note that a round ended in an error."""

    def published(self, messages: Sequence[Message]) -> None:
        """Note what the broker has taken."""

    def set_aside(self, messages: Sequence[Message]) -> None:
        """Note what cannot be published, at least not by this relay."""

    def buried(self, deliveries: Sequence[Delivery]) -> None:
        """Note what this relay has made dead letters: their workers died, or no code has them."""

    def broker_lost_its_data(self) -> None:
        """Note that everything open is published again."""


class Relay:
    """Publishes what is due until it is told to stop.

    Args:
        app: The Celery app, with all tasks.
        observer: Is told what happens.
    """

    def __init__(self, app: Celery[Any], observer: Observer | None = None) -> None:
        app.loader.import_default_modules()
        self._app = app
        self._observer = observer or Observer()
        self._stopped = threading.Event()
        self._broker = broker.client()
        # kombu keeps a list for each priority; the first has the queue's own name.
        self._lists = [
            (queue, f"{queue}{Channel.sep}{step}" if step else queue)
            for queue in app.amqp.queues
            for step in Channel.priority_steps
        ]

    def stop(self) -> None:
        """End after the current round; may be called by a signal handler."""
        self._stopped.set()

    def run(self) -> None:
        """Publish until ``stop`` is called. Survives the loss of the database and of the broker."""
        pause = 0.5
        while not self._stopped.is_set():
            self._observer.alive()
            try:
                seen = self.round()
                self._observer.round_finished()
                if seen < BATCH:
                    self._wait()
                pause = 0.5
            except Exception as error:  # noqa: BLE001 - whatever it is: the next round may work
                logger.warning("relay_round_failed", error=repr(error)[:500])
                self._observer.round_failed()
                _drop_broken_connections(error)
                self._stopped.wait(pause)
                # At most what a probe forgives.
                pause = min(pause * 2, MAXIMUM_PAUSE_SECONDS)

    def round(self) -> int:
        """Decide once on what is due, and publish; returns how many rows were looked at.

        Raises:
            Exception: The database or the broker is away. Nothing is lost by it.
        """
        # The broker first: while it is away or full, rows stay as they are.
        heads = self._look_at_the_broker()
        seen, messages, buried = ledger.take_due(heads, BATCH)
        self._observer.buried(buried)
        known = [message for message in messages if message.task in self._app.tasks]
        unknown = [message for message in messages if message.task not in self._app.tasks]
        if unknown:
            self._set_aside(unknown, "No code has a task of this name.")
        if known:
            self._publish(known)
            logger.info("relay_published", count=len(known))
        return seen

    def _publish(self, messages: list[Message]) -> None:
        try:
            self._publish_at_once(messages)
        except publishing.BROKER_ERRORS:
            raise
        except Exception:  # noqa: BLE001 - one of them may be to blame, and not the others
            for message in messages:
                try:
                    self._publish_at_once([message])
                except publishing.BROKER_ERRORS:
                    raise
                except Exception as error:  # noqa: BLE001 - as above
                    self._set_aside([message], f"It cannot be published: {error!r}")

    def _publish_at_once(self, messages: list[Message]) -> None:
        publishing.publish(messages)
        self._observer.published(messages)

    def _look_at_the_broker(self) -> dict[str, float]:
        """Return when the oldest message of each queue was published; empty queues are left out.

        Raises:
            RedisError: The broker is away, or full: it would refuse messages as well.
        """
        pipeline = self._broker.pipeline(transaction=False)
        # Not just looked at: a full broker answers questions.
        pipeline.set(BOOKMARK, time.time(), xx=True)
        for _queue, name in self._lists:
            pipeline.lindex(name, -1)
        has_bookmark, *oldest = pipeline.execute()
        if not has_bookmark:
            again = ledger.dispatch_everything_again()
            self._broker.set(BOOKMARK, time.time())
            if again:
                logger.warning("broker_lost_its_data", deliveries=again)
                self._observer.broker_lost_its_data()
        heads: dict[str, float] = {}
        for (queue, _name), message in zip(self._lists, oldest, strict=True):
            if message is not None:
                moment = _published_at(message)
                heads[queue] = min(heads.get(queue, moment), moment)
        return heads

    def _set_aside(self, messages: list[Message], reason: str) -> None:
        """Try what cannot be published again later, and bury it in the end.

        Not at once: the fault may be this relay's, which may be older than the web process, or have
        the wrong configuration. It must not bury a whole backlog.
        """
        logger.error(
            "relay_cannot_publish", tasks=sorted({message.task for message in messages}),
            count=len(messages), reason=reason,
        )  # fmt: skip
        self._observer.set_aside(messages)
        ids = [message.id for message in messages]
        buried = ledger.bury_dispatched(ids, reason, older_than=UNPUBLISHABLE_PATIENCE_SECONDS)
        self._observer.buried(buried)
        ledger.postpone(ids, UNPUBLISHABLE_PAUSE_SECONDS)

    def _wait(self) -> None:
        """Wait until something is due, somebody says so, or the poll interval has passed."""
        # What is due now and was not taken is in somebody else's hands at this moment.
        seconds = max(ledger.seconds_until_next(POLL_SECONDS), SHORTEST_PAUSE_SECONDS)
        if self._stopped.is_set():
            return
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {ledger.NOTIFY_CHANNEL}")
        session: Any = connection.connection
        for _ in session.notifies(timeout=seconds, stop_after=1):
            return


def _published_at(message: bytes) -> float:
    """Return when a message was published, by the clock of the database, or of a plain publisher.

    Long ago, if it does not say so: until a worker has taken it, nothing behind it counts as lost.
    """
    try:
        moment = float(json.loads(message)["headers"]["enqueued_at"])
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return 0.0
    return moment if moment < time.time() + CLOCK_TOLERANCE_SECONDS else 0.0


def _drop_broken_connections(error: Exception) -> None:
    if isinstance(error, DatabaseError | InterfaceError):
        connections.close_all()
    else:
        close_old_connections()

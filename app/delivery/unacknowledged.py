"""kombu's notes of messages that were taken and are not acknowledged, so that none stops a worker.

Neither an entry that is none, nor a Redis that has no room for another.
"""

from __future__ import annotations

from time import time
from typing import Any

import structlog
from kombu.transport import redis as redis_transport
from kombu.transport import virtual
from kombu.utils import json as kombu_json
from kombu.utils.encoding import bytes_to_str
from redis.exceptions import ResponseError

from delivery import quarantine, room

logger = structlog.get_logger(__name__)

# The published types know only the public part of kombu's classes.
_QoS: Any = redis_transport.QoS
_VirtualQoS: Any = virtual.QoS


class GuardedQoS(_QoS):
    """kombu's notes, with a sweep that no entry can stop, and in this process while Redis is full.

    kombu takes a message and then notes it. A Redis that has reached ``maxmemory`` gives the
    message out and refuses the note; that error ends the worker, and the next one, each time with
    a message lost. Here the message is worked on all the same: that is also what makes room. No
    upstream report found. Remove when ``QoS.append``, ``reject``, ``restore_unacked`` and
    ``restore_visible`` of kombu survive an ``OutOfMemoryError``.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        #: Messages by tag that Redis had no room to note. They are lost with this process.
        self._unnoted: dict[Any, Any] = {}

    def append(self, message: Any, delivery_tag: Any) -> None:
        """Note a message that was taken; without room, in this process only."""
        try:
            super().append(message, delivery_tag)
        except ResponseError as error:
            room.survive(error)
            self._unnoted[delivery_tag] = message
            _VirtualQoS.append(self, message, delivery_tag)
        else:
            room.granted()

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Put a message back or drop it; without room it comes back as from a dead worker."""
        try:
            super().reject(delivery_tag, requeue)
        except ResponseError as error:
            room.survive(error)
            # Its place is free for another one, or rejected messages would block the worker.
            _VirtualQoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Put back all messages, at the end; without room leave them for the sweep of others."""
        try:
            super().restore_unacked(client)
        except ResponseError as error:
            room.survive(error)
            logger.warning(
                "messages_not_put_back", count=len(self._delivered), lost=len(self._unnoted)
            )
            self._delivered.clear()

    def restore_visible(self, *arguments: Any, **options: Any) -> None:
        """Note what there was no room for, and put back what dead workers have left."""
        try:
            for tag, message in list(self._unnoted.items()):
                self._note(tag, message)
            super().restore_visible(*arguments, **options)
        except ResponseError as error:
            room.survive(error)
        else:
            room.granted()

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back into its queue; drop an entry that is none.

        kombu's sweep ends at the first entry it cannot read, and begins with it again next time:
        what lies behind it would never come back.
        """
        if tag in self._unnoted:
            self._note(tag, self._unnoted[tag])
        with self.channel.conn_or_acquire(client) as redis:
            entry = redis.hget(self.unacked_key, tag)
            if entry is None or _is_restorable(entry):
                super().restore_by_tag(tag, redis, leftmost)
            else:
                quarantine.refuse(self.unacked_key, entry, "not an unacknowledged message")
                self._remove_from_indices(tag).execute()

    def _remove_from_indices(self, delivery_tag: Any, pipe: Any = None) -> Any:
        self._unnoted.pop(delivery_tag, None)
        return super()._remove_from_indices(delivery_tag, pipe)

    def _note(self, tag: Any, message: Any) -> None:
        place = message.delivery_info
        entry = kombu_json.dumps([message._raw, place["exchange"], place["routing_key"]])
        with self.pipe_or_acquire() as pipe:
            pipe.zadd(self.unacked_index_key, {tag: time()})
            pipe.hset(self.unacked_key, tag, entry)
            pipe.execute()
        del self._unnoted[tag]


def _is_restorable(entry: bytes) -> bool:
    """Say whether kombu can read [message, exchange, queue]."""
    try:
        message, exchange, queue = kombu_json.loads(bytes_to_str(entry))
    except Exception:  # noqa: BLE001 - decoders of kombu's types raise what they like
        return False
    return isinstance(message, dict) and isinstance(exchange, str) and isinstance(queue, str)

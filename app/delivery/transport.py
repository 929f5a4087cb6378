"""kombu's Redis transport, made so that no message can harm the process that reads it.

kombu takes a message apart, notes it as unacknowledged and hands it to Celery; a part of the wrong
type ends the worker, and the message waits for the next one (14 of 48 malformed messages did that:
celery#7975, open). Here a raw item is verified first. What is refused was taken from the broker
already and goes to the quarantine, never back.

The overridden methods are copies of those of kombu 5.7.0 with that step added, which is why
``celery_guards`` insists on the version. Remove when kombu lets a consumer verify raw messages.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty
from typing import Any

from kombu.transport import redis as redis_transport
from kombu.utils.encoding import bytes_to_str
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from delivery import acceptance, quarantine, room, signing
from delivery.signing import RefusedError
from delivery.unacknowledged import GuardedQoS

# The published types know only the public part of kombu's classes.
_Channel: Any = redis_transport.Channel


class GuardedChannel(_Channel):
    """kombu's Redis channel that verifies each message before anything is made of it."""

    QoS = GuardedQoS

    def _connparams(self, asynchronous: bool = False) -> Any:
        """Turn a crash of the worker's main process into a connection error, which it survives.

        After a lost connection the consumer acknowledges or restores messages on a channel whose
        connection is already closed: ``AttributeError: 'NoneType' object has no attribute
        'hostname'`` ends the worker (8 of 8 trials with tasks of some seconds). No upstream report
        found. Remove when ``Channel._connparams`` of kombu copes with a closed connection.
        """
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("the channel's broker connection is closed")
        return super()._connparams(asynchronous)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Enter a queue in the table of its exchange, if it is not there.

        A full Redis refuses to enter even what is there, so a worker that starts, the only one who
        can make room, would end at its first queue. No upstream report found. Remove when kombu's
        method takes a binding that exists for granted.

        Raises:
            FullBrokerError: It is not there, and Redis has no room for it.
        """
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)
        except ResponseError as error:
            room.survive(error)
            binding = (routing_key or "", pattern or "", queue or "")
            # To a fanout one publishes without the table.
            if queue not in self._fanout_queues and binding not in self.get_table(exchange):
                # Else the next trial of this connection would take it for done.
                self.state.binding_delete(queue, exchange, routing_key)
                raise room.FullBrokerError(str(error)) from error

    def maybe_refresh_binding_expiry(self) -> None:
        """Keep alive the tables that expire, if there is room; kombu tries again each second.

        Its own answer to a full Redis is a traceback in the log each time.
        """
        try:
            super().maybe_refresh_binding_expiry()
        except ResponseError as error:
            room.survive(error)

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Any = None,
        properties: Any = None,
    ) -> Any:
        """Prepare a message for publication.

        Raises:
            ValueError: It is a task that every worker would refuse.
        """
        if content_type == signing.CONTENT_TYPE and "task" in (headers or {}):
            acceptance.check_publishable(headers)
        return super().prepare_message(
            body, priority, content_type, content_encoding, headers, properties
        )

    def close(self) -> None:
        """Close the channel, and have the event loop forget its sockets first.

        kombu closes them behind the poller's back. After a control command that failed, Celery
        opens its mailbox anew, and the loop still takes the old descriptor for it. The next pool
        process gets that number, and what it says is never read: its task never ends. No upstream
        report found. Remove when ``MultiChannelPoller.discard`` forgets a channel's sockets.
        """
        if self.connection is not None:
            cycle = self.connection.cycle
            for key, socket in list(cycle._chan_to_sock.items()):
                if key[0] is self and cycle._fd_to_chan.pop(socket.fileno(), None):
                    cycle._unregister_from_poll(socket.fileno())
                    del cycle._chan_to_sock[key]
        super().close()

    def _brpop_read(self, **options: Any) -> bool:
        """Read the answer to BRPOP, the way in of all queues."""
        try:
            try:
                popped = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                # The next turn of the loop connects again.
                self.client.connection.disconnect()
                raise
            if not popped:
                raise Empty
            name, raw = popped
            queue = bytes_to_str(name).rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            message = self._popped(queue, raw)
            if message is None:
                raise Empty
            self.connection._deliver(message, queue)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _get(self, queue: str) -> Any:
        """Pop a message without waiting (``basic_get``)."""
        with self.conn_or_acquire() as client:
            for priority in self.priority_steps:
                while raw := client.rpop(self._q_for_pri(queue, priority)):
                    message = self._popped(queue, raw)
                    if message is not None:
                        self._maybe_update_queues_expire(client, queue)
                        return message
            self._maybe_update_queues_expire(client, queue)
        raise Empty

    def _receive_one(self, c: Any) -> bool | None:
        """Read one broadcast: a control command or events."""
        try:
            response = c.parse_response()
        except self.connection_errors:
            self._in_listen = None
            raise
        if not isinstance(response, (list, tuple)):
            return None
        published = self._handle_message(c, response)
        if not bytes_to_str(published["type"]).endswith("message") or not published["data"]:
            return None
        topic = published["channel"].decode("utf-8", "replace")
        if topic.startswith("/"):
            topic = topic.partition(".")[2]
        exchange = topic.split("/", 1)[0]
        message = self._broadcast(exchange, published["data"])
        return None if message is None else self._deliver_fanout_message(message, exchange)

    def _popped(self, queue: str, raw: bytes) -> dict[str, Any] | None:
        """Return the message of an item that was popped; None if it was refused."""
        accept = acceptance.reply if queue.endswith(".pidbox") else acceptance.task
        return _accepted_or_refused(queue, raw, lambda: accept(raw, queue))

    def _broadcast(self, exchange: str, raw: bytes) -> dict[str, Any] | None:
        """Return the message of a broadcast; None if it was refused."""

        def accept() -> dict[str, Any]:
            receiver = self._fanout_to_queue.get(exchange)
            if receiver is None:
                raise RefusedError("a broadcast that nobody here has asked for")
            if exchange.endswith(".pidbox"):
                return acceptance.command(raw, exchange, receiver)
            return acceptance.event(raw, exchange)

        return _accepted_or_refused(exchange, raw, accept)


def _accepted_or_refused(
    place: str, raw: bytes, accept: Callable[[], dict[str, Any]]
) -> dict[str, Any] | None:
    try:
        return accept()
    except RefusedError as error:
        quarantine.refuse(place, raw, str(error))
        return None


def install() -> None:
    """Use the guarded channel for every Redis connection of this process."""
    redis_transport.Transport.Channel = GuardedChannel
    signing.install()

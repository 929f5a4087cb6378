"""Live progress: a WebSocket sends the job first as it is, then after each change.

Messages between processes only say "look again"; what is sent is always the row. So a lost
message costs a moment, never the truth, and the last state always arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import structlog
from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.db import DatabaseError, transaction

from jobs.models import Job

logger = structlog.get_logger(__name__)

#: Seconds a task may lose on telling others of its progress.
ANNOUNCE_TIMEOUT_SECONDS: Final = 1.0
#: At most ten messages a second to a client.
SHORTEST_INTERVAL_SECONDS: Final = 0.1
#: Seconds before a database or channel layer that is away is asked again.
RETRY_SECONDS: Final = 1.0
#: How often the row is read although nobody said that it changed (the channel layer may be down).
POLL_SECONDS: Final = 5.0

Identify = Callable[[dict[str, Any]], str | None]

#: WebSocket close codes of this application (4000 to 4999 are free for use, RFC 6455 §7.4.2).
CLOSE_UNAUTHENTICATED: Final = 4401
CLOSE_NOT_FOUND: Final = 4404


def group_of(job_id: UUID | str) -> str:
    """Return the name of the channel group of those who watch a job."""
    return f"job.{job_id}"


def announce(job_id: UUID) -> None:
    """Tell those who watch a job that it changed, once the change is committed.

    Never slows or fails the caller: a channel layer that is down or slow is given one second, and
    its error is logged.
    """

    def send() -> None:
        try:
            async_to_sync(_send)(group_of(job_id))
        except Exception as error:  # noqa: BLE001 - progress is news, not truth
            logger.info("progress_not_announced", job_id=str(job_id), error=repr(error))

    transaction.on_commit(send, robust=True)


async def _send(group: str) -> None:
    layer = get_channel_layer()
    assert layer is not None  # noqa: S101 - settings define one
    async with asyncio.timeout(ANNOUNCE_TIMEOUT_SECONDS):
        await layer.group_send(group, {"type": "job.changed"})


class JobConsumer(AsyncWebsocketConsumer):
    """``/ws/jobs/{id}``: the job as ``GET /api/jobs/{id}`` shows it, at once and after each change.

    Closes with 1000 after the final state, 4401 without a valid sign-in, 4404 for an unknown job.
    It outlives restarts of the channel layer and of the database.
    """

    # Channels would end the consumer with the layer's first error. It listens by itself instead.
    channel_layer_alias = "none"

    def __init__(self, *, identify: Identify) -> None:
        """Take what returns the caller's name for an ASGI scope, or None (``as_asgi``)."""
        super().__init__()
        self._identify = identify
        self._sender: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Check who asks, then start to send."""
        await self.accept()
        if await database_sync_to_async(self._identify)(self.scope) is None:
            await self.close(CLOSE_UNAUTHENTICATED)
            return
        self._sender = asyncio.create_task(
            self._send_changes(self.scope["url_route"]["kwargs"]["job_id"])
        )

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Ignore what clients send: there is nothing to ask for."""

    async def disconnect(self, _code: int) -> None:
        """Stop to send."""
        if self._sender is not None:
            self._sender.cancel()

    async def _send_changes(self, job_id: UUID) -> None:
        from jobs.api import job_as_json  # noqa: PLC0415 - the API builds on services, they on this

        news = News(group_of(job_id))
        sent = None
        try:
            while True:
                # Before the row is read: what changes after that is then not missed.
                await news.listen()
                try:
                    job = await Job.objects.filter(id=job_id).afirst()
                except DatabaseError as error:
                    logger.warning("progress_not_read", job_id=str(job_id), error=str(error))
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                if job is None:
                    await self.close(CLOSE_NOT_FOUND)
                    return
                now = job_as_json(job)
                if now != sent:
                    await self.send(text_data=now)
                    sent = now
                if not job.is_open:
                    await self.close(1000)
                    return
                await asyncio.sleep(SHORTEST_INTERVAL_SECONDS)
                await news.wait()
        finally:
            await news.forget()


class News:
    """Waits for messages of one channel group, and does without a layer that is away."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._layer: Any = get_channel_layer()
        self._channel: str | None = None

    async def listen(self) -> None:
        """Join the group, unless that is done; without the layer, later."""
        if self._channel is None:
            try:
                channel = await self._layer.new_channel()
                await self._layer.group_add(self._group, channel)
                self._channel = channel
            except Exception as error:  # noqa: BLE001 - polling remains
                logger.info("channel_layer_away", error=repr(error))

    async def wait(self) -> None:
        """Return at the next message, and after ``POLL_SECONDS`` at the latest."""
        if self._channel is None:
            await asyncio.sleep(RETRY_SECONDS)
            return
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._layer.receive(self._channel)
        except TimeoutError:
            pass
        except Exception as error:  # noqa: BLE001 - as above
            logger.info("channel_layer_away", error=repr(error))
            self._channel = None

    async def forget(self) -> None:
        """Leave the group; the layer forgets it by itself after a while."""
        if self._channel is not None:
            with contextlib.suppress(Exception):
                await self._layer.group_discard(self._group, self._channel)

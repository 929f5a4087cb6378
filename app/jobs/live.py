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
from django.db import transaction

from jobs.models import Job

logger = structlog.get_logger(__name__)

#: Seconds a task may lose on telling others of its progress.
ANNOUNCE_TIMEOUT_SECONDS: Final = 1.0
#: At most ten messages a second to a client.
SHORTEST_INTERVAL_SECONDS: Final = 0.1
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
    """

    def __init__(self, *, identify: Identify) -> None:
        """Take what returns the caller's name for an ASGI scope, or None (``as_asgi``)."""
        super().__init__()
        self._identify = identify
        self._changed = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._group: str | None = None

    async def connect(self) -> None:
        """Check who asks, then start to send."""
        await self.accept()
        if await database_sync_to_async(self._identify)(self.scope) is None:
            await self.close(CLOSE_UNAUTHENTICATED)
            return
        job_id: UUID = self.scope["url_route"]["kwargs"]["job_id"]
        if not await Job.objects.filter(id=job_id).aexists():
            await self.close(CLOSE_NOT_FOUND)
            return
        with contextlib.suppress(Exception):  # without the layer, polling remains
            await self.channel_layer.group_add(group_of(job_id), self.channel_name)
            self._group = group_of(job_id)
        self._sender = asyncio.create_task(self._send_changes(job_id))

    async def job_changed(self, _message: dict[str, Any]) -> None:
        """Look again (sent by ``announce``)."""
        self._changed.set()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Ignore what clients send: there is nothing to ask for."""

    async def disconnect(self, _code: int) -> None:
        """Stop to send."""
        if self._sender is not None:
            self._sender.cancel()
        if self._group is not None:
            with contextlib.suppress(Exception):
                await self.channel_layer.group_discard(self._group, self.channel_name)

    async def _send_changes(self, job_id: UUID) -> None:
        from jobs.api import job_as_json  # noqa: PLC0415 - the API builds on services, they on this

        sent = None
        while True:
            self._changed.clear()
            job = await Job.objects.filter(id=job_id).afirst()
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
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._changed.wait()

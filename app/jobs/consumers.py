"""The WebSockets of live progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from channels.generic.websocket import AsyncWebsocketConsumer

from jobs.feeds import feeds
from telemetry import web_metrics

#: Close codes: a valid sign-in is missing; come back, as after a restart of the server (1012 of
#: https://www.iana.org/assignments/websocket). The others are in ``jobs.feeds``.
CLOSE_UNAUTHENTICATED: Final = 4401
CLOSE_COME_BACK: Final = 1012
#: Seconds after which a client has to come back, so that a sign-in that has ended is noticed.
LONGEST_WATCH_SECONDS: Final = 900.0

Identify = Callable[[dict[str, Any]], str | None]


class JobConsumer(AsyncWebsocketConsumer):
    """``/ws/jobs/{id}``, ``/ws/jobs``: jobs as the HTTP API shows them, at once and as they change.

    A job: ``GET /api/jobs/{id}``. The list: ``{"jobs": [the 25 newest]}``, then ``{"job": ...}``
    for each job that is new or changes; ``jobs`` again when the client was too slow. Each job at
    most ten times a second, its last state always.

    Closes with 1000 after a job's final state, 4401 without a valid sign-in, 4404 for an unknown
    job, and 1012 after a quarter of an hour and when the server restarts: then come back.
    """

    # Channels would end the consumer with the layer's first error; jobs.live listens instead.
    channel_layer_alias = "none"

    def __init__(self, *, identify: Identify) -> None:
        """Take what returns the caller's name for an ASGI scope, or None (``as_asgi``)."""
        super().__init__()
        self._identify = identify
        self._sender: asyncio.Task[None] | None = None
        self._opened = contextlib.ExitStack()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one WebSocket. However it ends, it is not open any more then."""
        with self._opened:
            await super().__call__(scope, receive, send)

    async def connect(self) -> None:
        """Check who asks, then start to send."""
        await self.accept()
        if self._identify(self.scope) is None:
            web_metrics.count_refused_socket()
            await self.close(CLOSE_UNAUTHENTICATED)
            return
        self._opened.enter_context(web_metrics.open_socket())
        self._sender = asyncio.create_task(self._send_messages())

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Ignore what clients send: there is nothing to ask for."""

    async def disconnect(self, _code: int) -> None:
        """Stop to send."""
        if self._sender is not None:
            self._sender.cancel()

    async def _send_messages(self) -> None:
        job_id = self.scope["url_route"]["kwargs"].get("job_id")
        code = CLOSE_COME_BACK
        # A client that is gone in the middle of a message is an OSError; disconnect() follows.
        with contextlib.suppress(OSError):
            with feeds.watching(job_id) as watcher, contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_WATCH_SECONDS):
                    async for text in watcher.messages():
                        # Waits for a slow client, and holds up nobody else.
                        await self.send(text_data=text)
                    code = watcher.close_code or code
            await self.close(code)

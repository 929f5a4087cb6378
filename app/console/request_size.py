"""Refuses request bodies that are too large before anything is stored of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from uuid import uuid4

import structlog

from console.errors import error_body

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[..., Awaitable[None]]

logger = structlog.get_logger(__name__)

#: A client that is still sending would not read the answer, so up to this many times the limit
#: is read and thrown away before the connection is closed.
DRAINED_TIMES_LIMIT: Final = 8


class _TooLargeError(Exception):
    """The body went over the limit while it was read."""


class RequestSizeLimit:
    """ASGI middleware: 413 for bodies over a limit. Django alone would write them to disk first."""

    def __init__(self, application: Application, limit: int) -> None:
        """Take the application, and the limit in bytes."""
        self._application = application
        self._limit = limit

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise _TooLargeError
            return message

        if _declared_length(scope) > self._limit:
            await self._refuse(receive, send, received)
            return
        try:
            await self._application(scope, limited_receive, send)
        except _TooLargeError:
            await self._refuse(receive, send, received)

    async def _refuse(self, receive: Receive, send: Send, received: int) -> None:
        while received < self._limit * DRAINED_TIMES_LIMIT:
            message = await receive()
            received += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                break
        # The request never reaches the middleware that would name and log it.
        request_id = str(uuid4())
        logger.warning("request_too_large", request_id=request_id, limit=self._limit)
        explanation = f"The request body is larger than {self._limit} bytes."
        body = json.dumps(error_body(413, explanation, request_id=request_id)).encode()
        await send(
            {
                "type": "http.response.start",
                "status": 413,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode()),
                    (b"connection", b"close"),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})


def _declared_length(scope: MutableMapping[str, Any]) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0

"""Bounds what a request may bring before anything of it is stored: bytes, and from whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from uuid import uuid4

import structlog
from django.conf import settings

from console.authentication import token_holder, token_of_scope
from console.errors import UNAVAILABLE_RETRY_SECONDS, error_body

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[..., Awaitable[None]]

logger = structlog.get_logger(__name__)

#: A client that is still sending would not read the answer, so up to this many times the limit
#: is read and thrown away before the connection is closed.
DRAINED_TIMES_LIMIT: Final = 8
#: Seconds for that.
DRAIN_SECONDS: Final = 10.0
#: Seconds for a whole body: the largest takes 100 s at 1 Mbit/s. A sender that never ends would
#: hold its place for ever.
BODY_SECONDS: Final = 120.0
#: Bytes of an address with its query. What other servers and proxies take at most.
MAXIMUM_ADDRESS_BYTES: Final = 8 * 1024
#: Bytes of all headers. A token, a session and a proxy's headers are less than 4 kB.
MAXIMUM_HEADERS_BYTES: Final = 32 * 1024
#: Bytes of a body outside the API from somebody who is not signed in: a sign-in form is 1 kB.
MAXIMUM_STRANGERS_BYTES: Final = 64 * 1024


class _RefusedError(Exception):
    """The body went over a limit, or took too long, while it was read."""

    def __init__(self, status: int, explanation: str) -> None:
        super().__init__(explanation)
        self.status = status


class RequestSizeLimit:
    """ASGI middleware: refuses what is too large. Django alone would write it to disk first.

    The body of a caller whom the API will answer with 401 is not read at all.
    """

    def __init__(self, application: Application, limit: int, in_flight_limit: int) -> None:
        """Take the application and its limits.

        Args:
            application: Gets what is not refused.
            limit: Bytes of one body.
            in_flight_limit: Bytes of all bodies that this process may hold at the same moment. At
                least one body of the largest size is always let in.
        """
        self._application = application
        self._limit = limit
        self._in_flight_limit = max(in_flight_limit, limit)
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAXIMUM_ADDRESS_BYTES:
            await _answer(send, 414, f"An address may have {MAXIMUM_ADDRESS_BYTES} bytes.")
            return
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAXIMUM_HEADERS_BYTES:
            await _answer(send, 431, f"Headers may have {MAXIMUM_HEADERS_BYTES} bytes in all.")
            return
        if _may_be_known(scope):
            await self._bounded(scope, receive, send, self._limit)
        elif scope["path"].startswith("/api/"):
            await self._application(scope, _without_body(receive), send)
        else:
            await self._bounded(scope, receive, send, min(self._limit, MAXIMUM_STRANGERS_BYTES))

    async def _bounded(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        received = 0
        # None once the body is whole: then the application only waits for the client to leave.
        deadline: float | None = asyncio.get_running_loop().time() + BODY_SECONDS
        too_large = _RefusedError(413, f"The request body is larger than {limit} bytes.")

        async def limited_receive() -> Message:
            nonlocal received, deadline
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise _RefusedError(408, f"The body took over {BODY_SECONDS:g} s.") from None
            if not message.get("more_body"):
                deadline = None
            size = len(message.get("body", b""))
            received += size
            self._in_flight += size
            if received > limit:
                raise too_large
            # Requests without a body, probes above all, are answered however much is under way.
            if size and self._in_flight > self._in_flight_limit:
                raise _RefusedError(503, "Too many uploads at the same moment; try again.")
            return message

        refusal = None
        try:
            if _declared_length(scope) > limit:
                raise too_large
            await self._application(scope, limited_receive, send)
        except _RefusedError as error:
            refusal = error
        finally:
            # Before the rest is thrown away: what is refused holds no place.
            self._in_flight -= received
        if refusal is not None:
            await _drain(receive, limit * DRAINED_TIMES_LIMIT - received)
            await _answer(send, refusal.status, str(refusal), (b"connection", b"close"))


def _may_be_known(scope: Scope) -> bool:
    """Whether the caller has a token that is right, or a session that may be.

    Tokens are compared in memory; a session would cost a query, which is for Django to make.
    """
    token = token_of_scope(scope)  # type: ignore[arg-type]  # a scope is a dictionary
    if token is not None and token_holder(token) is not None:
        return True
    cookie = f"{settings.SESSION_COOKIE_NAME}=".encode()
    return any(name == b"cookie" and cookie in value for name, value in scope["headers"])


def _without_body(receive: Receive) -> Receive:
    """Return what gives an application an empty body at once, however much is sent."""
    given = False

    async def receive_nothing() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while (message := await receive())["type"] != "http.disconnect":
            pass
        return message

    return receive_nothing


async def _drain(receive: Receive, remaining: int) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while remaining > 0:
                message = await receive()
                remaining -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    break


async def _answer(
    send: Send, status: int, explanation: str, *more_headers: tuple[bytes, bytes]
) -> None:
    # The request never reaches the middleware that would name and log it.
    request_id = str(uuid4())
    logger.warning("request_refused", request_id=request_id, status=status, reason=explanation)
    body = json.dumps(error_body(status, explanation, request_id=request_id)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        *more_headers,
    ]
    if status == 503:
        headers.append((b"retry-after", str(UNAVAILABLE_RETRY_SECONDS).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0

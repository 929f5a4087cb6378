"""What happens to a WebSocket before its consumer gets it: origin, sign-in, address."""

from __future__ import annotations

from typing import Any, Final

from channels.auth import AuthMiddleware
from channels.routing import URLRouter
from channels.sessions import CookieMiddleware, SessionMiddleware
from django.conf import settings
from django.urls import URLPattern, re_path

from console.authentication import Application, origin_checked_for_sessions
from console.errors import DATABASE_AWAY
from telemetry import web_metrics

#: First messages to a client that say no; each server answers with an HTTP status.
REFUSALS: Final = ("websocket.close", "websocket.http.response.start")


def web_sockets(routes: list[URLPattern]) -> Application:
    """Return the application that serves these routes.

    Refuses before the socket is open: 403 for other origins (with a session), 404 for other
    addresses, 503 while the database is away. The rest is the consumer's.
    """
    # Django's types know no ASGI applications here.
    anything_else: Any = _no_such_address
    router = URLRouter([*routes, re_path("", anything_else)])
    return _refusals_counted(
        origin_checked_for_sessions(
            CookieMiddleware(_session_keys_checked(SessionMiddleware(AuthMiddleware(router))))
        )
    )


def _refusals_counted(application: Application) -> Application:
    """Count each handshake that is not accepted, whoever refuses it."""

    async def count(scope: dict[str, Any], receive: Any, send: Any) -> None:
        answered = False

        async def watch(message: dict[str, Any]) -> None:
            nonlocal answered
            if not answered and message["type"] in REFUSALS:
                web_metrics.count_refused_socket()
            answered = True
            await send(message)

        await application(scope, receive, watch)

    return count


def _session_keys_checked(application: Application) -> Application:
    """Do what ``SessionKeyMiddleware`` does to requests; answer 503 without a database."""

    async def check(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if not scope["cookies"].get(settings.SESSION_COOKIE_NAME, "").isalnum():
            scope["cookies"].pop(settings.SESSION_COOKIE_NAME, None)
        try:
            await application(scope, receive, send)
        except DATABASE_AWAY:
            # Consumers handle their own: this one comes from the session, before the socket opens.
            await _refuse(send, 503)

    return check


async def _no_such_address(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
    await _refuse(send, 404)


async def _refuse(send: Any, status: int) -> None:
    """Answer the handshake with an HTTP status (an extension of ASGI that uvicorn has)."""
    await send({"type": "websocket.http.response.start", "status": status, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b""})

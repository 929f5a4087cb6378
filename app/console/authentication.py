"""Who may use the API: holders of a token, and staff who are signed in to the console."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any, Final

from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from ninja.errors import HttpError
from ninja.security import APIKeyCookie, HttpBearer
from ninja.utils import check_csrf

from console import rate_limits

Application = Callable[..., Awaitable[None]]

BEARER: Final = "bearer "
#: In front of the name of a token, where callers are stored: a user may have the same name, but
#: no user's name holds a colon (Django's validator).
TOKEN_PREFIX: Final = "token:"  # noqa: S105 - not a token


def token_holder(token: str) -> str | None:
    """Return the name that belongs to a token, with ``TOKEN_PREFIX``, or None.

    Every token is compared in full, so that the time tells nothing about how close a guess was.
    """
    holder = None
    for known, name in settings.API_TOKENS.items():
        if hmac.compare_digest(known.encode(), token.encode("utf-8", "surrogateescape")):
            holder = f"{TOKEN_PREFIX}{name}"
    return holder


def session_holder(user: Any) -> str | None:
    """Return the name of a staff member who is signed in, or None."""
    return user.get_username() if user.is_active and user.is_staff else None


def token_of_scope(scope: dict[str, Any]) -> str | None:
    """Return the bearer token that comes with a WebSocket, or None.

    Other kinds of authorization do not count: a browser sends ``Basic`` for any page that asks.
    """
    for name, value in scope["headers"]:
        text: str = value.decode("latin-1")
        if name == b"authorization" and text.lower().startswith(BEARER):
            return text[len(BEARER) :]
    return None


def caller_of_scope(scope: dict[str, Any]) -> str | None:
    """Return who opens a WebSocket, by the rules of the HTTP API, or None."""
    token = token_of_scope(scope)
    return (token and token_holder(token)) or session_holder(scope["user"])


def origin_checked_for_sessions(application: Application) -> Application:
    """Refuse WebSockets of other origins, unless the caller sends a token.

    A browser sends its cookies for any page, but a token only where our own code does; and callers
    that are no browsers send no origin.
    """
    checked = AllowedHostsOriginValidator(application)

    async def choose(scope: dict[str, Any], receive: Any, send: Any) -> None:
        token = token_of_scope(scope)
        # Only a right one: with a wrong one it is the session that counts.
        chosen = application if token and token_holder(token) else checked
        await chosen(scope, receive, send)

    return choose


class SessionKeyMiddleware:
    """Drops session cookies that cannot be keys: PostgreSQL would refuse them with an error."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        """Take the rest of the chain."""
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a request."""
        if not request.COOKIES.get(settings.SESSION_COOKIE_NAME, "").isalnum():
            request.COOKIES.pop(settings.SESSION_COOKIE_NAME, None)
        return self._get_response(request)


class ApiToken(HttpBearer):
    """``Authorization: Bearer <token>`` with a token of ``API_TOKENS``."""

    openapi_description = "A token of the operator (`API_TOKENS`)."

    def authenticate(self, request: HttpRequest, token: str) -> str | None:
        """Return the name of the token, or None.

        Raises:
            RateLimitedError: The caller asks too often, or its address has sent too many wrong
                tokens.
        """
        holder = token_holder(token)
        if holder is None:
            rate_limits.note_failure(request, rate_limits.TOKEN)
        else:
            rate_limits.admit(holder)
        return holder


class ConsoleSession(APIKeyCookie):
    """The session of a staff member; what changes anything also needs the CSRF token."""

    param_name = settings.SESSION_COOKIE_NAME
    openapi_description = (
        "The session of a staff member who is signed in to the console. What changes anything also "
        "needs the CSRF token, in `X-CSRFToken`."
    )

    def __init__(self) -> None:
        # Checked below, and only for callers that have a session: others get 401, not 403.
        super().__init__(csrf=False)

    def authenticate(self, request: HttpRequest, key: str | None) -> str | None:
        """Return the user's name, or None.

        Raises:
            HttpError: 403, the CSRF token is missing or wrong.
            RateLimitedError: The caller asks too often.
        """
        holder = session_holder(request.user)
        if holder is None:
            return None
        if check_csrf(request) is not None:
            raise HttpError(403, "The CSRF token is missing or wrong; send X-CSRFToken.")
        rate_limits.admit(holder)
        return holder

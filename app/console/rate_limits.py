"""Who is asked to wait: callers of the API that ask too often, and addresses that guess."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, Final

import structlog
from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.http import HttpRequest, HttpResponse

from jobs.rate_limit import Rate, RateLimitedError, give_back, take
from telemetry import web_metrics

logger = structlog.get_logger(__name__)

#: Bits of an IPv6 address that a client cannot choose: providers give a /64 or more to each.
IPV6_NETWORK_BITS: Final = 64
#: What can be wrong; names of buckets.
PASSWORD: Final = "password"  # noqa: S105 - not one
TOKEN: Final = "token"  # noqa: S105 - not one


def admit(caller: str) -> None:
    """Let a known caller of the API in.

    Raises:
        RateLimitedError: It asks too often.
    """
    rate = Rate(settings.API_RATE_LIMIT_PER_MINUTE, settings.API_RATE_LIMIT_BURST)
    try:
        take(f"caller {caller}", rate)
    except RateLimitedError:
        web_metrics.count_rate_limited(web_metrics.API)
        raise


def note_failure(request: HttpRequest, what: str) -> None:
    """Note that the client has sent a wrong token or password (``what``).

    Each has a bucket of its own: a program with an old token must not keep the people beside it
    from signing in.

    Raises:
        RateLimitedError: So many others came before that no more are answered for now.
    """
    try:
        take(_bucket_of(request, what), _failure_rate())
    except RateLimitedError:
        web_metrics.count_rate_limited(web_metrics.SIGN_IN)
        logger.warning("too_many_failed_sign_ins", client=client_network(request))
        raise


def client_network(request: HttpRequest) -> str:
    """Return the address of the client, of IPv6 the network.

    ``REMOTE_ADDR`` is what uvicorn made of X-Forwarded-For, which it believes only when it comes
    from an address of FORWARDED_ALLOW_IPS; else it is the other end of the connection.
    """
    address = request.META.get("REMOTE_ADDR", "")
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if parsed.version == 6 and parsed.ipv4_mapped is not None:
        # How a server that listens on both kinds sees IPv4.
        parsed = parsed.ipv4_mapped
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((int(parsed), IPV6_NETWORK_BITS), strict=False))


def _bucket_of(request: HttpRequest, what: str) -> str:
    return f"{what} {client_network(request)}"


def _failure_rate() -> Rate:
    per_minute = settings.SIGN_IN_FAILURES_PER_MINUTE
    return Rate(per_minute, max(1, per_minute))


class SignInBackend(ModelBackend):
    """Django's users and passwords, with a limit of failures for each client address.

    Here and not in a view, so that it holds for every page that signs in (console, admin).
    """

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the user, or None.

        The token is taken before the password is looked at, and given back if it was right: many
        guesses at the same moment must not all find the bucket full.

        Raises:
            RateLimitedError: The address has failed too often; the password was not looked at.
        """
        if request is not None:
            note_failure(request, PASSWORD)
        user = super().authenticate(request, username, password, **kwargs)
        if request is not None and user is not None:
            give_back(_bucket_of(request, PASSWORD), _failure_rate())
        return user


class RateLimitMiddleware:
    """Answers 429 for pages; the API has its own handler (``console.errors``)."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        """Take the rest of the chain."""
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a request."""
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Say how long to wait."""
        if not isinstance(error, RateLimitedError):
            return None
        text = f"Too many failed sign-ins from your address; try again in {error.seconds} s.\n"
        headers = {"Retry-After": str(error.seconds)}
        return HttpResponse(text, status=429, content_type="text/plain", headers=headers)

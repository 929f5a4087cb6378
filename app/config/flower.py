"""The flower role: ``python -m config.flower ARGUMENTS`` is ``celery flower`` behind one lock.

Flower's own pages ask for the password; ``/metrics``, ``/healthcheck``, ``/static`` and unknown
addresses answer everybody (2.2.0), and each new handler decides anew. Here nothing is routed before
the password is right. Written for one version: with another one the role refuses to start. Remove
when Flower asks in one place.
"""

from __future__ import annotations

import hmac
import sys
from base64 import b64decode
from importlib.metadata import version
from typing import Any, Final

from celery.__main__ import main as celery
from flower import command
from flower.app import Flower
from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler, stream_request_body

GUARDED_VERSION: Final = "2.2.0"


@stream_request_body
class Refusal(RequestHandler):
    """Asks for a password, whatever the method, before a body is read."""

    def check_xsrf_cookie(self) -> None:
        """Ask for the password first."""

    def prepare(self) -> None:
        """Answer 401, and close: the rest of the request is of no interest."""
        self.set_status(401)
        self.set_header("WWW-Authenticate", 'Basic realm="flower"')
        self.set_header("Connection", "close")
        self.finish()

    def data_received(self, chunk: bytes) -> None:
        """Let go of what was on its way."""


class LockedFlower(Flower):
    """Flower whose every address asks for a password of ``FLOWER_BASIC_AUTH``."""

    def find_handler(self, request: HTTPServerRequest, **arguments: Any) -> Any:
        """Return what answers a request: Flower, or the refusal."""
        if is_allowed(request.headers.get("Authorization", ""), self.options.basic_auth):
            return super().find_handler(request, **arguments)
        return self.get_handler_delegate(request, Refusal)


def is_allowed(header: str, credentials: list[str]) -> bool:
    """Say whether an ``Authorization`` header has one of the ``user:password`` pairs."""
    scheme, _, encoded = header.partition(" ")
    try:
        given = b64decode(encoded, validate=True)
    except ValueError:
        return False
    # All are compared, so that the time does not tell which was close.
    matches = [hmac.compare_digest(given, known.encode()) for known in credentials if known]
    return scheme.lower() == "basic" and any(matches)


def main(*arguments: str) -> None:
    """Run Flower with the project's Celery app until SIGTERM.

    Raises:
        RuntimeError: Flower is not the version that the lock was written for.
    """
    if version("flower") != GUARDED_VERSION:
        raise RuntimeError(
            f"config.flower was checked with Flower {GUARDED_VERSION}: run "
            "tests/integration/test_flower.py against the new one, then adapt GUARDED_VERSION."
        )
    command.Flower = LockedFlower
    sys.argv = ["celery", "--app", "config.celery", "--quiet", "flower", *arguments]
    celery()


if __name__ == "__main__":
    main(*sys.argv[1:])

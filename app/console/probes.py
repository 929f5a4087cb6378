"""/livez, /readyz, /health, /version, /metrics: before anything else looks at the request.

Probes come with the address of the container as Host and without TLS, so they must not meet
ALLOWED_HOSTS (400) or the redirect to https (which a prober takes for success).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from prometheus_client import CONTENT_TYPE_LATEST

from delivery.broker import client
from telemetry import web_metrics

#: The metrics of the role, for Prometheus. The proxy in front must keep it inside
#: (docs/operations.md).
METRICS: Final = "/metrics"


def database_fault() -> str | None:
    """Return why the database is of no use, or None. Unapplied migrations are a fault."""
    try:
        connection.ensure_connection()
        executor = MigrationExecutor(connection)
        waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
        web_metrics.note_migrations(len(waiting))
    except Exception as error:  # noqa: BLE001 - whatever it is, the answer is "not ready"
        return type(error).__name__
    finally:
        connection.close()
    return f"{len(waiting)} migrations are not applied" if waiting else None


def broker_fault() -> str | None:
    """Return why the broker is of no use, or None."""
    try:
        with client() as redis:
            redis.ping()
    except Exception as error:  # noqa: BLE001 - as above
        return type(error).__name__
    return None


def livez() -> tuple[int, dict[str, Any]]:
    """The process answers; nothing else is asked, so that nothing else can have it restarted."""
    return 200, {"status": "alive"}


def readyz() -> tuple[int, dict[str, Any]]:
    """Requests can be served. Not the broker: submissions work without it."""
    fault = database_fault()
    return (503 if fault else 200), {"status": "not ready" if fault else "ready", "database": fault}


def health() -> tuple[int, dict[str, Any]]:
    """Everything this process depends on, for people and monitors; not for probes."""
    faults = {"database": database_fault(), "broker": broker_fault()}
    well = not any(faults.values())
    return (200 if well else 503), {"status": "healthy" if well else "unhealthy", **faults}


def version() -> tuple[int, dict[str, Any]]:
    """What runs."""
    return 200, {"version": settings.VERSION, "revision": settings.REVISION}


PROBES: Final[dict[str, Callable[[], tuple[int, dict[str, Any]]]]] = {
    "/livez": livez,
    "/readyz": readyz,
    "/health": health,
    "/version": version,
}


class ProbeMiddleware:
    """Answers the probes and passes on everything else."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        """Take the rest of the chain."""
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a request."""
        if request.path == METRICS:
            return _metrics(request)
        probe = PROBES.get(request.path)
        if probe is None or request.method not in ("GET", "HEAD"):
            return self._get_response(request)
        status, body = probe()
        return JsonResponse(body, status=status, headers={"Cache-Control": "no-store"})


def _metrics(request: HttpRequest) -> HttpResponse:
    if request.method not in ("GET", "HEAD"):
        return HttpResponseNotAllowed(["GET", "HEAD"])
    return HttpResponse(
        web_metrics.exposition(),
        content_type=CONTENT_TYPE_LATEST,
        headers={"Cache-Control": "no-store"},
    )

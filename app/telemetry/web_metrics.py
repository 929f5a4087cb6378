"""What the web role says of itself, beside what django-prometheus counts.

Not in ``metrics_server.REGISTRY``: the code that counts here is imported by other roles as well,
which have nothing to say about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import prometheus_client
from celery import current_app
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS
from django.db.backends.postgresql.base import DatabaseWrapper
from prometheus_client import CollectorRegistry, generate_latest

from delivery import publishing
from telemetry import metrics_files, sent_messages
from telemetry.instruments import counter, gauge

REGISTRY: Final = CollectorRegistry()
#: What may be limited (``web_rate_limited_total``).
API: Final = "api"
SIGN_IN: Final = "sign_in"

_publishing_failures = counter("web_publishing_failures_total", REGISTRY)
# The numbers of all processes are added up; those of one that ends go with it ("live").
_sockets_open = gauge("web_sockets_open", REGISTRY, multiprocess_mode="livesum")
_sockets_opened = counter("web_sockets_opened_total", REGISTRY)
_sockets_refused = counter("web_sockets_refused_total", REGISTRY)
_rate_limited = counter("web_rate_limited_total", REGISTRY)
_pool = gauge("web_database_pool_connections", REGISTRY, multiprocess_mode="livesum")
# All see the same database; who looked last knows best.
_migrations = gauge("web_migrations_unapplied", REGISTRY, multiprocess_mode="livemostrecent")
_build = gauge("celeriac_build_info", REGISTRY, multiprocess_mode="livemax")


def begin() -> None:
    """Begin to count, at 0. Once, before gunicorn forks: each process goes on from there."""
    _build.labels(settings.VERSION, settings.REVISION).set(1)
    for limit in (API, SIGN_IN):
        _rate_limited.labels(limit)
    sent_messages.count(current_app, REGISTRY)
    publishing.left_to_the_relay.connect(_count_left, weak=False)
    note_pool()


def exposition() -> bytes:
    """Return the metrics of the whole role, in Prometheus' text format. Asks nobody."""
    note_pool()
    folder = metrics_files.directory()
    if folder is not None:
        return metrics_files.exposition(folder)
    # django-prometheus has its own in prometheus-client's.
    return generate_latest(REGISTRY) + generate_latest(prometheus_client.REGISTRY)


def note_pool() -> None:
    """Note how the pool of this process is used: for each scrape, and every some seconds."""
    # Django's ``connection.pool`` would make one.
    pool: Any = DatabaseWrapper._connection_pools.get(DEFAULT_DB_ALIAS)  # type: ignore[attr-defined]  # noqa: SLF001
    numbers = pool.get_stats() if pool else {}
    idle = numbers.get("pool_available", 0)
    _pool.labels("in_use").set(numbers.get("pool_size", 0) - idle)
    _pool.labels("idle").set(idle)
    _pool.labels("limit").set(numbers.get("pool_max", 0))


def note_migrations(unapplied: int) -> None:
    """Note how many migrations the database has not."""
    _migrations.set(unapplied)


def count_rate_limited(limit: str) -> None:
    """Count a request that is answered with 429 because of a limit (``API``, ``SIGN_IN``)."""
    _rate_limited.labels(limit).inc()


def count_refused_socket() -> None:
    """Count a WebSocket that was refused."""
    _sockets_refused.inc()


@contextmanager
def open_socket() -> Iterator[None]:
    """Count a WebSocket that is open while the block runs."""
    _sockets_opened.inc()
    _sockets_open.inc()
    try:
        yield
    finally:
        _sockets_open.dec()


def _count_left(**_: Any) -> None:
    _publishing_failures.inc()

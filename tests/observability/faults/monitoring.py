"""What breaks in the monitoring itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deploy.embedded.servers.redis import SERVER_EXPORTER
from tests.observability.faults.fault import Fault, expected, frozen, stopped
from tests.observability.victim import Victim


@contextmanager
def _receiver_broken(victim: Victim) -> Iterator[None]:
    victim.receiver.server.status = 500
    try:
        yield
    finally:
        victim.receiver.server.status = 200


@contextmanager
def _account_refused(victim: Victim) -> Iterator[None]:
    """Refuse the account of Redis' exporter.

    That of PostgreSQL tries for more than a second: here it misses its scrape instead.
    """
    redis: Any = victim.redis
    redis.execute_command("ACL", "SETUSER", SERVER_EXPORTER, "off")
    try:
        yield
    finally:
        redis.execute_command("ACL", "SETUSER", SERVER_EXPORTER, "on")


EXPORTER_STOPPED = Fault(
    "an exporter is stopped",
    lambda victim: stopped(victim, "redis-exporter"),
    (expected("MetricsTargetDown", job="redis"),),
)
ACCOUNT_REFUSED = Fault(
    "the account of Redis' exporter is refused",
    _account_refused,
    (expected("ServerMetricsMissing", server="Redis"),),
)
EXPORTER_FROZEN = Fault(
    "the Celery exporter is there and does nothing (SIGSTOP)",
    lambda victim: frozen(victim, "celery-exporter"),
    (expected("CeleryMetricsStale"), expected("MetricsTargetDown", job="celery-exporter")),
)
RECEIVER_BROKEN = Fault(
    "the receiver of alerts answers 500",
    _receiver_broken,
    (expected("AlertDeliveryFailing", cause="alertmanager"),),
)

"""What breaks in the monitoring itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deploy.embedded.servers.redis import SERVER_EXPORTER
from tests.observability.faults.fault import Fault, expected, frozen, stopped
from tests.observability.victim import Victim

POSTGRES_ACCOUNT = "postgres_exporter"


@contextmanager
def _receiver_broken(victim: Victim) -> Iterator[None]:
    victim.receiver.server.status = 500
    try:
        yield
    finally:
        victim.receiver.server.status = 200


@contextmanager
def _accounts_refused(victim: Victim) -> Iterator[None]:
    """Refuse the exporters' accounts, and end the session that PostgreSQL's has."""
    redis: Any = victim.redis
    redis.execute_command("ACL", "SETUSER", SERVER_EXPORTER, "off")
    with victim.session() as session:
        session.execute(f"ALTER ROLE {POSTGRES_ACCOUNT} NOLOGIN")
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s",
            [POSTGRES_ACCOUNT],
        )
        try:
            yield
        finally:
            session.execute(f"ALTER ROLE {POSTGRES_ACCOUNT} LOGIN")
            redis.execute_command("ACL", "SETUSER", SERVER_EXPORTER, "on")


EXPORTER_STOPPED = Fault(
    "an exporter is stopped",
    lambda victim: stopped(victim, "redis-exporter"),
    (expected("MetricsTargetDown", job="redis"),),
)
ACCOUNTS_REFUSED = Fault(
    "the accounts of Redis' and PostgreSQL's exporters are refused",
    _accounts_refused,
    (
        expected("ServerMetricsMissing", server="Redis"),
        expected("ServerMetricsMissing", server="PostgreSQL"),
    ),
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

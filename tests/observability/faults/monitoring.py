"""What breaks in the monitoring itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.observability.faults.fault import Fault, expected, frozen, stopped
from tests.observability.victim import Victim


@contextmanager
def _receiver_broken(victim: Victim) -> Iterator[None]:
    victim.receiver.server.status = 500
    try:
        yield
    finally:
        victim.receiver.server.status = 200


EXPORTER_STOPPED = Fault(
    "an exporter is stopped",
    lambda victim: stopped(victim, "redis-exporter"),
    (expected("MetricsTargetDown", job="redis"),),
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

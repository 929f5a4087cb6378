"""Makes prometheus-client's objects for entries of the table of metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily

from telemetry.catalogue import BY_NAME

# When a series was made: as many series again, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]


def counter(name: str, registry: CollectorRegistry) -> Counter:
    """Return the counter of this name (with ``_total``), registered."""
    metric = BY_NAME[name]
    return Counter(name, metric.help, metric.labels, registry=registry)


def gauge(name: str, registry: CollectorRegistry, **options: Any) -> Gauge:
    """Return the gauge of this name, registered; ``options`` as for prometheus-client's own."""
    metric = BY_NAME[name]
    return Gauge(name, metric.help, metric.labels, registry=registry, **options)


def histogram(name: str, registry: CollectorRegistry) -> Histogram:
    """Return the histogram of this name, registered."""
    metric = BY_NAME[name]
    return Histogram(name, metric.help, metric.labels, registry=registry, buckets=metric.buckets)


def gauge_family(name: str) -> GaugeMetricFamily:
    """Return an empty family for a collector that fills it at each scrape."""
    metric = BY_NAME[name]
    return GaugeMetricFamily(name, metric.help, labels=metric.labels)

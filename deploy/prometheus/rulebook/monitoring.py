"""Can the other alerts be believed, and do they arrive?"""

from __future__ import annotations

from typing import Final

from deploy.prometheus.rulebook.pace import MINUTE, Pace
from deploy.prometheus.rulebook.promql import OWN_JOBS, gone, grown
from deploy.prometheus.rulebook.rule import CRITICAL, NONE, WARNING, Alert, Group

#: Jobs whose targets are watched; other teams' may be scraped by the same Prometheus.
JOBS: Final = f"{OWN_JOBS}|web|redis|postgres|prometheus|alertmanager"
#: Seconds between two scans of the exporter (source broker_scan).
SCAN_INTERVAL_SECONDS: Final = 60


def group(pace: Pace) -> Group:
    """Return the alerts of the monitoring itself."""
    return Group(
        "celeriac.monitoring",
        (
            _stale(pace),
            _target_down(pace),
            _server_missing(pace),
            _delivery_failing(pace),
            _watchdog(),
        ),
        area="monitoring",
    )


def _stale(pace: Pace) -> Alert:
    series = "celery_exporter_last_success_timestamp_seconds"
    read, scanned = (
        f'time() - max by (namespace, source) ({series}{{source{which}"broker_scan"}}) > {age}'
        for which, age in (
            ("!=", pace.age(2 * MINUTE)),
            # Two scans may fail.
            ("=", pace.age(2 * MINUTE, fact=3 * SCAN_INTERVAL_SECONDS)),
        )
    )
    missing = gone(series, pace.age(2 * MINUTE), pace).replace("\n", "\n  ")
    return Alert(
        "CeleryMetricsStale",
        CRITICAL,
        "Queues, deliveries or canaries are not measured: their alerts are blind",
        f"{read}\nor\n{scanned}\nor\n"
        f'label_replace(\n  {missing},\n  "source", "exporter", "", ""\n)',
        summary="Queues are not measured",
        description="The Celery exporter has not read {{ $labels.source }} for "
        "{{ $value | humanizeDuration }} or longer. Alerts on queues and deliveries are blind.",
        dashboard="overview",
        hold=pace.hold(MINUTE),
    )


def _target_down(pace: Pace) -> Alert:
    return Alert(
        "MetricsTargetDown",
        WARNING,
        "Prometheus cannot scrape a process",
        # The service, so that Alertmanager finds the CeleryWorkerDown that explains it.
        f'max by (namespace, job, service, instance) (up{{job=~"{JOBS}"}}) == 0',
        summary="A process cannot be scraped",
        description="{{ $labels.instance }} ({{ $labels.job }}) does not answer scrapes: it is "
        "down, or its metrics are.",
        dashboard="overview",
        hold=pace.hold(3 * MINUTE),
    )


def _server_missing(pace: Pace) -> Alert:
    branches = [
        # Where ours does not reach it either, the server is down, or ours is stale.
        f"label_replace(\n  max by (namespace) ({theirs}) == 0\n"
        f"  and on (namespace) max by (namespace) ({ours}) == 1,\n"
        f'  "server", "{server}", "", ""\n)'
        for server, theirs, ours in (
            ("Redis", "redis_up", "celery_broker_up"),
            ("PostgreSQL", "pg_up", "celery_database_up"),
        )
    ]
    return Alert(
        "ServerMetricsMissing",
        WARNING,
        "Redis or PostgreSQL works, and its exporter cannot ask it: alerts on its memory, disk, "
        "connections and locks are blind",
        "\nor\n".join(branches),
        summary="A server is not measured",
        description="The exporter of {{ $labels.server }} answers scrapes and cannot ask its "
        "server, which the Celery exporter reaches: alerts on {{ $labels.server }}'s memory, "
        "disk, connections and locks are blind.",
        dashboard="overview",
        hold=pace.hold(3 * MINUTE),
    )


def _delivery_failing(pace: Pace) -> Alert:
    causes = [
        ("alertmanager", "alertmanager_notifications_failed_total"),
        ("prometheus", "prometheus_notifications_errors_total"),
        ("queue", "prometheus_notifications_dropped_total"),
        ("rules", "prometheus_rule_evaluation_failures_total"),
    ]
    branches = [
        f"label_replace(sum by (namespace) ({grown(counter, 15 * MINUTE, pace)}) > 0,"
        f' "cause", "{cause}", "", "")'
        for cause, counter in causes
    ]
    return Alert(
        "AlertDeliveryFailing",
        WARNING,
        "Alerts were not evaluated, not handed over, or not delivered",
        "\nor\n".join(branches),
        summary="Alerts may not arrive",
        description="{{ $value | printf `%.0f` }} failures in 15 minutes on the way of an alert "
        "({{ $labels.cause }}): alertmanager could not notify a receiver, prometheus could not "
        "reach Alertmanager, its queue overflowed, or rules could not be evaluated.",
        dashboard="overview",
    )


def _watchdog() -> Alert:
    return Alert(
        "Watchdog",
        NONE,
        "Always fires. When it stops to arrive, the monitoring is broken",
        "vector(1)",
        summary="Alerts work",
        description="This alert always fires. Send it to a service outside that calls when it "
        "stops.",
        dashboard="overview",
    )

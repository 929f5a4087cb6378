"""Stories of the monitoring itself."""

from tests.rules.story import Fires, Quiet, Story, flat, nothing, now

_SUCCESS = "celery_exporter_last_success_timestamp_seconds"
_BLIND = "or longer. Alerts on queues and deliveries are blind."

_WITNESSES = (
    ("Redis", 'redis_up{job="redis"}', 'celery_broker_up{job="celery-exporter"}'),
    ("PostgreSQL", 'pg_up{job="postgres"}', 'celery_database_up{job="celery-exporter"}'),
)


def _failures(cause: str) -> str:
    return (
        f"1 failures in 15 minutes on the way of an alert ({cause}): alertmanager could not notify "
        "a receiver, prometheus could not reach Alertmanager, its queue overflowed, or rules could "
        "not be evaluated."
    )


STORIES: list[Story] = [
    Fires(
        "the exporter answers, and cannot read the database",
        "CeleryMetricsStale",
        {
            f'{_SUCCESS}{{source="database", instance="a"}}': f"{now(5)} {flat(285, 10)}",
            f'{_SUCCESS}{{source="broker", instance="a"}}': now(15),
        },
        at=8,
        not_before=7.5,
        labels={"source": "database"},
        description=f"The Celery exporter has not read database for 3m 15s {_BLIND}",
    ),
    Fires(
        "its scans end",
        "CeleryMetricsStale",
        {f'{_SUCCESS}{{source="broker_scan"}}': f"{now(5)} {flat(285, 20)}"},
        at=11,
        not_before=10.5,
        labels={"source": "broker_scan"},
        description=f"The Celery exporter has not read broker_scan for 6m 15s {_BLIND}",
    ),
    Fires(
        "the exporter vanishes",
        "CeleryMetricsStale",
        {
            f'{_SUCCESS}{{source="broker"}}': f"{now(5)} stale",
            f'{_SUCCESS}{{source="database"}}': f"{now(5)} stale",
        },
        at=6.5,
        not_before=5.75,
        labels={"source": "exporter"},
        description=f"The Celery exporter has not read exporter for 2m 0s {_BLIND}",
    ),
    Fires(
        "nothing is there at all",
        "CeleryMetricsStale",
        {},
        at=2,
        namespace=None,
        labels={"source": "exporter"},
        description=f"The Celery exporter has not read exporter for 2m 0s {_BLIND}",
    ),
    Quiet(
        "one of two exporters works; a scan every minute, two of them lost; a restart",
        "CeleryMetricsStale",
        {
            f'{_SUCCESS}{{source="broker", instance="a"}}': flat(0, 20),
            f'{_SUCCESS}{{source="broker", instance="b"}}': f"{now(10)} {nothing(0.75)} {now(10, from_minute=10.75)}",
            f'{_SUCCESS}{{source="broker_scan", instance="b"}}': f"{flat(0, 3)} {flat(180, 3)} {flat(360, 4)} {nothing(0.75)} {flat(640, 5)}",
        },
        until=15,
    ),
    Fires(
        "a process does not answer",
        "MetricsTargetDown",
        {
            'up{job="redis", instance="x1"}': f"{flat(1, 5)} {flat(0, 10)}",
            'up{job="postgres", instance="x2"}': flat(1, 15),
        },
        at=8.25,
        not_before=7.75,
        labels={"job": "redis", "instance": "x1"},
        description="x1 (redis) does not answer scrapes: it is down, or its metrics are.",
    ),
    Fires(
        "a worker does not answer",
        "MetricsTargetDown",
        {
            'up{job="celery-worker", service="worker", instance="w1"}': f"{flat(1, 5)} {flat(0, 10)}",
            'up{job="celery-worker", service="worker-bulk", instance="b1"}': flat(1, 15),
        },
        at=8.25,
        not_before=7.75,
        labels={"job": "celery-worker", "service": "worker", "instance": "w1"},
        description="w1 (celery-worker) does not answer scrapes: it is down, or its metrics are.",
    ),
    Quiet(
        "away for less than three minutes; gone from discovery; a target of somebody else",
        "MetricsTargetDown",
        {
            'up{job="redis", instance="x1"}': f"{flat(1, 5)} {flat(0, 2.75)} {flat(1, 5)}",
            'up{job="celery-worker", instance="w1"}': f"{flat(1, 5)} {flat(0, 1)} stale",
            'up{job="their-shop", instance="x3"}': flat(0, 15),
        },
        until=12,
    ),
    *(
        Fires(
            f"the account of {server}'s exporter breaks",
            "ServerMetricsMissing",
            {theirs: f"{flat(1, 5)} {flat(0, 10)} {flat(1, 5)}", ours: flat(1, 20)},
            at=8.25,
            not_before=7.75,
            resolved_at=15.25,
            labels={"server": server},
            description=f"The exporter of {server} answers scrapes and cannot ask its server, which "
            f"the Celery exporter reaches: alerts on {server}'s memory, disk, connections and locks "
            "are blind.",
        )
        for server, theirs, ours in _WITNESSES
    ),
    *(
        Quiet(
            f"{server} is down, its exporter restarts, and one that is new takes two minutes",
            "ServerMetricsMissing",
            {
                theirs: f"{flat(1, 5)} {flat(0, 10)} stale {nothing(5)} {flat(0, 2)} {flat(1, 10)}",
                ours: f"{flat(1, 5)} {flat(0, 10.25)} {flat(1, 17)}",
            },
            until=31,
        )
        for server, theirs, ours in _WITNESSES
    ),
    *(
        Fires(
            f"{counter} is born at 1",
            "AlertDeliveryFailing",
            {f'{counter}{{instance="a"}}': f"{nothing(20)} {flat(1, 40)}"},
            at=20.5,
            not_before=19.75,
            resolved_at=36,
            labels={"cause": cause},
            description=_failures(cause),
        )
        for cause, counter in (
            ("alertmanager", "alertmanager_notifications_failed_total"),
            ("prometheus", "prometheus_notifications_errors_total"),
            ("queue", "prometheus_notifications_dropped_total"),
            ("rules", "prometheus_rule_evaluation_failures_total"),
        )
    ),
    Quiet(
        "failures of long ago, and a restart",
        "AlertDeliveryFailing",
        {
            'alertmanager_notifications_failed_total{integration="webhook"}': f"{flat(2, 30)} {nothing(1)} {flat(0, 30)}",
            "prometheus_notifications_errors_total": flat(3, 60),
            "prometheus_notifications_dropped_total": flat(0, 60),
            "prometheus_rule_evaluation_failures_total": flat(0, 60),
        },
        until=60,
    ),
    Fires(
        "always",
        "Watchdog",
        {},
        at=0,
        namespace=None,
        description="This alert always fires. Send it to a service outside that calls when it "
        "stops.",
    ),
]

"""Is durable work published again when its message or worker was lost?"""

from __future__ import annotations

from deploy.prometheus.rulebook.pace import HOUR, MINUTE, Pace
from deploy.prometheus.rulebook.promql import gone, grown, held
from deploy.prometheus.rulebook.rule import CRITICAL, WARNING, Alert, Group

#: Longest pause of the relay after an error, in seconds (MAXIMUM_PAUSE_SECONDS, delivery.relay).
RELAY_PAUSE_SECONDS = 10


def group(pace: Pace) -> Group:
    """Return the alerts of the ledger and its relay."""
    return Group(
        "celeriac.ledger",
        (_overdue(pace), _relay_stalled(pace), _cannot_publish(pace), _broker_lost_data(pace)),
        area="ledger",
    )


def _overdue(pace: Pace) -> Alert:
    return Alert(
        "CeleryDeliveriesOverdue",
        CRITICAL,
        "Durable tasks that the relay should have looked at two minutes ago are still untouched",
        f"{held('celery_deliveries_overdue', pace)} > 0",
        summary="Durable tasks are overdue",
        description="Durable tasks of {{ $labels.queue_name }} that the relay should have looked "
        "at two minutes ago or earlier: {{ $value | printf `%.0f` }}.",
        dashboard="queues",
        # The two minutes are in the metric already.
        hold=pace.hold(MINUTE),
        dashboard_variables=("queue_name",),
    )


def _relay_stalled(pace: Pace) -> Alert:
    series = "celery_relay_last_round_timestamp_seconds"
    # It looks every two seconds; longer only after errors.
    patience = pace.age(50, fact=RELAY_PAUSE_SECONDS)
    return Alert(
        "CeleryRelayStalled",
        CRITICAL,
        "No relay finishes a round: retries, etas and lost messages are not published",
        f"time() - max by (namespace) ({series}) > {patience}\nor\n{gone(series, patience, pace)}",
        summary="The relay stands still",
        description="No relay has finished a round for {{ $value | humanizeDuration }} or longer: "
        "retries and etas are not published, and nothing lost is repaired.",
        dashboard="queues",
        hold=pace.hold(MINUTE),
    )


def _cannot_publish(pace: Pace) -> Alert:
    unpublishable = grown("celery_relay_unpublishable_total", 15 * MINUTE, pace)
    return Alert(
        "CeleryRelayCannotPublish",
        WARNING,
        "The relay set deliveries aside: no code has their task, or they cannot be encoded",
        f"sum by (namespace, name) ({unpublishable}) > 0",
        summary="Durable tasks cannot be published",
        description="Deliveries of {{ $labels.name }} were set aside {{ $value | printf `%.0f` }} "
        "times in 15 minutes. After an hour they become dead letters.",
        dashboard="tasks",
        dashboard_variables=("name",),
    )


def _broker_lost_data(pace: Pace) -> Alert:
    losses = grown("celery_relay_broker_data_losses_total", HOUR, pace)
    return Alert(
        "CeleryBrokerLostItsData",
        WARNING,
        "The broker came back empty; durable tasks were published again, plain ones are lost",
        f"sum by (namespace) ({losses}) > 0",
        summary="The broker lost its data",
        description="The broker came back without its data within the last hour. Durable tasks "
        "were published again; plain messages are lost.",
        dashboard="broker",
    )

"""Stories of the ledger and its relay."""

from tests.rules.story import Fires, Quiet, Story, flat, nothing, now

_ROUND = 'celery_relay_last_round_timestamp_seconds{instance="r1"}'
_STANDS = "or longer: retries and etas are not published, and nothing lost is repaired."

STORIES: list[Story] = [
    Fires(
        "one durable task is overdue",
        "CeleryDeliveriesOverdue",
        {
            'celery_deliveries_overdue{queue_name="mail"}': f"{flat(0, 5)} {flat(1, 10)}",
            'celery_deliveries_overdue{queue_name="default"}': flat(0, 15),
        },
        at=6.25,
        not_before=5.75,
        labels={"queue_name": "mail"},
        description="Durable tasks of mail that the relay should have looked "
        "at two minutes ago or earlier: 1.",
    ),
    Quiet(
        "overdue for a moment, again and again",
        "CeleryDeliveriesOverdue",
        {'celery_deliveries_overdue{queue_name="mail"}': " ".join(["0 0 1 1 1 0"] * 20)},
        until=29,
    ),
    Fires(
        "rounds end in errors, so that the last good one is old; the other relay is gone",
        "CeleryRelayStalled",
        {
            _ROUND: f"{now(5)} {flat(285, 10)}",
            'celery_relay_last_round_timestamp_seconds{instance="r2"}': f"{now(4)} stale",
        },
        at=8,
        not_before=6.5,
        description=f"No relay has finished a round for 3m 15s {_STANDS}",
    ),
    Fires(
        "the only relay vanishes",
        "CeleryRelayStalled",
        {_ROUND: f"{now(5)} stale"},
        at=6.5,
        not_before=5.75,
        description=f"No relay has finished a round for 1m 0s {_STANDS}",
    ),
    Fires(
        "there never was one beside the worker",
        "CeleryRelayStalled",
        {'up{job="celery-worker", service="worker", instance="w1"}': flat(1, 5)},
        at=2,
        description=f"No relay has finished a round for 1m 0s {_STANDS}",
    ),
    Fires(
        "nothing is there at all",
        "CeleryRelayStalled",
        {},
        at=2,
        namespace=None,
        description=f"No relay has finished a round for 1m 0s {_STANDS}",
    ),
    Quiet(
        "one of two works; a round takes a minute; the relay is replaced within a minute",
        "CeleryRelayStalled",
        {
            _ROUND: f"{now(5)} {flat(285, 1)} {now(4, from_minute=6)} stale",
            'celery_relay_last_round_timestamp_seconds{instance="r2"}': f"{nothing(10.75)} {now(9, from_minute=10.75)}",
            'celery_relay_last_round_timestamp_seconds{namespace="b", instance="r1"}': now(20),
            'celery_relay_last_round_timestamp_seconds{namespace="b", instance="r2"}': flat(0, 20),
        },
        until=19,
    ),
    Fires(
        "a task that no code has (born at 1)",
        "CeleryRelayCannotPublish",
        {
            'celery_relay_unpublishable_total{name="shop.gone"}': f"{nothing(20)} {flat(1, 1)} {flat(2, 1)} {flat(3, 30)}",
        },
        at=20.5,
        not_before=19.75,
        resolved_at=38,
        labels={"name": "shop.gone"},
        description="Deliveries of shop.gone were set aside 1 times in 15 minutes. After an hour "
        "they become dead letters.",
    ),
    Quiet(
        "none, and none since long, in spite of a relay that restarts",
        "CeleryRelayCannotPublish",
        {
            'celery_relay_unpublishable_total{name="shop.gone"}': f"{flat(6, 40)} {nothing(2)} {flat(0, 40)}",
        },
        until=80,
    ),
    Fires(
        "the broker came back empty",
        "CeleryBrokerLostItsData",
        {"celery_relay_broker_data_losses_total": f"{flat(0, 20)} {flat(1, 100)}"},
        at=20.5,
        not_before=19.75,
        resolved_at=82,
        description="The broker came back without its data within the last hour. Durable tasks "
        "were published again; plain messages are lost.",
    ),
    Quiet(
        "it did so yesterday; two relays, one restarts",
        "CeleryBrokerLostItsData",
        {
            'celery_relay_broker_data_losses_total{instance="r1"}': flat(1, 90),
            'celery_relay_broker_data_losses_total{instance="r2"}': f"{flat(1, 40)} {nothing(1)} {flat(0, 40)}",
        },
        until=80,
    ),
]

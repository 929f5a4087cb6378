"""The relay's rounds, called one by one on a real PostgreSQL and a real Redis."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db.models import F
from redis import Redis

from config.celery import app
from delivery import publishing
from delivery.models import Delivery, State
from delivery.relay import Relay
from tests.support.durable_tasks import add

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


@pytest.fixture
def relay(broker: Redis, monkeypatch: pytest.MonkeyPatch) -> Relay:
    """Return a relay, with nobody else to publish."""
    monkeypatch.setattr(publishing, "publish_or_leave", lambda _messages: None)
    broker.delete("bulk")
    relay = Relay(app)
    relay.round()
    return relay


def due(**options: Any) -> UUID:
    delivery_id = UUID(add.apply_on_commit((1, 2), queue="bulk", **options))
    age(delivery_id, timedelta(minutes=1))
    return delivery_id


def age(delivery_id: UUID, by: timedelta) -> None:
    Delivery.objects.filter(id=delivery_id).update(
        due_at=F("due_at") - by, dispatched_at=F("dispatched_at") - by,
        created_at=F("created_at") - by,
    )  # fmt: skip


def state(delivery_id: UUID) -> str:
    return Delivery.objects.get(id=delivery_id).state


def published(broker: Redis) -> set[str]:
    return {json.loads(message)["headers"]["id"] for message in broker.lrange("bulk", 0, -1)}


def test_a_round_publishes_what_is_due(relay: Relay, broker: Redis) -> None:
    delivery_id = due()
    assert relay.round() == 1
    assert published(broker) == {str(delivery_id)}
    assert relay.round() == 0


@pytest.mark.parametrize("broken", [{"time_limit": "long"}, {"shadow": ["a", "list"]}])
def test_what_cannot_be_published_does_not_hold_up_the_rest(
    relay: Relay, broker: Redis, broken: dict[str, Any]
) -> None:
    good, bad = due(), due()
    Delivery.objects.filter(id=bad).update(options=broken)
    relay.round()

    assert published(broker) == {str(good)}
    assert state(bad) == State.DISPATCHED, "not a dead letter at once"
    age(bad, 2 * HOUR)
    relay.round()
    assert state(bad) == State.DEAD


def test_a_task_that_no_code_has_is_tried_for_an_hour(relay: Relay, broker: Redis) -> None:
    delivery_id = due()
    Delivery.objects.filter(id=delivery_id).update(task="tests.of_another_version")
    relay.round()
    assert state(delivery_id) == State.DISPATCHED
    age(delivery_id, 2 * HOUR)
    relay.round()
    assert Delivery.objects.get(id=delivery_id).error == "No code has a task of this name."
    assert state(delivery_id) == State.DEAD


@pytest.mark.parametrize(
    "junk",
    [b"", b"not json", b"[]", b'{"headers": null}', b'{"headers": {"enqueued_at": "soon"}}',
     b'{"headers": {"enqueued_at": 1e999}}', b'{"headers": {"enqueued_at": %d}}' % 10**400,
     b"[" * 100_000],
)  # fmt: skip
def test_junk_at_the_head_of_a_queue_is_no_reason_to_publish_everything_again(
    relay: Relay, broker: Redis, junk: bytes
) -> None:
    delivery_id = due()
    broker.rpush("bulk", junk)
    assert relay.round() == 1
    assert broker.llen("bulk") == 1, "what is behind the junk may still be waiting"

    broker.delete("bulk")
    age(delivery_id, HOUR)
    relay.round()
    assert published(broker) == {str(delivery_id)}

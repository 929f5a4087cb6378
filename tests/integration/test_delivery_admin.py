"""The ledger in the admin: what people see and decide."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from delivery.models import Delivery, QuarantinedMessage, State

pytestmark = pytest.mark.django_db

DELIVERIES = "/admin/delivery/delivery/"


def delivery(state: State) -> Delivery:
    now = timezone.now()
    open_states = (State.PENDING, State.DISPATCHED, State.RUNNING)
    return Delivery.objects.create(
        task="tests.add", args=[1, 2], queue="default", max_failures=9, state=state, due_at=now,
        created_at=now, finished_at=None if state in open_states else now, error="why it failed",
    )  # fmt: skip


def decide(client: Client, action: str, *rows: Delivery) -> str:
    chosen = {"action": action, "_selected_action": [str(row.id) for row in rows]}
    return client.post(DELIVERIES, chosen, follow=True).content.decode()


@pytest.mark.parametrize(
    ("action", "before", "after"),
    [
        ("replay", State.DEAD, State.PENDING),
        ("discard", State.DEAD, State.CANCELLED),
        ("cancel", State.RUNNING, State.CANCELLED),
    ],
)
def test_people_decide_on_what_an_action_is_for_and_on_nothing_else(
    admin_client: Client, action: str, before: State, after: State
) -> None:
    chosen, other = delivery(before), delivery(State.SUCCEEDED)
    page = decide(admin_client, action, chosen, other)
    assert "1 delivery(s)" in page
    assert Delivery.objects.get(id=chosen.id).state == after
    assert Delivery.objects.get(id=other.id).state == State.SUCCEEDED


def test_who_may_only_look_may_not_decide(client: Client) -> None:
    reader = User.objects.create_user("reader", is_staff=True)
    reader.user_permissions.add(Permission.objects.get(codename="view_delivery"))
    client.force_login(reader)
    dead = delivery(State.DEAD)
    assert "why it failed" in client.get(DELIVERIES).content.decode()
    decide(client, "replay", dead)
    assert Delivery.objects.get(id=dead.id).state == State.DEAD


def test_a_refused_message_can_be_read_and_nothing_can_be_edited(admin_client: Client) -> None:
    message = QuarantinedMessage.objects.create(
        queue="mail", reason="not JSON", size=8, content="<script>alert(1)</script>"
    )
    page = admin_client.get(f"/admin/delivery/quarantinedmessage/{message.pk}/change/")
    assert "&lt;script&gt;" in page.content.decode()
    assert admin_client.get("/admin/delivery/delivery/add/").status_code == 403

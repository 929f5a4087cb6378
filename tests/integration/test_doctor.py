"""`make doctor` against a real PostgreSQL and Redis, with real faults planted in them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.db import connection
from redis import Redis

from delivery.leadership import AdvisoryLock
from delivery.models import Delivery, QuarantinedMessage, State
from deploy.doctor import live
from deploy.doctor.findings import Verdict
from deploy.embedded.servers import free_port
from telemetry.schedulers import LEADER_LOCK
from tests.support.roles import ENTRYPOINT, role_environment, running_role, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

NO_BEAT = "no beat leads"

Ask = Callable[..., str]


@pytest.fixture
def ask(role_settings: dict[str, str], tmp_path: Path) -> Ask:
    """Return a function that has a role measure, and returns what is wrong, one line each."""

    def faults(**settings: str) -> str:
        answer = subprocess.run(
            [ENTRYPOINT, "manage", "doctor_facts"],
            env=role_environment(tmp_path, "manage", {**role_settings, **settings}),
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        findings = live.all_of(json.loads(answer.stdout.splitlines()[-1]))
        assert len(findings) >= 2
        return "\n".join(str(item) for item in findings if item.verdict is Verdict.WRONG)

    return faults


def test_without_a_beat_this_is_said_and_with_one_all_is_well(
    ask: Ask, role_settings: dict[str, str], tmp_path: Path
) -> None:
    assert NO_BEAT in ask()
    assert len(ask().splitlines()) == 1

    with running_role(tmp_path, "beat", **role_settings) as beat:
        wait_until(lambda: "beat_leads" in beat.log, what=beat.log)
        assert ask() == ""


@pytest.fixture
def leader() -> Iterator[AdvisoryLock]:
    """Hold the lock, as a beat does."""
    lock = AdvisoryLock(LEADER_LOCK, application_name="celeriac-test-leader")
    assert lock.acquire()
    yield lock
    lock.release()


@pytest.mark.usefixtures("leader")
@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [("maxmemory-policy", "allkeys-lru", "noeviction"), ("appendonly", "no", "yes")],
)
def test_a_broker_that_was_set_to_lose_messages_is_found(
    ask: Ask, broker: Redis, name: str, bad: str, good: str
) -> None:
    broker.config_set(name, bad)
    try:
        assert name in ask()
    finally:
        broker.config_set(name, good)
    assert ask() == ""


def test_servers_that_do_not_answer_are_named(ask: Ask) -> None:
    found = ask(
        DATABASE_URL=f"postgres://a:b@127.0.0.1:{free_port()}/c",
        BROKER_URL=f"redis://127.0.0.1:{free_port()}/0",
    )
    assert "database:" in found and "broker:" in found


@pytest.mark.usefixtures("leader")
def test_tables_that_are_not_migrated_are_found(ask: Ask) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM django_migrations WHERE app = 'sessions' RETURNING app, name, applied"
        )
        forgotten = cursor.fetchall()
    try:
        assert "sessions.0001_initial" in ask()
    finally:
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO django_migrations (app, name, applied) VALUES (%s, %s, %s)", forgotten
            )


@pytest.mark.usefixtures("leader")
def test_what_the_ledger_says_is_found(ask: Ask) -> None:
    now = datetime.now(UTC)
    for state, due, end in [
        (State.DEAD, now, now),
        (State.PENDING, now - timedelta(minutes=10), None),
        (State.PENDING, now + timedelta(minutes=10), None),
    ]:
        Delivery.objects.create(
            task="tests.any", queue="default", state=state, max_failures=1, due_at=due,
            created_at=now, finished_at=end,
        )  # fmt: skip
    QuarantinedMessage.objects.create(queue="default", reason="unknown key", size=1, content="x")

    found = ask()
    assert "1 deliveries have failed" in found
    assert "1 deliveries are overdue" in found
    assert "unknown key" in found
    assert len(found.splitlines()) == 3

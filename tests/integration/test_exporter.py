"""The celery-exporter as a real process, beside what really waits in Redis and PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone
from kombu import Connection, Exchange, Producer, Queue
from redis import Redis

from bench.ledger_plans import fill
from delivery.models import Delivery, QuarantinedMessage, State
from delivery.queue_lists import PRIORITY_STEPS, lists_of
from deploy.embedded.servers import RedisServer, free_port, running
from deploy.embedded.servers.redis import CELERY_EXPORTER, READERS
from exporter import broker, ledger, scan
from housekeeping.models import Canary
from telemetry import presence, reading_accounts
from telemetry.catalogue import EXPORTER, served_by
from telemetry.management.commands import doctor_facts
from telemetry.models import Presence
from tests.support import environment
from tests.support.exporter_scrapes import Scrape, scrape
from tests.support.frozen_redis import frozen
from tests.support.roles import Role, running_role, running_worker, wait_until
from tests.support.sleeping_task import sleep

pytestmark = pytest.mark.django_db(transaction=True)

#: The broker's database of these tests: no worker of other tests consumes there.
BROKER_DATABASE = 7
KNOWN = ("default", "mail", "bulk", "maintenance")


@dataclass
class Exporter:
    """A running exporter."""

    role: Role
    url: str

    def scrape(self) -> Scrape:
        """Scrape what was read after this call: what cost much is good for a moment."""
        called = time.time()
        found: list[Scrape] = []

        def is_new() -> bool:
            found.append(scrape(self.url))
            return all(began >= called for began in found[-1].readings_began())

        wait_until(is_new, timeout=20, what="a new reading")
        return found[-1]

    def settled(self, condition: Callable[[Scrape], object]) -> Scrape:
        """Scrape until a condition holds; for what is looked at every second only."""
        last: list[Scrape] = []

        def holds() -> bool:
            last.append(self.scrape())
            return bool(condition(last[-1]))

        wait_until(holds, timeout=20, what="the exporter sees it")
        return last[-1]


@contextmanager
def running_exporter(directory: Path, **changes: str) -> Iterator[Exporter]:
    port = free_port()
    account = f"postgres://celery_exporter:{environment.PASSWORD}@127.0.0.1"
    variables = {
        "DATABASE_URL": f"{account}:{environment.POSTGRES_PORT}/test_celeriac",
        "EXPORTER_PORT": str(port),
        "EXPORTER_SCAN_SECONDS": "1",
        # It has no secret of the application, and needs none.
        "DJANGO_SECRET_KEY": "",
        "TASK_SIGNING_KEYS": "",
        "CHANNEL_LAYER_URL": "",
        **changes,
    }
    with running_role(directory, "exporter", **variables) as role:
        url = f"http://127.0.0.1:{port}"
        role.wait_for_probe("http", f"{url}/livez")
        yield Exporter(role, url)


@pytest.fixture(scope="module")
def broker_url(redis: RedisServer) -> str:
    return f"{redis.url}/{BROKER_DATABASE}"


@pytest.fixture(scope="module")
def exporter_process(
    django_db_setup: None,
    django_db_blocker: Any,
    redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Exporter]:
    with django_db_blocker.unblock():
        reading_accounts.prepare(
            {account.password_variable: environment.PASSWORD for account in ACCOUNTS}
        )
    with running_exporter(
        tmp_path_factory.mktemp("exporter"),
        BROKER_URL=f"{redis.url_of(CELERY_EXPORTER)}/{BROKER_DATABASE}",
    ) as exporter:
        yield exporter


ACCOUNTS = reading_accounts.ACCOUNTS


@pytest.fixture
def queue(broker_url: str) -> Iterator[Redis]:
    """Return the broker, without messages."""
    with Redis.from_url(broker_url) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def exporter(exporter_process: Exporter, queue: Redis, transactional_db: None) -> Exporter:
    return exporter_process


@pytest.fixture
def publish(broker_url: str) -> Iterator[Callable[..., float]]:
    """Publish a plain task as Celery does; `age` is in seconds. Returns when that was."""
    with Connection(broker_url) as own:

        def send(*, age: float = 0, **options: Any) -> float:
            headers = {"enqueued_at": time.time() - age}
            sleep.apply_async((0, os.devnull), connection=own, headers=headers, **options)
            return headers["enqueued_at"]

        yield send


@pytest.fixture
def worker_settings(role_settings: dict[str, str], broker_url: str) -> dict[str, str]:
    """Return the environment of a worker that consumes from that broker."""
    return {
        **role_settings,
        "BROKER_URL": broker_url,
        "WORKER_SERVICE": "worker-bulk",
    }


@pytest.fixture
def canaries(transactional_db: None) -> None:
    """Have a canary of one queue come through."""
    Canary.objects.create(queue="mail", succeeded_at=datetime.fromtimestamp(1_700_000_000, UTC))


def enter(state: State = State.DISPATCHED, *, due: float = 10, **fields: Any) -> Delivery:
    """Enter a delivery as it is left there; `due` is in seconds from now."""
    now = timezone.now()
    ended = state in {State.SUCCEEDED, State.DEAD, State.CANCELLED}
    return Delivery.objects.create(
        **{
            "task": "tests.add",
            "queue": "default",
            "state": state,
            "max_failures": 3,
            "created_at": now,
            "due_at": now + timedelta(seconds=due),
            "finished_at": now if ended else None,
            **fields,
        }
    )


def since(moment: float, found: Scrape) -> Any:
    """Return what equals an age to a second, however long the scrape took."""
    half = (found.ended - found.began) / 2
    return pytest.approx(found.began + half - moment, abs=1 + half)


def ago(seconds: float) -> datetime:
    return timezone.now() - timedelta(seconds=seconds)


# --- The table of metrics ------------------------------------------------------------------------


def test_a_scrape_is_exactly_what_the_table_of_metrics_says(
    exporter: Exporter, canaries: None, publish: Callable[..., float]
) -> None:
    publish()
    enter(State.DEAD)
    Presence.objects.create(
        name="web@a:1", service="web", state="serving", host="a", pid=1, version="1",
        started_at=timezone.now(), seen_at=timezone.now(),
    )  # fmt: skip
    found = exporter.settled(lambda now: now.families["celery_broker_eta_backlog"].samples)

    assert list(found.families) == [metric.name for metric in served_by(EXPORTER)]
    for metric in served_by(EXPORTER):
        family = found.families[metric.name]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        assert family.samples, f"{metric.name} has no sample"
        for sample in family.samples:
            assert set(sample.labels) == set(metric.labels)
    for name in (
        "celery_queue_length", "celery_queue_oldest_message_age_seconds",
        "celery_broker_eta_backlog", "celery_broker_eta_beyond_visibility",
        "celery_delivery_oldest_waiting_age_seconds", "celery_deliveries_overdue",
        "celery_queue_slo_seconds",
    ):  # fmt: skip
        assert set(found.by(name, "queue_name")) == set(KNOWN), "there before the first task"
    assert found.value("celery_broker_up") == found.value("celery_database_up") == 1


def test_what_the_exporter_writes_down_once_more_is_the_same_elsewhere() -> None:
    assert ledger.OVERDUE_SECONDS == doctor_facts.OVERDUE_SECONDS
    assert ledger.GONE_AFTER_SECONDS == presence.GONE_AFTER_SECONDS
    with Connection(settings.CELERY_BROKER_URL) as own:
        channel: Any = own.default_channel
        assert tuple(channel.priority_steps) == PRIORITY_STEPS
        assert [channel._q_for_pri("mail", step) for step in PRIORITY_STEPS] == lists_of("mail")
        assert (channel.unacked_key, channel.unacked_index_key) == (
            broker.UNACKED, broker.UNACKED_INDEX,
        )  # fmt: skip
        assert channel.keyprefix_queue % "mail" == f"{scan.BINDINGS}mail"
        assert channel.sep.encode() == scan.BINDING_SEPARATOR


# --- The broker ----------------------------------------------------------------------------------


def test_lengths_count_every_priority(exporter: Exporter, publish: Callable[..., float]) -> None:
    for priority, count in ((0, 5), (3, 3), (4, 1), (9, 4)):
        for _ in range(count):
            publish(queue="bulk", priority=priority)
    publish(queue="mail")
    found = exporter.scrape()

    assert found.by("celery_queue_length", "queue_name") == {
        "default": 0, "mail": 1, "bulk": 13, "maintenance": 0,
    }  # fmt: skip
    by_priority = {
        dict(labels)["priority"]: value
        for labels, value in found.values("celery_queue_length_by_priority").items()
        if dict(labels)["queue_name"] == "bulk"
    }
    assert by_priority == {"0": 5, "3": 4, "6": 0, "9": 4}


def test_the_age_is_that_of_the_oldest_message_that_is_due(
    exporter: Exporter, publish: Callable[..., float]
) -> None:
    def assert_age(name: str, moment: float | None) -> None:
        found = exporter.scrape()
        age = found.value("celery_queue_oldest_message_age_seconds", queue_name=name)
        assert age == (0 if moment is None else since(moment, found))

    assert_age("bulk", None)
    now = datetime.now(UTC)
    publish(queue="bulk", age=1000, eta=now + timedelta(seconds=500))
    assert_age("bulk", None)  # it waits for its time, not for a worker
    publish(queue="bulk", age=300, eta=now - timedelta(seconds=40))
    assert_age("bulk", now.timestamp() - 40)
    assert_age("bulk", publish(queue="bulk", age=100))
    assert_age("bulk", publish(queue="bulk", age=200, priority=9))
    first = publish(queue="mail")
    for _ in range(50):
        publish(queue="mail", age=-30)
    assert_age("default", publish(queue="default", age=7200))
    assert_age("mail", first)


def test_a_restart_of_the_exporter_changes_no_number(
    exporter: Exporter, publish: Callable[..., float], broker_url: str, tmp_path: Path
) -> None:
    publish(queue="bulk", age=90)
    enter(due=-30, dispatched_at=ago(60))
    names = (
        "celery_queue_oldest_message_age_seconds",
        "celery_delivery_oldest_waiting_age_seconds",
        "celery_queue_length",
    )
    before = exporter.scrape()
    url = exporter.role.environment["BROKER_URL"]
    for _ in range(2):
        with running_exporter(tmp_path, BROKER_URL=url) as another:
            after = another.scrape()
            assert another.role.stop(timeout=5) == 0
        for name in names:
            now = after.by(name, "queue_name")
            for queue_name, value in before.by(name, "queue_name").items():
                if not value or name == "celery_queue_length":
                    assert now[queue_name] == value
                else:
                    assert now[queue_name] == since(before.ended - value, after)


def test_messages_of_somebody_else_count_and_harm_nobody(
    exporter: Exporter, queue: Redis, publish: Callable[..., float]
) -> None:
    for message in (
        b"", b"\xff\xfe", b"[]", b"7", b"{" * 5000, b'{"headers": 3}',
        json.dumps({"headers": {"enqueued_at": "soon", "eta": "2026-99-99"}}).encode(),
        json.dumps({"headers": {"enqueued_at": True, "eta": 5}}).encode(),
        b'{"headers": {"enqueued_at": NaN}}',
    ):  # fmt: skip
        queue.lpush("mail", message)
    queue.hset("unacked", "tag", "no entry")
    found = exporter.scrape()

    assert found.value("celery_queue_length", queue_name="mail") == 9
    age = found.value("celery_queue_oldest_message_age_seconds", queue_name="mail")
    assert age is None, "nobody says how old they are, so no number is made up"
    moment = publish(queue="mail", age=50)
    found = exporter.scrape()
    age = found.value("celery_queue_oldest_message_age_seconds", queue_name="mail")
    assert age == since(moment, found)
    exporter.settled(lambda now: now.value("celery_broker_scan_truncated") == 0)


def test_queues_that_nobody_here_knows_are_seen(exporter: Exporter, broker_url: str) -> None:
    with Connection(broker_url) as own:
        orphan = Queue("renamed", Exchange("renamed"), routing_key="renamed")
        Producer(own).publish({}, routing_key="renamed", exchange="renamed", declare=[orphan])
    found = exporter.settled(lambda now: now.value("celery_queue_length", queue_name="renamed"))

    assert found.value("celery_queue_length", queue_name="renamed") == 1
    assert set(found.by("celery_queue_length", "queue_name")) == {*KNOWN, "renamed"}


def test_what_workers_hold_and_what_a_killed_one_leaves(
    exporter: Exporter,
    publish: Callable[..., float],
    queue: Redis,
    worker_settings: dict[str, str],
    tmp_path: Path,
) -> None:
    for _ in range(3):
        publish(queue="bulk", countdown=300)
    for _ in range(2):
        publish(queue="bulk", countdown=3600)
    with running_worker(tmp_path, tasks="tests.support.sleeping_task", **worker_settings):
        found = exporter.settled(
            lambda now: (
                now.value("celery_broker_eta_backlog", queue_name="bulk") == 5
                and now.value("celery_broker_unacked") == 5
            )
        )
    # It was killed.
    assert found.value("celery_broker_eta_beyond_visibility", queue_name="bulk") == 2
    assert found.value("celery_broker_eta_backlog", queue_name="mail") == 0
    assert found.value("celery_queue_length", queue_name="bulk") == 0
    assert found.value("celery_broker_unacked") == 5
    assert found.value("celery_broker_unacked_past_visibility") == 0

    tags: Any = sorted(queue.zrange("unacked_index", 0, -1))
    timeout = 900
    assert found.value("celery_broker_visibility_timeout_seconds") == timeout
    oldest = time.time() - timeout - 60
    for tag in tags[:2]:
        queue.zadd("unacked_index", {tag: oldest})
    queue.zadd("unacked_index", {tags[2]: oldest + 120})
    later = exporter.scrape()
    assert later.value("celery_broker_unacked_past_visibility") == 2
    assert later.value("celery_broker_unacked_oldest_age_seconds") == since(oldest, later)
    assert later.value("celery_broker_unacked") == 5


def test_a_scan_has_a_limit_and_says_so(queue: Redis) -> None:
    eta = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
    entry = json.dumps([{"headers": {"eta": eta}}, "", "mail"])
    queue.hset("unacked", mapping={str(uuid4()): entry for _ in range(2000)})

    whole = scan.scan(queue, 900)
    assert (whole.waiting["mail"], whole.truncated) == (2000, False)
    part = scan.scan(queue, 900, limit=600)
    assert part.truncated
    assert 600 <= part.waiting["mail"] < 2000
    assert scan.scan(queue, 30).beyond == {"mail": 2000}


# --- The ledger ----------------------------------------------------------------------------------


def test_deliveries_are_what_the_table_says(exporter: Exporter) -> None:
    kinds: dict[str, list[dict[str, Any]]] = {
        "waiting": [{"state": State.DISPATCHED}, {"state": State.PENDING, "due": -1}],
        "scheduled": [{"state": State.PENDING, "due": 3600}],
        "running": [{"state": State.RUNNING}],
        "dead": [{"state": State.DEAD}],
        "": [{"state": State.SUCCEEDED}, {"state": State.CANCELLED}],
    }
    expected = dict.fromkeys(((name, kind) for name in KNOWN for kind in kinds if kind), 0)
    for number, name in enumerate((*KNOWN, "a-queue-of-old"), start=1):
        for kind, variants in kinds.items():
            for _ in range(number):
                for variant in variants:
                    enter(queue=name, **variant)
            if kind:
                expected[name, kind] = number * len(variants)
    found = exporter.scrape()

    assert {
        (dict(labels)["queue_name"], dict(labels)["state"]): value
        for labels, value in found.values("celery_deliveries").items()
    } == expected
    assert Delivery.objects.exclude(state__in=[State.SUCCEEDED, State.CANCELLED]).count() == sum(
        expected.values()
    )


def test_ages_of_deliveries_are_right_to_a_second(exporter: Exporter) -> None:
    now = time.time()
    enter(queue="mail", due=20, created_at=ago(500), dispatched_at=ago(70))
    enter(queue="mail", due=20, dispatched_at=ago(10))
    enter(State.PENDING, queue="bulk", due=-150, created_at=ago(5000))
    enter(State.PENDING, queue="bulk", due=300, created_at=ago(9000))
    enter(State.RUNNING, queue="default", due=-125, created_at=ago(9000))
    enter(queue="default", due=-60, dispatched_at=ago(60))
    found = exporter.scrape()

    ages = found.by("celery_delivery_oldest_waiting_age_seconds", "queue_name")
    assert ages.pop("maintenance") == 0
    assert ages == {
        name: since(now - age, found)
        for name, age in {"mail": 70, "bulk": 150, "default": 60}.items()
    }
    assert found.by("celery_deliveries_overdue", "queue_name") == {
        "mail": 0, "bulk": 1, "default": 1, "maintenance": 0,
    }  # fmt: skip


def test_dead_letters_quarantine_and_canaries(exporter: Exporter, canaries: None) -> None:
    assert exporter.scrape().value("celery_dead_letter_oldest_age_seconds") == 0
    oldest = ago(300)
    for task, count in (("newsletters.send_batch", 3), ("images.render", 1)):
        for number in range(count):
            finished = oldest + timedelta(seconds=100 * number)
            enter(State.DEAD, task=task, queue="mail", finished_at=finished)
    for number in range(4):
        message = QuarantinedMessage.objects.create(queue="mail", reason="not signed", size=1)
        QuarantinedMessage.objects.filter(pk=message.pk).update(
            received_at=datetime.fromtimestamp(1_700_000_000 + number, UTC)
        )
    found = exporter.scrape()

    assert found.by("celery_dead_letters", "name") == {
        "newsletters.send_batch": 3, "images.render": 1,
    }  # fmt: skip
    age = found.value("celery_dead_letter_oldest_age_seconds")
    assert age == since(oldest.timestamp(), found)
    assert found.value("celery_quarantined_messages") == 4
    last = found.value("celery_quarantine_last_received_timestamp_seconds")
    assert last == pytest.approx(1_700_000_003, abs=0.01)
    assert found.by("celery_canary_last_success_timestamp_seconds", "queue_name") == {
        "mail": 1_700_000_000,
    }  # fmt: skip


def test_processes_are_counted_by_what_they_say(exporter: Exporter) -> None:
    def there(service: str, state: str, *, queues: str = "", seen: float = 1) -> None:
        Presence.objects.create(
            name=str(uuid4()), service=service, state=state, queues=queues, host="a", pid=1,
            version="1", started_at=ago(1000), seen_at=ago(seen),
        )  # fmt: skip

    there("worker", "consuming", queues="default")
    there("worker", "consuming", queues="mail")
    there("worker", "consuming")
    there("worker", "reconnecting", queues="mail")
    there("worker", "consuming", queues="mail", seen=31)
    there("beat", "ticking")
    there("beat", "standby", seen=20)
    found = exporter.scrape().values("celery_processes")

    by_state = {(dict(key)["service"], dict(key)["state"]): value for key, value in found.items()}
    # The session's web process is in the table whenever it has written since the last flush.
    by_state.pop(("web", "serving"), None)
    assert by_state == {
        ("worker", "consuming"): 2, ("worker", "paused"): 1, ("worker", "reconnecting"): 1,
        ("worker", "gone"): 1, ("beat", "ticking"): 1, ("beat", "standby"): 1,
    }  # fmt: skip


def test_finished_deliveries_cost_a_scrape_nothing(exporter: Exporter) -> None:
    fill(connection, finished=50_000, due=50)
    with connection.cursor() as cursor:
        for question, values in (
            (ledger.OPEN, {"overdue": ledger.OVERDUE_SECONDS}),
            (ledger.DEAD, {}),
        ):
            cursor.execute(f"EXPLAIN {question}", values)
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "Seq Scan" not in plan, plan
            assert "delivery_due" in plan or "delivery_dead_letters" in plan
    assert exporter.scrape().value("celery_database_up") == 1


# --- What is away --------------------------------------------------------------------------------


def assert_only_the_broker_is_away(found: Scrape) -> None:
    assert (found.value("celery_broker_up"), found.value("celery_database_up")) == (0, 1)
    for name in (
        "celery_queue_length", "celery_queue_oldest_message_age_seconds", "celery_broker_unacked",
    ):  # fmt: skip
        assert not found.families[name].samples, "an old number must not pass for a new one"
    assert found.families["celery_deliveries"].samples
    assert found.families["celery_queue_slo_seconds"].samples


@pytest.mark.usefixtures("exporter")
def test_a_broker_that_goes_freezes_and_returns(tmp_path: Path) -> None:
    readers = dict.fromkeys(READERS, environment.PASSWORD)
    server = RedisServer(tmp_path / "redis", free_port(), environment.PASSWORD, readers)
    waits_since = ago(70)
    enter(due=20, dispatched_at=waits_since)
    with ExitStack() as stack:
        own = stack.enter_context(
            running_exporter(tmp_path, BROKER_URL=f"{server.url_of(CELERY_EXPORTER)}/0")
        )
        first = own.scrape()
        assert_only_the_broker_is_away(first)
        age = first.value("celery_delivery_oldest_waiting_age_seconds", queue_name="default")
        assert age == since(waits_since.timestamp(), first), "known without the broker too"
        assert first.value("celery_exporter_last_success_timestamp_seconds", source="broker") == 0
        with running(server):
            back = own.settled(
                lambda now: (
                    now.value("celery_broker_up")
                    and now.families["celery_broker_eta_backlog"].samples
                )
            )
            with Redis.from_url(server.url) as client, frozen(client):
                meanwhile = own.scrape()
                assert meanwhile.ended - meanwhile.began < 8, "Prometheus would not wait for ever"
                assert_only_the_broker_is_away(meanwhile)
                last = "celery_exporter_last_success_timestamp_seconds"
                assert meanwhile.value(last, source="broker") == back.value(last, source="broker")
                database = meanwhile.value(last, source="database")
                assert database == pytest.approx(time.time(), abs=8)
                assert own.role.probe("http", f"{own.url}/livez") == 0
            own.settled(lambda now: now.value("celery_broker_up"))
        own.settled(lambda now: not now.value("celery_broker_up"))
        gone = own.settled(lambda now: not now.families["celery_broker_eta_backlog"].samples)
        assert_only_the_broker_is_away(gone)
        with running(server):
            own.settled(lambda now: now.value("celery_broker_up"))
        lines = [json.loads(line) for line in own.role.log.splitlines()]
    events = [line["event"] for line in lines]
    assert events.count("source_is_away") == 3, "once for each outage, not for each scrape"
    assert environment.PASSWORD not in str(lines)


def sessions() -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE usename = 'celery_exporter'")
        return [pid for (pid,) in cursor.fetchall()]


def test_a_database_that_goes_freezes_and_returns(
    exporter: Exporter, publish: Callable[..., float]
) -> None:
    publish(queue="mail")
    assert exporter.scrape().value("celery_database_up") == 1
    assert len(sessions()) == 1, "one connection, which is kept"
    for pid in sessions():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    assert exporter.scrape().value("celery_database_up") == 1, "a restart in between is no outage"

    with connection.cursor() as cursor:
        cursor.execute("ALTER ROLE celery_exporter NOLOGIN")
        try:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", sessions())
            away = exporter.scrape()
        finally:
            cursor.execute("ALTER ROLE celery_exporter LOGIN")
    assert (away.value("celery_broker_up"), away.value("celery_database_up")) == (1, 0)
    assert not away.families["celery_deliveries"].samples
    assert away.value("celery_queue_length", queue_name="mail") == 1
    assert exporter.scrape().value("celery_database_up") == 1

    [pid] = sessions()
    os.kill(pid, signal.SIGSTOP)
    try:
        meanwhile = exporter.scrape()
        assert (meanwhile.value("celery_broker_up"), meanwhile.value("celery_database_up")) == (
            1,
            0,
        )
        again = exporter.scrape()
        assert again.ended - again.began < 8
        assert sessions() == [pid], "nobody asks again while it is frozen"
    finally:
        os.kill(pid, signal.SIGCONT)
    exporter.settled(lambda now: now.value("celery_database_up"))


def test_a_locked_table_costs_seconds_and_no_scrape(exporter: Exporter) -> None:
    with connection.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE delivery_delivery IN ACCESS EXCLUSIVE MODE")
        try:
            locked = exporter.scrape()
        finally:
            cursor.execute("ROLLBACK")
    assert (locked.value("celery_broker_up"), locked.value("celery_database_up")) == (1, 0)
    exporter.settled(lambda now: now.value("celery_database_up"))


def test_it_tells_nothing_else(exporter_process: Exporter) -> None:
    for path in ("/", "/metrics/x", "/health", "/../etc/passwd"):
        assert exporter_process.role.probe("http", f"{exporter_process.url}{path}") == 1

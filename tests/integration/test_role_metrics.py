"""What beat, relay and web say in their metrics, compared with what has happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from django.conf import settings as settings_of
from django.test import Client
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask
from redis import Redis
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from config import topology
from delivery.ledger import MAXIMUM_INTERRUPTIONS
from delivery.models import Delivery, State
from delivery.relay import BATCH
from deploy.embedded.servers import PostgresServer, RedisServer, free_port, running
from housekeeping.tasks import delete_expired_sessions
from telemetry import catalogue
from tests.integration.conftest import TOKEN
from tests.support.durable_tasks import add
from tests.support.environment import PASSWORD
from tests.support.roles import (
    DURABLE_TASKS,
    ENTRYPOINT,
    Role,
    Web,
    role_environment,
    running_role,
    running_web,
    wait_until,
)
from tests.support.scrapes import Scrape, parse, scrape

pytestmark = pytest.mark.django_db(transaction=True)

#: A durable task that nothing but the entries of these tests has a reason to send.
BEARER = {"Authorization": f"Bearer {TOKEN}"}
EVERY_SECONDS = 2
TASK = delete_expired_sessions.name


class Measured:
    """A role, and where it serves its metrics."""

    def __init__(self, role: Role, port: int) -> None:
        self.role = role
        self.url = f"http://127.0.0.1:{port}/metrics"

    def scrape(self) -> Scrape:
        """Read its metrics."""
        return scrape(self.url)


@contextmanager
def measured_role(
    directory: Path, role: str, *, name: str = "", tasks: str = "", **settings: str
) -> Iterator[Measured]:
    """Run a role that serves its metrics, and wait until its loop turns."""
    port = free_port()
    settings = {**settings, "METRICS_PORT": str(port), "BIND_HOST": "127.0.0.1"}
    with running_role(directory, role, name=name, tasks=tasks, **settings) as running:
        running.wait_for_probe("live")
        yield Measured(running, port)


def sent() -> list[datetime]:
    """Return when the entry's deliveries were entered, in this order."""
    rows = Delivery.objects.filter(task=TASK).order_by("created_at")
    return list(rows.values_list("created_at", flat=True))


def names_of(job: str) -> set[str]:
    """Return the names of the metrics that a job serves, by the catalogue."""
    return {metric.name for metric in catalogue.served_by(job)}


def without_process(families: set[str]) -> set[str]:
    """Return metrics that are ours, without those that prometheus-client has of any process."""
    return {name for name in families if not name.startswith("process_")}


@pytest.fixture
def entry() -> PeriodicTask:
    """Enter a periodic task that is due every two seconds."""
    return periodic("often", TASK)


def periodic(name: str, task: str, **options: Any) -> PeriodicTask:
    """Enter a periodic task that is due every two seconds."""
    every, _ = IntervalSchedule.objects.get_or_create(every=EVERY_SECONDS, period="seconds")
    return PeriodicTask.objects.create(
        name=name, task=task, interval=every, expire_seconds=3600, **options
    )


# --- beat ----------------------------------------------------------------------------------------


def test_a_beat_serves_what_the_catalogue_says_and_counts_what_it_sends(
    role_settings: dict[str, str], tmp_path: Path, entry: PeriodicTask
) -> None:
    # Half an hour away, so that it is not due in this test.
    minute = (datetime.now(UTC).minute + 30) % 60
    hourly, _ = CrontabSchedule.objects.get_or_create(minute=str(minute), hour="*")
    PeriodicTask.objects.create(name="hourly", task="jobs.no_such", crontab=hourly)
    with measured_role(tmp_path, "beat", **role_settings) as beat:
        wait_until(lambda: len(sent()) >= 3, what=f"it sends: {beat.role.log}")
        before = len(sent())
        seen = beat.scrape()
        moments = sent()

    assert without_process(seen.families) == names_of(catalogue.BEAT)
    assert seen.value("celery_beat_leader") == 1
    assert abs(seen.value("celery_beat_last_tick_timestamp_seconds") - time.time()) < 30
    entries = PeriodicTask.objects.filter(enabled=True).count()
    assert entries == len(settings_of.CELERY_BEAT_SCHEDULE) + 2
    assert seen.value("celery_beat_entries") == entries
    for name in ("celery_beat_sent_total", "celery_beat_publish_failures_total"):
        assert len(seen.labels(name, "entry")) == entries
    assert seen.total("celery_beat_publish_failures_total") == 0
    assert seen.value("celery_beat_sent_total", entry="hourly") == 0
    # Counted after the commit.
    counted = seen.value("celery_beat_sent_total", entry="often")
    assert before - 1 <= counted <= len(moments)
    assert seen.total("celery_task_sent_total", name=TASK) - counted in (0, 1)
    noted = seen.value("celery_beat_entry_last_sent_timestamp_seconds", entry="often")
    assert -0.1 < noted - moments[int(counted) - 1].timestamp() < EVERY_SECONDS
    assert seen.value("celery_beat_entry_interval_seconds", entry="often") == EVERY_SECONDS
    assert seen.value("celery_beat_entry_interval_seconds", entry="hourly") == 3600
    assert seen.value("celery_beat_schedule_lag_seconds_count") == seen.total(
        "celery_beat_sent_total"
    )
    lag = seen.value("celery_beat_schedule_lag_seconds_sum")
    assert 0 < lag < 5 * counted


def test_the_one_that_stands_by_says_so_and_takes_over(
    role_settings: dict[str, str], tmp_path: Path, entry: PeriodicTask
) -> None:
    with measured_role(tmp_path, "beat", name="first", **role_settings) as first:
        wait_until(sent, what=f"it sends: {first.role.log}")
        with measured_role(tmp_path, "beat", name="second", **role_settings) as second:
            leading, standing_by = first.scrape(), second.scrape()
            assert leading.value("celery_beat_leader") == 1
            assert standing_by.value("celery_beat_leader") == 0
            assert standing_by.value("celery_beat_entries") == 0
            assert standing_by.labels("celery_beat_sent_total", "entry") == set()

            assert first.role.stop(timeout=15) == 0
            before = len(sent())
            wait_until(lambda: len(sent()) > before + 1, what=second.role.log)
            seen = second.scrape()
            assert seen.value("celery_beat_leader") == 1
            assert seen.value("celery_beat_sent_total", entry="often") > 0


def test_occurrences_that_cannot_be_published_are_counted(
    role_settings: dict[str, str], tmp_path: Path, entry: PeriodicTask
) -> None:
    periodic("plain", "tests.plain_and_unknown")
    nowhere = {**role_settings, "BROKER_URL": f"redis://:x@127.0.0.1:{free_port()}/0"}
    with measured_role(tmp_path, "beat", **nowhere) as beat:
        wait_until(
            lambda: beat.scrape().total("celery_beat_publish_failures_total", entry="plain") >= 2,
            what=f"the plain one fails: {beat.role.log}",
        )
        seen = beat.scrape()

    # The durable one is in the ledger, from where the relay publishes it.
    assert seen.value("celery_beat_publish_failures_total", entry="often") == 0
    assert seen.value("celery_beat_sent_total", entry="often") > 0
    assert seen.value("celery_beat_sent_total", entry="plain") == 0
    assert seen.total("celery_task_sent_total") == 0
    failures = seen.value("celery_beat_publish_failures_total", entry="plain")
    assert abs(beat.role.log.count("beat_entry_not_sent") - failures) <= 1


def test_occurrences_that_the_database_kept_from_being_sent_are_counted(
    redis: RedisServer, tmp_path: Path
) -> None:
    server = PostgresServer(tmp_path / "postgres", free_port(), PASSWORD)
    url = f"postgres://celeriac:{PASSWORD}@127.0.0.1:{server.port}/celeriac"
    name = "canary-default"
    try:
        with running(server):
            migrate = [str(ENTRYPOINT), "manage", "migrate"]
            environment = role_environment(tmp_path, "manage", {"DATABASE_URL": url})
            subprocess.run(migrate, env=environment, check=True, capture_output=True)
        with measured_role(tmp_path, "beat", DATABASE_URL=url) as beat:
            with running(server):
                wait_until(
                    lambda: beat.scrape().total("celery_beat_entries") > 0, what=beat.role.log
                )
                with psycopg.connect(server.url) as connection:
                    connection.execute(
                        "UPDATE django_celery_beat_intervalschedule SET every = 3"
                        " WHERE period = 'seconds' AND every = %s",
                        [topology.CANARY_PERIOD_SECONDS],
                    )
                    connection.execute(
                        "UPDATE django_celery_beat_periodictasks SET last_update = now()"
                    )
                wait_until(
                    lambda: beat.scrape().total("celery_beat_sent_total", entry=name) >= 1,
                    what=beat.role.log,
                )
                # From here on: sessions end before the server does.
                began = time.monotonic()
            wait_until(
                lambda: beat.scrape().value("celery_beat_publish_failures_total", entry=name) >= 3,
                what=beat.role.log,
            )
            seen = beat.scrape()
            # Each occurrence once, however often beat looks.
            away = time.monotonic() - began
            assert seen.value("celery_beat_publish_failures_total", entry=name) <= away / 3 + 2
            assert seen.value("celery_beat_leader") == 0
            # It stands still, which is what an alert looks at.
            assert seen.has("celery_beat_entry_last_sent_timestamp_seconds", entry=name)
            sent_before = seen.value("celery_beat_sent_total", entry=name)
            with running(server):
                wait_until(
                    lambda: beat.scrape().value("celery_beat_sent_total", entry=name) > sent_before,
                    what=f"it is made up for: {beat.role.log}",
                )
                assert beat.scrape().value("celery_beat_leader") == 1
    finally:
        server.remove()


# --- relay ---------------------------------------------------------------------------------------


def enter(number: int, *, queue: str = "bulk", task: str = add.name) -> None:
    """Enter deliveries that only the relay will publish."""
    due = timezone.now() - timedelta(seconds=1)
    Delivery.objects.bulk_create(
        Delivery(
            id=uuid4(), task=task, args=[1, 2], kwargs={}, queue=queue, max_failures=3,
            state=State.PENDING, due_at=due, created_at=due,
        )
        for _ in range(number)
    )  # fmt: skip


def test_a_relay_counts_what_the_broker_got(
    role_settings: dict[str, str], empty_broker: Redis, tmp_path: Path, transactional_db: None
) -> None:
    with measured_role(tmp_path, "relay", tasks=DURABLE_TASKS, **role_settings) as relay:
        wait_until(
            lambda: relay.scrape().value("celery_relay_last_round_timestamp_seconds") > 0,
            what=relay.role.log,
        )
        first = relay.scrape()
        assert without_process(first.families) == names_of(catalogue.RELAY)
        assert first.labels("celery_relay_published_total", "queue_name") == set(
            settings_of.QUEUE_WAIT_TARGETS
        )
        assert first.total("celery_relay_published_total") == 0

        # More than one batch, and one message alone.
        enter(BATCH + 50)
        enter(1, queue="mail")
        enter(2, task="tests.of_another_version")
        wait_until(
            lambda: not Delivery.objects.filter(state=State.PENDING, task=add.name).exists(),
            what=relay.role.log,
        )
        wait_until(
            lambda: relay.scrape().total("celery_relay_unpublishable_total") > 0,
            what=relay.role.log,
        )
        wait_until(lambda: relay.role.log.count('"relay_published"') == 2, what=relay.role.log)
        seen = relay.scrape()
        assert seen.value("celery_relay_published_total", queue_name="bulk") == BATCH + 50
        assert seen.value("celery_relay_published_total", queue_name="bulk") == empty_broker.llen(
            "bulk"
        )
        assert seen.value("celery_relay_published_total", queue_name="mail") == 1
        labels = {"name": add.name, "queue_name": "bulk"}
        assert seen.value("celery_task_sent_total", **labels) == BATCH + 50
        unknown = seen.value("celery_relay_unpublishable_total", name="tests.of_another_version")
        assert unknown == 2
        assert seen.value("celery_relay_round_failures_total") == 0
        assert seen.value("celery_relay_broker_data_losses_total") == 0

        empty_broker.flushdb()
        wait_until(
            lambda: (
                relay.scrape().value("celery_relay_published_total", queue_name="bulk")
                >= 2 * (BATCH + 50)
            ),
            what=f"all again: {relay.role.log}",
        )
        assert empty_broker.llen("bulk") == BATCH + 50
        seen = relay.scrape()
        assert seen.value("celery_relay_broker_data_losses_total") == 1
        assert seen.value("celery_relay_published_total", queue_name="bulk") == 2 * (BATCH + 50)


def test_a_relay_counts_what_it_buries_as_ends_that_were_not_good(
    role_settings: dict[str, str], empty_broker: Redis, tmp_path: Path, transactional_db: None
) -> None:
    unknown = {"name": "tests.of_another_version", "queue_name": "mail"}
    deadly = {"name": add.name, "queue_name": "bulk"}
    enter(3)
    # Its worker has died so often, and now once more.
    Delivery.objects.update(
        state=State.RUNNING, interruptions=MAXIMUM_INTERRUPTIONS - 1, attempts=10
    )
    enter(2, queue="mail", task=unknown["name"])
    long_ago = timezone.now() - timedelta(hours=2)
    Delivery.objects.filter(task=unknown["name"]).update(created_at=long_ago)
    enter(1)
    with measured_role(tmp_path, "relay", tasks=DURABLE_TASKS, **role_settings) as relay:
        wait_until(
            lambda: relay.scrape().value("celery_relay_published_total", queue_name="bulk") == 1,
            what=relay.role.log,
        )
        wait_until(
            lambda: relay.scrape().total("celery_relay_unpublishable_total") == 2,
            what=relay.role.log,
        )
        wait_until(
            lambda: relay.scrape().total("celery_sli_execution_total") == 5, what=relay.role.log
        )
        seen = relay.scrape()
    assert Delivery.objects.filter(state=State.DEAD).count() == 5
    assert seen.value("celery_sli_execution_total", **deadly) == 3
    assert seen.value("celery_sli_execution_total", **unknown) == 2
    assert seen.value("celery_sli_execution_total", name=TASK, queue_name="maintenance") == 0


def test_a_relay_without_a_broker_counts_its_failures_and_publishes_nothing(
    role_settings: dict[str, str], tmp_path: Path, transactional_db: None
) -> None:
    nowhere = {**role_settings, "BROKER_URL": f"redis://:x@127.0.0.1:{free_port()}/0"}
    with measured_role(tmp_path, "relay", **nowhere) as relay:
        wait_until(
            lambda: relay.scrape().value("celery_relay_round_failures_total") >= 2,
            what=relay.role.log,
        )
        seen = relay.scrape()
    assert seen.value("celery_relay_last_round_timestamp_seconds") == 0
    assert seen.total("celery_relay_published_total") == 0
    assert relay.role.log.count("relay_round_failed") - seen.value(
        "celery_relay_round_failures_total"
    ) in (0, 1)


# --- web -----------------------------------------------------------------------------------------


def status_of(
    web: Web, path: str, method: str = "GET", body: str = "", headers: dict[str, str] | None = None
) -> int:
    """Ask the web role on a connection of its own; returns the status of the answer."""
    connection = HTTPConnection(urlsplit(web.url).netloc, timeout=20)
    try:
        connection.request(method, path, body or None, headers or {})
        return connection.getresponse().status
    finally:
        connection.close()


def processes_of(web: Web) -> list[int]:
    """Return the processes that serve requests."""
    main = web.role.process.pid
    children = Path(f"/proc/{main}/task/{main}/children").read_text(encoding="ascii")
    return [int(pid) for pid in children.split()]


def wait_for_others(web: Web, old: list[int]) -> None:
    """Wait until other processes serve than these."""
    wait_until(
        lambda: len(now := set(processes_of(web))) == len(old) and not now & set(old),
        what="new processes",
    )
    wait_until(lambda: status_of(web, "/readyz") == 200, what="they answer")


def web_scrape(web: Web) -> Scrape:
    """Read the metrics of a web role."""
    return scrape(f"{web.url}/metrics")


@pytest.fixture(scope="module")
def measured_web(
    role_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """Run two web processes behind one port, with low limits that do not refill meanwhile."""
    with running_web(
        tmp_path_factory.mktemp("measured"), WEB_CONCURRENCY="2", DATABASE_POOL_SIZE="2",
        API_RATE_LIMIT_PER_MINUTE="1", API_RATE_LIMIT_BURST="90", SIGN_IN_FAILURES_PER_MINUTE="1",
        WEB_METRICS_DIRECTORY="", SERVICE_NAME="shop-web",
        **role_settings,
    ) as web:  # fmt: skip
        folder = metrics_folder(web)
        yield web
    shutil.rmtree(folder)


def metrics_folder(web: Web) -> Path:
    """Return where a web role keeps its numbers, by what its main process was given."""
    given = Path(f"/proc/{web.role.process.pid}/environ").read_text(encoding="utf-8").split("\0")
    (folder,) = (
        value
        for name, _, value in (variable.partition("=") for variable in given)
        if name == "PROMETHEUS_MULTIPROC_DIR"
    )
    return Path(folder)


def test_web_serves_what_the_catalogue_says_beside_the_families_of_django(
    measured_web: Web,
) -> None:
    assert status_of(measured_web, "/api/jobs", headers=BEARER) == 200
    # The other process may have been asked, which notes its pool every 15 s.
    wait_until(
        lambda: web_scrape(measured_web).value("web_database_pool_connections", state="idle") >= 1,
        what="a pool",
    )
    seen = web_scrape(measured_web)
    ours = {name for name in seen.families if not name.startswith("django_")}
    assert ours == names_of(catalogue.WEB)
    assert {
        "django_http_responses_total_by_status_view_method_total",
        "django_http_requests_latency_seconds_by_view_method",
        "django_http_requests_latency_including_middlewares_seconds",
        "django_db_query_duration_seconds",
        "django_db_execute_total",
        "django_db_new_connections_total",
    } <= seen.families
    # One label each: a number for each process would be for nobody.
    assert not any("pid" in dict(labels) for _, labels in seen.values)
    assert not any(name.endswith("_created") for name, _ in seen.values)
    assert seen.value("web_migrations_unapplied") == 0
    assert seen.value("web_database_pool_connections", state="limit") in (2, 4)
    assert seen.value("web_database_pool_connections", state="idle") >= 1
    for limit in ("api", "sign_in"):
        assert seen.has("web_rate_limited_total", limit=limit)
    assert seen.has("celery_task_sent_total", name="images.render_picture", queue_name="bulk")


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no such folder")
def test_a_full_disk_has_no_part_in_it(measured_web: Web) -> None:
    folder = metrics_folder(measured_web)
    assert folder.parent == Path("/dev/shm")
    (process, *_) = processes_of(measured_web)
    mapped = Path(f"/proc/{process}/maps").read_text(encoding="utf-8")
    assert f"{folder}/counter_{process}.db" in mapped


def test_metrics_are_for_reading_and_the_host_does_not_matter(measured_web: Web) -> None:
    assert status_of(measured_web, "/metrics", headers={"Host": "10.0.0.7:8000"}) == 200
    assert status_of(measured_web, "/metrics", "HEAD") == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert status_of(measured_web, "/metrics", method) == 405


def requests_counted(seen: Scrape, view: str, status: int = 200) -> float:
    """Return how many requests a scrape says that a view has answered in this way."""
    name = "django_http_responses_total_by_status_view_method_total"
    return seen.total(name, view=view, status=str(status))


def test_processes_are_added_up_and_nothing_is_lost_when_they_are_replaced(
    measured_web: Web,
) -> None:
    view = "api:list_jobs"
    before = web_scrape(measured_web)
    for _ in range(10):
        assert status_of(measured_web, "/api/jobs", headers=BEARER) == 200
    assert status_of(measured_web, "/livez") == 200
    assert status_of(measured_web, "/readyz") == 200
    seen = web_scrape(measured_web)
    assert requests_counted(seen, view) - requests_counted(before, view) == 10
    total = "django_http_requests_before_middlewares_total"
    assert seen.value(total) - before.value(total) == 10, "probes and scrapes are no requests"

    made = 10
    for number in (signal.SIGTERM, signal.SIGKILL):
        old = processes_of(measured_web)
        for pid in old:
            os.kill(pid, number)
        wait_for_others(measured_web, old)
        seen = web_scrape(measured_web)
        assert requests_counted(seen, view) - requests_counted(before, view) == made
        for _ in range(5):
            assert status_of(measured_web, "/api/jobs", headers=BEARER) == 200
        made += 5
    seen = web_scrape(measured_web)
    assert requests_counted(seen, view) - requests_counted(before, view) == made
    latency = "django_http_requests_latency_seconds_by_view_method_count"
    assert seen.value(latency, view=view, method="GET") == requests_counted(seen, view)
    # Neither the files nor the gauges of those that have ended are left.
    files = metrics_folder(measured_web).glob("counter_*.db")
    names = {path.stem.removeprefix("counter_") for path in files}
    assert len(names) <= 4, "the sums, the main process, and the two that serve"
    assert "retired" in names
    assert seen.value("web_database_pool_connections", state="limit") in (2, 4)


def test_an_unknown_method_is_no_label_of_its_own(measured_web: Web) -> None:
    assert status_of(measured_web, "/no-such-page", "PROPFIND") == 404
    seen = web_scrape(measured_web)
    name = "django_http_requests_latency_seconds_by_view_method_count"
    assert seen.value(name, view="<unnamed view>", method="<invalid method>") == 1
    assert "PROPFIND" not in seen.labels(name, "method")


def test_websockets_are_counted(measured_web: Web) -> None:
    before = web_scrape(measured_web)
    address = f"{measured_web.url.replace('http', 'ws')}/ws/jobs"

    def counted(name: str) -> float:
        seen = web_scrape(measured_web)
        return seen.value(name) - before.value(name)

    with (
        connect(address, additional_headers=BEARER) as first,
        connect(address, additional_headers=BEARER) as second,
    ):
        first.recv(timeout=20)
        second.recv(timeout=20)
        assert counted("web_sockets_open") == 2
        assert counted("web_sockets_opened_total") == 2
    wait_until(lambda: counted("web_sockets_open") == 0, what="both are closed")
    assert counted("web_sockets_refused_total") == 0

    # Types of their own, which nobody can make.
    origin: Any = measured_web.url
    elsewhere: Any = "https://elsewhere.example"
    with connect(address, origin=origin) as stranger, pytest.raises(ConnectionClosed):
        stranger.recv(timeout=20)
    with pytest.raises(InvalidStatus, match="403"):
        connect(address, origin=elsewhere).close()
    with pytest.raises(InvalidStatus, match="404"):
        connect(f"{address}/nothing/there", origin=origin).close()
    assert counted("web_sockets_refused_total") == 3
    assert counted("web_sockets_opened_total") == 2


def test_a_socket_of_a_process_that_was_killed_is_not_open(measured_web: Web) -> None:
    address = f"{measured_web.url.replace('http', 'ws')}/ws/jobs"
    with connect(address, additional_headers=BEARER) as client:
        client.recv(timeout=20)
        assert web_scrape(measured_web).value("web_sockets_open") == 1
        old = processes_of(measured_web)
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        wait_for_others(measured_web, old)
        assert web_scrape(measured_web).value("web_sockets_open") == 0


def test_requests_that_have_to_wait_are_counted(measured_web: Web) -> None:
    before = web_scrape(measured_web)
    answers = Counter(
        status_of(measured_web, "/api/jobs", headers={"Authorization": "Bearer wrong"})
        for _ in range(5)
    )
    answers_of_a_caller = Counter(
        status_of(measured_web, "/api/jobs", headers=BEARER) for _ in range(120)
    )
    seen = web_scrape(measured_web)

    name = "web_rate_limited_total"
    assert answers[429] > 0 and answers_of_a_caller[429] > 0
    assert seen.value(name, limit="sign_in") - before.value(name, limit="sign_in") == answers[429]
    assert (
        seen.value(name, limit="api") - before.value(name, limit="api") == answers_of_a_caller[429]
    )


def test_what_a_request_publishes_is_counted_and_so_is_what_it_leaves_to_the_relay(
    role_settings: dict[str, str], empty_broker: Redis, tmp_path: Path
) -> None:
    order = json.dumps({
        "arrival_rate": 1, "service_time_mean": 1, "service_time_p95": 2, "target_wait": 5,
        "percentile": 95, "max_workers": 4,
    })  # fmt: skip
    headers = {**BEARER, "Content-Type": "application/json"}
    labels = {"name": "capacity.start_plan", "queue_name": "bulk"}
    with running_web(tmp_path, **role_settings) as web:
        assert status_of(web, "/api/jobs/capacity", "POST", order, headers) == 202
        seen = web_scrape(web)
        assert seen.value("celery_task_sent_total", **labels) == 1 == empty_broker.llen("bulk")
        assert seen.value("web_publishing_failures_total") == 0

    nowhere = {**role_settings, "BROKER_URL": f"redis://:x@127.0.0.1:{free_port()}/0"}
    (tmp_path / "alone").mkdir()
    with running_web(tmp_path / "alone", **nowhere) as web:
        for _ in range(3):
            assert status_of(web, "/api/jobs/capacity", "POST", order, headers) == 202
        seen = web_scrape(web)
        assert seen.value("celery_task_sent_total", **labels) == 0
        assert seen.value("web_publishing_failures_total") == 3


def test_a_process_alone_serves_them_too(client: Client) -> None:
    """Without the folder of the entry point, as with ``manage.py runserver``."""
    assert client.get("/readyz").status_code == 200
    response = client.get("/metrics")
    assert response["Content-Type"].startswith("text/plain")
    seen = parse(response.content.decode())
    assert seen.value("web_migrations_unapplied") == 0
    assert client.post("/metrics").status_code == 405

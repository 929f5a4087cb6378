"""A worker's counters against tasks of known fate, and against the ledger: each is exact."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import Celery
from redis import Redis

from config import topology
from config.celery import app
from delivery import ledger
from delivery.models import Delivery, State
from deploy.embedded.servers import RedisServer, free_port, running
from telemetry import catalogue
from telemetry.worker_metrics import BORN_EXCEPTIONS
from tests.conftest import broker_is_idle
from tests.support import environment
from tests.support.durable_tasks import (
    add,
    fail,
    fail_for_good,
    leave_effect_once,
    linger,
    overstay,
    put_off,
)
from tests.support.measured_tasks import (
    plain_drop,
    plain_give_back,
    plain_ignore,
    plain_kill,
    plain_out_of_memory,
    plain_sleep,
)
from tests.support.metrics import Scrape, Series, scrape, series
from tests.support.roles import DURABLE_TASKS, Role, running_relay, running_worker, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

#: Away from the broker's database that the workers of other tests consume.
DATABASE = 9
TASKS = f"{DURABLE_TASKS},tests.support.measured_tasks"
WORKER_QUEUES = {queue.name for queue in topology.queues_of("worker")}
#: Where the tests' tasks go.
QUEUE = "default"

SERVED = catalogue.served_by(catalogue.WORKER)
COUNTERS = [metric.name for metric in SERVED if metric.kind == catalogue.COUNTER]
#: What a worker has counted: its counters, and how many observations its histograms have.
COUNTED = [
    *COUNTERS,
    *(f"{metric.name}_count" for metric in SERVED if metric.kind == catalogue.HISTOGRAM),
]


@contextmanager
def client_of(url: str) -> Iterator[Celery]:
    """Return the application as a process that uses this broker has it."""
    with Celery("celeriac", set_as_current=False) as client:
        client.config_from_object("django.conf:settings", namespace="CELERY")
        client.conf.update(broker_url=url)
        yield client


@dataclass
class Stand:
    """A worker with a relay and a broker database of its own."""

    pool: str
    role: Role
    port: str
    broker: Redis
    url: str

    def scrape(self) -> Scrape:
        return scrape(self.port)

    def counted(self) -> Counter[Series]:
        """Return what is not 0, when everything has ended and been counted."""
        samples = self.scrape().samples(COUNTED)
        return Counter({key: int(value) for key, value in samples.items() if value})

    def send(self, task: Any, *arguments: Any, **options: Any) -> str:
        """Send a plain task to the worker of this stand; returns its id."""
        with app.connection_for_write(self.url) as connection:
            return str(task.apply_async(arguments, connection=connection, **options).id)

    def enter(self, task: Any, *arguments: Any, **keywords: Any) -> str:
        """Enter a durable task, which the relay of this stand publishes; returns its id."""
        # One that is due at once would be published by this process, to its own broker.
        return str(task.apply_on_commit(arguments, keywords, countdown=0.001))

    def control(self, command: str, *arguments: Any, **options: Any) -> None:
        """Tell the worker something, as `celery control` does."""
        with client_of(self.url) as client:
            getattr(client.control, command)(*arguments, **options)

    def is_idle(self) -> bool:
        requests = self.scrape().samples(["celery_worker_requests"])
        return (
            not any(requests.values())
            and broker_is_idle(self.broker)
            and not Delivery.objects.exclude(finished_at__isnull=False).exists()
        )

    def wait_until_idle(self) -> None:
        wait_until(self.is_idle, timeout=60, what=f"everything has ended: {self.role.log[-3000:]}")


def measured_worker(
    directory: Path, pool: str, url: str, settings: dict[str, str], port: str
) -> AbstractContextManager[Role]:
    """Run a worker that serves its metrics, with two slots in a pool of some kind."""
    return running_worker(
        directory, "--pool", pool, tasks=TASKS, **settings, METRICS_PORT=port,
        BROKER_URL=url, WORKER_CONCURRENCY="2",
    )  # fmt: skip


@pytest.fixture(scope="module")
def stands(
    role_settings: dict[str, str], redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Stand]]:
    """Start a worker of a pool for all tests that want it, one pool at a time."""
    url = f"{redis.url}/{DATABASE}"
    directory = tmp_path_factory.mktemp("metrics")
    with Redis.from_url(url) as broker, ExitStack() as always, ExitStack() as current:
        broker.flushdb()
        always.enter_context(
            running_relay(directory, tasks=DURABLE_TASKS, **role_settings, BROKER_URL=url)
        )
        started: dict[str, Stand] = {}

        def start(pool: str) -> Stand:
            if pool not in started:
                current.close()
                started.clear()
                port = str(free_port())
                folder = tmp_path_factory.mktemp(pool)
                role = current.enter_context(
                    measured_worker(folder, pool, url, role_settings, port)
                )
                started[pool] = Stand(pool, role, port, broker, url)
            return started[pool]

        yield start


@pytest.fixture(params=["prefork", "threads", "solo"], scope="module")
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stand(stands: Callable[[str], Stand], pool: str, transactional_db: None) -> Iterator[Stand]:
    stand = stands(pool)
    yield stand
    stand.wait_until_idle()


@pytest.fixture
def prefork(stands: Callable[[str], Stand], transactional_db: None) -> Iterator[Stand]:
    stand = stands("prefork")
    yield stand
    stand.wait_until_idle()


class Expectation:
    """What the counters must have counted, told fate by fate."""

    def __init__(self) -> None:
        self.counts: Counter[Series] = Counter()
        self.succeeded: Counter[str] = Counter()
        self.dead: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()

    def meets(self, task: Any, **counts: int) -> None:
        """Note the fate of some messages of a task, ``failed`` excepted."""
        for kind, number in counts.items():
            self._add(f"celery_task_{kind}_total", number, name=task.name)
        started = counts.get("started", 0)
        self._add("celery_task_runtime_count", started, name=task.name)
        self._add("celery_task_queue_wait_time_count", started)
        self._add("celery_sli_queueing_total", started)
        self._add("celery_sli_queueing_good_total", started)
        succeeded = counts.get("succeeded", 0)
        self._add("celery_sli_execution_total", succeeded, name=task.name)
        self._add("celery_sli_execution_good_total", succeeded, name=task.name)
        if task.durable:
            self.succeeded[task.name] += succeeded
            self.attempts[task.name] += started - counts.get("ignored", 0)

    def fails(self, task: Any, exception: str, number: int) -> None:
        """Note that some of them failed for good."""
        self._add("celery_task_failed_total", number, name=task.name, exception=exception)
        self._add("celery_sli_execution_total", number, name=task.name)
        if task.durable:
            self.dead[task.name] += number

    def times_out(self, task: Any, kind: str, number: int) -> None:
        """Note that some of them met a time limit."""
        self._add("celery_task_timeouts_total", number, name=task.name, kind=kind)

    def waits_too_long(self, number: int) -> None:
        """Note that some attempts waited longer than their queue's target."""
        self._add("celery_sli_queueing_good_total", -number)

    def _add(self, metric: str, number: int, **labels: str) -> None:
        if number:
            self.counts[series(metric, queue_name=QUEUE, **labels)] += number


def assert_counted(stand: Stand, before: Counter[Series], expected: Expectation) -> None:
    """Check every counter, and the ledger beside it."""
    stand.wait_until_idle()
    counted = stand.counted()
    counted.subtract(before)
    assert {key: value for key, value in counted.items() if value} == dict(expected.counts)

    def ledger_says(**conditions: Any) -> dict[str, int]:
        return dict(Counter(Delivery.objects.filter(**conditions).values_list("task", flat=True)))

    assert ledger_says(state=State.SUCCEEDED) == dict(+expected.succeeded)
    assert ledger_says(state=State.DEAD) == dict(+expected.dead)
    attempts: Counter[str] = Counter()
    for task, number in Delivery.objects.values_list("task", "attempts"):
        attempts[task] += number
    assert attempts == +expected.attempts


# --- What is served ------------------------------------------------------------------------------


def test_a_scrape_is_what_the_catalogue_says(stand: Stand) -> None:
    """Names, types and labels: nothing more, nothing less, of what is ours."""
    families = stand.scrape().families
    assert {
        f"{name}_total" if family.type == "counter" else name: family.type
        for name, family in families.items()
        if not name.startswith("process_")  # those that prometheus-client has of any process
    } == {metric.name: metric.kind for metric in SERVED}

    for metric in SERVED:
        family = families[metric.name.removesuffix("_total")]
        assert family.documentation == metric.help
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == set(metric.labels), sample
            assert not sample.name.endswith("_created")
        if metric.kind == catalogue.HISTOGRAM:
            bounds = {
                float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels
            }
            assert bounds == {*metric.buckets, float("inf")}


def test_every_series_is_there_before_the_first_task(
    role_settings: dict[str, str], redis: RedisServer, tmp_path: Path
) -> None:
    port, url = str(free_port()), f"{redis.url}/{DATABASE + 1}"
    with measured_worker(tmp_path, "threads", url, role_settings, port):
        samples = scrape(port).samples(COUNTED)
        with client_of(url) as client:
            # Ends with the first answer: one worker is there.
            inspect = client.control.inspect(timeout=30, limit=1)
            [registered] = (inspect.registered() or {}).values()

    tasks = {
        (name, queue)
        for name in registered
        if (queue := topology.queue_for(name).name) in WORKER_QUEUES
    }
    assert {
        ("tests.plain_kill", "default"),
        ("housekeeping.delete_old_jobs", "maintenance"),
    } < tasks
    expected: set[Series] = set()
    for metric in SERVED:
        name = f"{metric.name}_count" if metric.kind == catalogue.HISTOGRAM else metric.name
        if name not in COUNTED:
            continue
        more: list[dict[str, str]] = [{}]
        if "kind" in metric.labels:
            more = [{"kind": kind} for kind in ("soft", "hard")]
        if "exception" in metric.labels:
            more = [{"exception": exception} for exception in BORN_EXCEPTIONS]
        places = (
            [{"name": task, "queue_name": queue} for task, queue in tasks]
            if "name" in metric.labels
            else [{"queue_name": queue} for queue in WORKER_QUEUES]
        )
        expected |= {series(name, **place, **labels) for place in places for labels in more}
    assert samples == dict.fromkeys(expected, 0)


# --- Fates ---------------------------------------------------------------------------------------


def test_every_fate_is_counted_once(stand: Stand, tmp_path: Path) -> None:
    """Those that every pool knows. Threads and solo have no time limits and no process to kill."""
    before = stand.counted()
    expected = Expectation()
    notes = str(tmp_path / "notes")

    for number in range(5):
        stand.enter(add, number, 1)
    expected.meets(add, received=5, started=5, succeeded=5)

    once = [stand.enter(leave_effect_once, f"{stand.pool} {number}") for number in range(3)]
    expected.meets(leave_effect_once, received=3, started=3, succeeded=3)

    for _ in range(3):
        stand.enter(fail_for_good, notes)
    expected.meets(fail_for_good, received=3, started=3)
    expected.fails(fail_for_good, "PermanentError", 3)

    for _ in range(2):
        stand.enter(fail, notes, times=2)
    expected.meets(fail, received=6, started=6, retried=4, succeeded=2)
    stand.enter(fail, notes, times=100)
    expected.meets(fail, received=3, started=3, retried=2)
    expected.fails(fail, "TransientError", 1)

    for _ in range(2):
        stand.send(plain_ignore)
    expected.meets(plain_ignore, received=2, started=2, ignored=2)

    stand.send(plain_drop)
    expected.meets(plain_drop, received=1, started=1, rejected=1)
    expected.fails(plain_drop, "Reject", 1)

    # Given back, delivered again, tried again: that last message is a new one.
    stand.send(plain_give_back, str(tmp_path / "marker"))
    expected.meets(
        plain_give_back, received=3, redelivered=1, started=3, rejected=1, retried=1, succeeded=1
    )

    # A durable one is made again by the ledger.
    stand.enter(put_off, str(tmp_path / "put off"))
    expected.meets(put_off, received=2, started=2, retried=1, succeeded=1)

    # Expired: it never starts.
    stand.send(plain_sleep, 0, expires=datetime.now(UTC) - timedelta(seconds=1))
    expected.meets(plain_sleep, received=1, revoked=1)

    # Revoked while it waits for its time. Nothing is before it, or it would come after that.
    stand.wait_until_idle()
    revoked = stand.send(plain_sleep, 0, countdown=6)
    wait_until(lambda: stand.scrape().value("celery_worker_requests", state="scheduled") == 1)
    stand.control("revoke", revoked)
    expected.meets(plain_sleep, received=1, revoked=1)

    # It waits for its time in the worker; that is no wait.
    stand.send(plain_sleep, 0, countdown=2)
    expected.meets(plain_sleep, received=1, started=1, succeeded=1)

    # Its publisher says that it has waited long.
    stand.send(plain_sleep, 0, headers={"enqueued_at": time.time() - 100})
    expected.meets(plain_sleep, received=1, started=1, succeeded=1)
    expected.waits_too_long(1)

    stand.wait_until_idle()

    # A message whose delivery has ended.
    row = Delivery.objects.get(id=once[0])
    again = ledger.Message(
        row.id, row.task, row.args, row.kwargs, row.queue, row.options, time.time()
    )
    with app.connection_for_write(stand.url) as connection, connection.Producer() as producer:
        leave_effect_once.publish(again, producer)
    expected.meets(leave_effect_once, received=1, started=1, ignored=1)

    assert_counted(stand, before, expected)


def test_time_limits_and_killed_processes_are_counted_once(prefork: Stand, tmp_path: Path) -> None:
    before = prefork.counted()
    expected = Expectation()
    notes = tmp_path / "notes"

    prefork.enter(overstay, str(notes), stubborn=False)
    expected.meets(overstay, received=1, started=1)
    expected.times_out(overstay, "soft", 1)
    expected.fails(overstay, "SoftTimeLimitExceeded", 1)

    prefork.enter(overstay, str(notes), stubborn=True)
    expected.meets(overstay, received=1, started=1)
    expected.times_out(overstay, "soft", 1)
    expected.times_out(overstay, "hard", 1)
    expected.fails(overstay, "TimeLimitExceeded", 1)
    prefork.wait_until_idle()

    # A durable task whose process is killed is tried again, and has not failed.
    notes.unlink()
    prefork.enter(linger, str(notes), 2.0, "killed")
    wait_until(lambda: notes.exists() and notes.read_text(encoding="utf-8").endswith("\n"))
    os.kill(int(notes.read_text(encoding="utf-8").split()[1]), signal.SIGKILL)
    expected.meets(linger, received=2, started=2, worker_lost=1, retried=1, succeeded=1)
    prefork.wait_until_idle()

    prefork.send(plain_kill, str(tmp_path / "killed"))
    expected.meets(plain_kill, received=2, started=2, worker_lost=1, retried=1, succeeded=1)
    prefork.wait_until_idle()

    # Revoked while it runs.
    notes.unlink()
    delivery_id = prefork.enter(linger, str(notes), 20.0, "terminated")
    wait_until(notes.exists)
    prefork.control("revoke", delivery_id, terminate=True)
    expected.meets(linger, received=1, started=1, revoked=1)

    assert_counted(prefork, before, expected)
    assert Delivery.objects.get(id=delivery_id).state == State.CANCELLED


def test_a_message_of_a_task_that_the_worker_does_not_know_is_counted(stand: Stand) -> None:
    """It comes from newer code. Celery drops it, and makes no request that could count it."""
    before = stand.counted()
    with app.connection_for_write(stand.url) as connection:
        app.send_task("tests.of_a_later_version", queue=QUEUE, connection=connection)
    unknown = series("celery_task_unknown_total", queue_name=QUEUE)
    wait_until(lambda: stand.counted() != before, what=f"it is counted: {stand.role.log[-2000:]}")
    counted = stand.counted()
    counted.subtract(before)
    assert {key: value for key, value in counted.items() if value} == {unknown: 1}


def test_runtime_and_wait_are_those_of_the_task(stand: Stand) -> None:
    """An eta is no wait, and a wait is no runtime."""
    before = stand.scrape()
    stand.send(plain_sleep, 1.5, countdown=6)
    wait_until(lambda: stand.scrape().total("celery_worker_tasks_active") == 1)
    stand.wait_until_idle()
    after = stand.scrape()

    def seconds(name: str) -> float:
        return after.total(f"{name}_sum") - before.total(f"{name}_sum")

    assert 1.5 <= seconds("celery_task_runtime") < 6
    assert 0 <= seconds("celery_task_queue_wait_time") < 5


def test_counting_goes_on_when_somebody_switches_events_off(stand: Stand) -> None:
    before = stand.counted()
    expected = Expectation()
    stand.control("disable_events")
    stand.enter(add, 1, 2)
    expected.meets(add, received=1, started=1, succeeded=1)
    assert_counted(stand, before, expected)
    stand.control("enable_events")


# --- What a worker does now ----------------------------------------------------------------------


def test_gauges_follow_the_worker(stand: Stand) -> None:
    slots = 1 if stand.pool == "solo" else 2
    hostname = f"worker@{os.uname().nodename}"
    idle = stand.scrape()
    assert idle.value("celery_worker_up", hostname=hostname) == 1
    assert idle.value("celery_worker_tasks_active", hostname=hostname) == 0
    assert idle.value("celery_worker_pool_slots") == slots
    assert idle.value("celery_worker_consuming") == 1
    clock = idle.value("celery_worker_clock_timestamp_seconds")
    assert clock == pytest.approx(time.time(), abs=2)
    assert not idle.families["celery_worker_oldest_active_task_seconds"].samples
    children = idle.value("celery_worker_children_rss_bytes")
    processes = psutil.Process(stand.role.process.pid).children()
    if stand.pool == "prefork":
        assert children == pytest.approx(
            sum(child.memory_info().rss for child in processes), rel=0.1
        )
    else:
        assert children == 0

    for _ in range(slots):
        stand.send(plain_sleep, 6)
    wait_until(lambda: stand.scrape().total("celery_worker_tasks_active") == slots)
    time.sleep(1)
    busy = stand.scrape()
    assert busy.value("celery_worker_requests", state="active") == slots
    oldest = busy.value("celery_worker_oldest_active_task_seconds", name="tests.plain_sleep")
    assert oldest is not None
    assert 1 <= oldest < 6


def test_messages_that_wait_in_the_worker_are_shown(prefork: Stand) -> None:
    """One that waits for its time is no burden to the worker; then it waits for a process."""

    def states() -> list[float | None]:
        found = prefork.scrape()
        return [
            found.value("celery_worker_requests", state=state)
            for state in ("active", "scheduled", "prefetched")
        ]

    prefork.send(plain_sleep, 0, countdown=10)
    wait_until(lambda: states() == [0, 1, 0], what="it waits for its time")
    for _ in range(2):
        prefork.send(plain_sleep, 16)
    wait_until(lambda: states() == [2, 1, 0], what="others run meanwhile")
    wait_until(lambda: states() == [2, 0, 1], what="it waits for a process")


def test_a_queue_that_is_cancelled_is_no_longer_shown(stand: Stand) -> None:
    def shown() -> set[str]:
        found = stand.scrape().samples(["celery_worker_queue_subscription"])
        assert set(found.values()) <= {1}
        return {dict(labels)["queue_name"] for _name, labels in found}

    assert shown() == WORKER_QUEUES
    for queue in WORKER_QUEUES:
        stand.control("cancel_consumer", queue)
    wait_until(lambda: shown() == set(), what="nothing is consumed")
    assert stand.scrape().value("celery_worker_consuming") == 0
    for queue in [*WORKER_QUEUES, "bulk"]:
        stand.control("add_consumer", queue)
    wait_until(lambda: shown() == {*WORKER_QUEUES, "bulk"}, what="everything is consumed")
    found = stand.scrape()
    assert found.value("celery_worker_consuming") == 1
    assert found.value("celery_sli_queueing_total", queue_name="bulk") == 0
    stand.control("cancel_consumer", "bulk")
    wait_until(lambda: shown() == WORKER_QUEUES)


def test_a_worker_without_a_broker_answers_and_says_so(
    role_settings: dict[str, str], tmp_path: Path
) -> None:
    port = str(free_port())
    server = RedisServer(tmp_path / "redis", free_port(), environment.PASSWORD)
    with ExitStack() as stack:
        with running(server):
            stack.enter_context(
                measured_worker(tmp_path, "prefork", f"{server.url}/0", role_settings, port)
            )
            assert scrape(port).value("celery_worker_consuming") == 1
        wait_until(lambda: scrape(port).value("celery_worker_consuming") == 0)
        assert not scrape(port).samples(["celery_worker_queue_subscription"])
        assert scrape(port).total("celery_worker_up") == 1
        with running(server):
            wait_until(lambda: scrape(port).value("celery_worker_consuming") == 1)
            samples = scrape(port).samples(["celery_worker_queue_subscription"])
            assert len(samples) == len(WORKER_QUEUES)


# --- The port ------------------------------------------------------------------------------------


def holders(role: Role, port: str) -> set[int]:
    """Return the processes of a worker that hold a port."""
    main = psutil.Process(role.process.pid)
    return {
        process.pid
        for process in (main, *main.children(recursive=True))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == int(port)
    }


def is_served(port: str) -> bool:
    try:
        return scrape(port).value("celery_worker_consuming") == 1
    except OSError:
        return False


def test_only_the_main_process_holds_the_port_which_is_free_when_it_is_killed(
    role_settings: dict[str, str], redis: RedisServer, tmp_path: Path
) -> None:
    port, url = str(free_port()), f"{redis.url}/{DATABASE + 1}"
    with measured_worker(tmp_path, "prefork", url, role_settings, port) as role:
        main = psutil.Process(role.process.pid)
        # One that is forked after the server has started.
        [first, _second] = main.children()
        first.kill()
        wait_until(lambda: len(main.children()) == 2 and first not in main.children())
        assert holders(role, port) == {main.pid}

        main.kill()
        role.process.wait()
        with measured_worker(tmp_path, "prefork", url, role_settings, port) as other:
            # The heartbeat of the killed one said that it is ready.
            wait_until(lambda: is_served(port), what=f"metrics: {other.log_file}")


def test_a_task_that_runs_out_of_memory_has_failed(
    role_settings: dict[str, str], redis: RedisServer, tmp_path: Path
) -> None:
    """Celery raises the error in its main process, and announces nothing."""
    port, url = str(free_port()), f"{redis.url}/{DATABASE + 1}"
    with measured_worker(tmp_path, "prefork", url, role_settings, port) as role:
        with app.connection_for_write(url) as connection:
            plain_out_of_memory.apply_async(connection=connection)
        labels = {"name": plain_out_of_memory.name, "queue_name": QUEUE, "exception": "MemoryError"}
        wait_until(
            lambda: scrape(port).value("celery_task_failed_total", **labels) == 1,
            timeout=20,
            what=role.log[-2000:],
        )

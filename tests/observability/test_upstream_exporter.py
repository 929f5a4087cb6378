"""The public celery-exporter beside ours: the same tasks, counted by both, and by the ledger."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from django.db.models import Sum
from redis import Redis
from redis.exceptions import NoPermissionError

from delivery.models import Delivery, QuarantinedMessage, State
from deploy.embedded.servers import RedisServer, free_port
from deploy.embedded.servers import running as running_server
from deploy.embedded.servers.redis import CELERY_EXPORTER, READERS, UPSTREAM_EXPORTER
from telemetry.reading_accounts import ACCOUNTS, prepare
from tests.observability.comparison import Comparison, Row
from tests.support import environment, upstream_exporter
from tests.support.durable_tasks import add, fail, fail_for_good, linger, overstay
from tests.support.roles import (
    DURABLE_TASKS,
    Role,
    running_relay,
    running_role,
    running_worker,
    wait_until,
)
from tests.support.scrapes import Scrape, scrape
from tests.support.upstream_exporter import UpstreamExporter

# It starts two workers one after the other, and an exporter twice: 90 s on a quiet machine.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]

QUEUE = "default"
#: How many messages wait with each priority, once there is no worker.
WAITING = {0: 5, 3: 3, 9: 4}
#: How many tasks run while it is restarted.
RUNNING = 2
STATES = ("sent", "received", "started", "succeeded", "failed", "retried")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the public exporter."""
    directory = tmp_path_factory.mktemp("upstream-exporter")
    upstream_exporter.install(directory)
    return directory


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Run a Redis that no worker of other tests consumes; events are in its first database."""
    server = RedisServer(
        tmp_path_factory.mktemp("broker"),
        free_port(),
        environment.PASSWORD,
        dict.fromkeys(READERS, environment.PASSWORD),
    )
    with running_server(server):
        yield server


@dataclass
class Stand:
    """A worker, a relay and our exporter, and the public one beside them."""

    directory: Path
    packages: Path
    broker: RedisServer
    settings: dict[str, str]
    relay_port: int = field(default_factory=free_port)
    worker_port: int = field(default_factory=free_port)
    exporter_port: int = field(default_factory=free_port)

    def running_worker(self) -> AbstractContextManager[Role]:
        return running_worker(
            self.directory, "--pool", "prefork", tasks=DURABLE_TASKS, **self.settings,
            METRICS_PORT=str(self.worker_port), WORKER_CONCURRENCY="4",
        )  # fmt: skip

    def running_relay(self) -> AbstractContextManager[Role]:
        return running_relay(
            self.directory, tasks=DURABLE_TASKS, **self.settings, METRICS_PORT=str(self.relay_port)
        )

    @contextmanager
    def running_exporter(self) -> Iterator[Role]:
        account = f"postgres://celery_exporter:{environment.PASSWORD}@127.0.0.1"
        with running_role(
            self.directory, "exporter",
            BROKER_URL=f"{self.broker.url_of(CELERY_EXPORTER)}/0",
            DATABASE_URL=f"{account}:{environment.POSTGRES_PORT}/test_celeriac",
            EXPORTER_PORT=str(self.exporter_port),
        ) as exporter:  # fmt: skip
            exporter.wait_for_probe("http", f"http://127.0.0.1:{self.exporter_port}/livez")
            yield exporter

    @contextmanager
    def running_upstream(self) -> Iterator[UpstreamExporter]:
        with upstream_exporter.running(self.packages, self.directory, self.account_url) as exporter:
            yield exporter

    @property
    def account_url(self) -> str:
        """The broker, with the public exporter's account."""
        return f"{self.broker.url_of(UPSTREAM_EXPORTER)}/0"

    def worker(self) -> Scrape:
        return scrape(f"http://127.0.0.1:{self.worker_port}/metrics")

    def relay(self) -> Scrape:
        return scrape(f"http://127.0.0.1:{self.relay_port}/metrics")

    def exporter(self) -> Scrape:
        return scrape(f"http://127.0.0.1:{self.exporter_port}/metrics")


@pytest.fixture
def stand(
    packages: Path,
    broker: RedisServer,
    role_settings: dict[str, str],
    transactional_db: None,
    tmp_path: Path,
) -> Stand:
    prepare({account.password_variable: environment.PASSWORD for account in ACCOUNTS})
    settings = {**role_settings, "BROKER_URL": f"{broker.url}/0"}
    return Stand(tmp_path, packages, broker, settings)


def enter(task: Any, *arguments: Any, priority: int = 0, **keywords: Any) -> None:
    """Enter a durable task, which the relay publishes: this process has another broker."""
    task.apply_on_commit(arguments, keywords, countdown=0.001, priority=priority)


def everything_has_ended() -> bool:
    return not Delivery.objects.filter(finished_at__isnull=True).exists()


def attempts(**conditions: Any) -> int:
    found = Delivery.objects.filter(**conditions).aggregate(total=Sum("attempts"))["total"]
    return int(found or 0)


def ended(**conditions: Any) -> int:
    return Delivery.objects.filter(finished_at__isnull=False, **conditions).count()


def ledger_says(state: str) -> int:
    """Return how often that happened to tasks, by the rows of all of them."""
    match state:
        case "succeeded":
            return ended(state=State.SUCCEEDED)
        case "failed":
            return ended(state=State.DEAD)
        case "retried":
            return attempts() - ended()
        case _:
            return attempts()


def settled(read: Callable[[], Scrape]) -> Scrape:
    """Read until two readings say the same: events arrive a little later than tasks end."""
    before = read()
    while (now := read()).values.items() != before.values.items():
        before = now
        time.sleep(0.5)
    return now


def test_both_exporters_on_the_same_load(stand: Stand, compared: Comparison) -> None:
    with ExitStack() as exporters, stand.running_relay():
        exporters.enter_context(stand.running_exporter())
        theirs = exporters.enter_context(stand.running_upstream())
        with stand.running_worker() as worker:
            meet_every_fate(stand.directory)
            compared.notes.append(seconds_of_scrapes(stand, theirs))
            wait_until(everything_has_ended, timeout=90, what="the load has ended")
            compared.rows += rows_of_fates(stand, theirs)
            os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.wait()
        compared.rows += rows_without_a_worker(stand, theirs)
        exporters.close()
        compared.rows += rows_after_restarts(stand)

    assert [row for row in compared.rows if row.ours != row.truth] == []
    # Each scrape of the public exporter asks all workers, twice.
    assert not QuarantinedMessage.objects.exists()


def meet_every_fate(directory: Path) -> None:
    """Give the worker tasks that end in every way, and kill the process of one."""
    killed = directory / "killed"
    enter(linger, str(killed), 5.0, "killed")
    for number in range(20):
        enter(add, number, 1)
    for _ in range(3):
        enter(fail_for_good, str(directory / "for good"))
    for _ in range(2):
        enter(fail, str(directory / "twice"), times=2)
    enter(fail, str(directory / "always"), times=100)
    for _ in range(2):
        enter(overstay, str(directory / "overstay"), stubborn=True)
    wait_until(lambda: lines_of(killed), what="a task runs that is killed")
    os.kill(int(lines_of(killed)[0].split()[1]), signal.SIGKILL)


def rows_of_fates(stand: Stand, theirs: UpstreamExporter) -> Iterator[Row]:
    """Compare what has been counted, now that everything has ended."""
    public = settled(theirs.scrape)
    worker, relay = stand.worker(), stand.relay()
    for state in STATES:
        metric = f"celery_task_{state}_total"
        ours = (relay if state == "sent" else worker).total(metric)
        yield Row(f"task_{state}_total", "all", ledger_says(state), ours, public.total(metric))

    failed, ends = "celery_task_failed_total", ended(task=overstay.name, state=State.DEAD)
    for what, labels in (
        ("killed at their time limit", {}),
        ("the same, as `TimeLimitExceeded`", {"exception": "TimeLimitExceeded"}),
    ):
        labels["name"] = overstay.name
        ours, public_count = worker.total(failed, **labels), public.total(failed, **labels)
        yield Row("task_failed_total", what, ends, ours, public_count)
    ours = worker.total("celery_task_worker_lost_total")
    lost = attempts(task=linger.name) - ended(task=linger.name)
    yield Row("task_worker_lost_total", "kill -9 of a pool process", lost, ours, None)
    runs = "celery_task_runtime_count"
    yield Row("task_runtime_count", "all", attempts(), worker.total(runs), public.total(runs))
    ours = worker.total("celery_task_queue_wait_time_count")
    yield Row("task_queue_wait_time_count", "all", attempts(), ours, None)


def seconds_of_scrapes(stand: Stand, theirs: UpstreamExporter) -> str:
    """Say how long a scrape takes: the shortest of some, as other processes want the CPU too."""

    def seconds(read: Callable[[], Scrape], number: int = 5) -> float:
        durations = []
        for _ in range(number):
            began = time.perf_counter()
            read()
            durations.append(time.perf_counter() - began)
        return min(durations)

    return (
        f"A scrape took {seconds(theirs.scrape, 1):.2f} s of theirs, "
        f"{seconds(stand.exporter) * 1000:.0f} ms of our exporter, "
        f"{seconds(stand.worker) * 1000:.0f} ms of the worker."
    )


def rows_without_a_worker(stand: Stand, theirs: UpstreamExporter) -> Iterator[Row]:
    """Let messages of several priorities wait, after a kill -9 of the whole worker."""
    for priority, number in WAITING.items():
        for _ in range(number):
            enter(add, 1, 1, priority=priority)
    waiting = sum(WAITING.values())
    wait_until(lambda: queue_length(stand) == waiting, what="the messages wait")
    dispatched = Delivery.objects.filter(state=State.DISPATCHED).count()
    public = theirs.scrape()
    counted = public.value("celery_queue_length", queue_name=QUEUE)
    yield Row("queue_length", "priorities 0, 3 and 9", dispatched, queue_length(stand), counted)
    up = "celery_worker_up"
    try:
        ours = stand.worker().total(up)
    except URLError:
        # No answer is no series, and `up 0` in Prometheus.
        ours = 0
    yield Row("worker_up", "kill -9 of the only worker", 0, ours, public.total(up))


def rows_after_restarts(stand: Stand) -> Iterator[Row]:
    """Restart the exporters while messages wait, and once more while tasks run."""
    waited = sum(WAITING.values())
    with ExitStack() as exporters:
        exporters.enter_context(stand.running_exporter())
        theirs = exporters.enter_context(stand.running_upstream())
        wait_until(lambda: queue_length(stand) == waited, what="it sees what waits")
        with stand.running_worker():
            wait_until(everything_has_ended, what="what waited has ended")
            what = "sent before the exporter's restart"
            yield succeeded(stand, settled(theirs.scrape), add, what, waited)

            notes = stand.directory / "running"
            for number in range(RUNNING):
                enter(linger, str(notes), 15.0, f"runs {number}")
            wait_until(lambda: len(lines_of(notes)) == RUNNING, what="tasks run")
            exporters.close()
            theirs = exporters.enter_context(stand.running_upstream())
            assert not everything_has_ended(), "they ended before the exporter was back"
            wait_until(everything_has_ended, what="what ran has ended")
            what = "running at the exporter's restart"
            yield succeeded(stand, settled(theirs.scrape), linger, what, RUNNING)


def succeeded(stand: Stand, public: Scrape, task: Any, what: str, truth: int) -> Row:
    """Compare what succeeded, under its name and queue."""
    metric, labels = "celery_task_succeeded_total", {"name": task.name, "queue_name": QUEUE}
    ours, theirs = stand.worker().total(metric, **labels), public.total(metric, **labels)
    return Row("task_succeeded_total", what, truth, ours, theirs)


def queue_length(stand: Stand) -> float:
    return stand.exporter().value("celery_queue_length", queue_name=QUEUE)


def lines_of(notes: Path) -> list[str]:
    return notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []


def test_it_needs_its_account_and_its_settings(stand: Stand) -> None:
    """Without both, each scrape would fill the quarantine."""

    @contextmanager
    def without_settings(url: str, patience: float) -> Iterator[None]:
        with upstream_exporter.running(
            stand.packages, stand.directory, url, settings=None, patience=patience
        ):
            yield

    with stand.running_worker():
        with (
            pytest.raises(AssertionError, match="not within"),
            without_settings(stand.account_url, patience=4),
        ):
            pytest.fail("it has asked the workers")
        assert not QuarantinedMessage.objects.exists()
        with without_settings(f"{stand.broker.url}/0", patience=30):
            wait_until(QuarantinedMessage.objects.exists, what="a question is refused")
    assert {message.queue for message in QuarantinedMessage.objects.all()} == {"celery.pidbox"}


#: With its own account.
FORBIDDEN: list[Any] = [
    "PUBLISH /0.celery.pidbox message",
    "PSUBSCRIBE /0.celery.pidbox",
    "LRANGE default 0 -1",
    "RPOP default",
    "BRPOP default 1",
    "LPUSH default message",
    "DEL default",
    "DEL unacked",
    "HGETALL unacked",
    "GET key",
    "CONFIG GET maxmemory",
    "EVAL return 0",
]


def test_its_account_hears_events_and_counts_messages(broker: RedisServer) -> None:
    with Redis.from_url(f"{broker.url_of(UPSTREAM_EXPORTER)}/0", protocol=2) as client:
        assert client.llen(QUEUE) == 0
        for command in FORBIDDEN:
            with pytest.raises(NoPermissionError):
                client.execute_command(*command.split())

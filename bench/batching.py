"""What a mail costs in four ways, and what becomes of mails when their worker is interrupted.

    python -m bench.batching

Starts a PostgreSQL, a Redis, a mail server and real workers of its own. Every way is measured in
every round, one after the other, so that what else the machine does reaches all alike: trust the
ratios of one run, not single figures. celery-batches is not in this project's lock, because it
asks for an older Celery; it is installed into a folder that is deleted at the end, if it can be.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Final

import psutil
from redis import Redis

from bench.durable_task import cpu_seconds
from bench.mail import UNLUCKY
from bench.project import ROOT, own_servers
from deploy.embedded.servers import free_port
from tests.support.mail_sink import MailSink, running_mail_sink
from tests.support.roles import running_role, wait_until

#: Seconds that all mails of a round may take.
PATIENCE_SECONDS: Final = 300
#: Seconds without a mail after which an interrupted worker counts as done with what it has.
SILENCE_SECONDS: Final = 20
#: Mails of a way that is interrupted: enough to be in the middle of a batch then.
MOST_INTERRUPTED: Final = 600
#: A third of them would be the end of a batch, where nothing is under way.
PAST_A_BATCH: Final = 30
CELERY_BATCHES: Final = "celery-batches==0.11"


@dataclass(frozen=True)
class Way:
    """A way to send mails.

    Attributes:
        name: For the tables.
        submit: Asks for a mail to each address; returns the seconds of CPU that it took.
        worker: The main process of the worker that sends them.
        ended: Whether nothing is left to be done.
        noted: How many addresses have no mail, but something that says so and can be acted on.
    """

    name: str
    submit: Callable[[list[str]], float]
    worker: psutil.Process
    ended: Callable[[], bool]
    noted: Callable[[], int]


@dataclass(frozen=True)
class Sample:
    """What some mails have cost, for 1,000 mails; ``seconds`` from the first call to the end."""

    worker: float
    caller: float
    database: float
    seconds: float
    connections: float
    transactions: float


class Bench:
    """Measures ways."""

    def __init__(self, sink: MailSink, broker: Redis) -> None:
        self._sink = sink
        self._broker = broker
        self._postgres = next(
            child for child in psutil.Process().children() if "postgres" in child.name()
        )

    def measure(self, way: Way, mails: int) -> Sample:
        """Have mails sent; returns what they have cost."""
        self._reset()
        transactions = self._transactions()
        before = self._sink.counters()
        cpu = cpu_seconds(way.worker), cpu_seconds(self._postgres)
        began = time.monotonic()
        caller = way.submit(addresses(mails))
        wait_until(
            lambda: self._accepted(before) >= mails and way.ended(),
            timeout=PATIENCE_SECONDS,
            what=way.name,
        )
        seconds = time.monotonic() - began
        worker = cpu_seconds(way.worker) - cpu[0]
        database = cpu_seconds(self._postgres) - cpu[1]
        after = self._sink.counters()
        connections = after["SMTPConnections"] - before["SMTPConnections"]
        used = self._transactions() - transactions
        figures = (worker, caller, database, seconds, connections, used)
        return Sample(*(figure * 1000 / mails for figure in figures))

    def interrupt(self, way: Way, mails: int, *, kill: bool) -> str:
        """Have mails sent, and one thing go wrong; returns what became of them."""
        self._reset()
        before = self._sink.counters()
        wanted = addresses(mails)
        if not kill:
            wanted.insert(mails // 3, UNLUCKY)
        # Beside the submission: the fastest way has sent all when that returns.
        killer = Thread(target=self._kill, args=(way, before, mails // 3 + PAST_A_BATCH))
        if kill:
            killer.start()
        way.submit(wanted)
        if kill:
            killer.join()
        self._wait_for_silence(way, before)
        received = Counter(self._sink.recipients())
        missing = sum(address not in received for address in wanted)
        noted = min(way.noted(), missing)
        doubled = sum(received.values()) - len(received)
        return f"{missing - noted:8}{noted:10}{doubled:10}"

    def _kill(self, way: Way, before: dict[str, int], mails: int) -> None:
        """Kill the pool processes once so many mails are sent."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._accepted(before) < mails and time.monotonic() < deadline:
            time.sleep(0.005)
        for process in way.worker.children(recursive=True):
            process.kill()

    def _wait_for_silence(self, way: Way, before: dict[str, int]) -> None:
        last, since = self._accepted(before), time.monotonic()

        def quiet() -> bool:
            nonlocal last, since
            if (now := self._accepted(before)) != last:
                last, since = now, time.monotonic()
            # A way that knows when it has ended says so; the other one has to be watched.
            return way.ended() and (
                way.name.startswith("newsletter") or time.monotonic() - since > SILENCE_SECONDS
            )

        wait_until(quiet, timeout=PATIENCE_SECONDS, what=way.name)

    def _accepted(self, before: dict[str, int]) -> int:
        return self._sink.counters()["SMTPAccepted"] - before["SMTPAccepted"]

    def _transactions(self) -> int:
        from django.db import connection  # noqa: PLC0415 - needs Django's settings

        # Sessions report what they have done about once a second.
        time.sleep(1.5)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
            )
            return int(cursor.fetchone()[0])

    def _reset(self) -> None:
        from delivery.models import Delivery, Group  # noqa: PLC0415 - needs Django's settings
        from jobs.models import Job  # noqa: PLC0415

        self._sink.clear()
        for model in (Job, Delivery, Group):
            model._default_manager.all().delete()  # noqa: SLF001 - public by its documentation
        # What a killed worker has left of celery-batches would be a part of the next round.
        for name in ("stock", "unacked", "unacked_index"):
            self._broker.delete(name)


def addresses(mails: int) -> list[str]:
    """Return so many addresses."""
    return [f"r{number:05}@example.com" for number in range(mails)]


def timed(action: Callable[[list[str]], object]) -> Callable[[list[str]], float]:
    """Return what does it in this process, and says what it took."""

    def run(recipients: list[str]) -> float:
        began = time.process_time()
        action(recipients)
        return time.process_time() - began

    return run


def our_ways(worker: psutil.Process) -> list[Way]:
    """Return the ways of this project."""
    from django.test import override_settings  # noqa: PLC0415 - needs Django's settings

    from bench.tasks import send_mail  # noqa: PLC0415
    from delivery.models import Delivery, State  # noqa: PLC0415
    from jobs.models import Job  # noqa: PLC0415
    from newsletters.models import Recipient  # noqa: PLC0415
    from newsletters.services import newsletter_submit  # noqa: PLC0415

    def submit(recipients: list[str]) -> None:
        newsletter_submit(subject="Hello", body="Text", recipients=recipients, requested_by="bench")

    def one_by_one(recipients: list[str], buffer_below: int) -> None:
        with override_settings(NEWSLETTER_BUFFER_BELOW=buffer_below):
            for address in recipients:
                submit([address])

    def tasks_ended() -> bool:
        return not Delivery.objects.filter(finished_at=None).exists()

    def jobs_ended() -> bool:
        return tasks_ended() and not Job.objects.filter(finished_at=None).exists()

    def unsent() -> int:
        return Recipient.objects.filter(state__in=["failed", "cancelled"]).count() + (
            Recipient.objects.filter(state="pending", newsletter__job__state="failed").count()
        )

    def each_a_task(recipients: list[str]) -> None:
        for address in recipients:
            send_mail.delay_on_commit(address)

    def dead() -> int:
        return Delivery.objects.filter(state=State.DEAD).count()

    return [
        Way("durable task for each mail", timed(each_a_task), worker, tasks_ended, dead),
        Way("newsletter for each mail, alone", timed(lambda all_: one_by_one(all_, 0)), worker,
            jobs_ended, unsent),
        Way("newsletter for each mail, buffered", timed(lambda all_: one_by_one(all_, 10)),
            worker, jobs_ended, unsent),
        Way("newsletter for all mails", timed(submit), worker, jobs_ended, unsent),
    ]  # fmt: skip


@contextmanager
def celery_batches(directory: Path, concurrency: int, broker: Redis) -> Iterator[Way | None]:
    """Run a worker of ``bench.stock_batches`` and a process that enqueues; None without it."""
    library = directory / "celery-batches"
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet",
         "--no-deps", "--target", str(library), CELERY_BATCHES],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if installed.returncode:
        print(f"{CELERY_BATCHES} cannot be installed here, and is left out.")
        yield None
        return
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{library}",
        "SERVICE_NAME": "stock",
        "DJANGO_SETTINGS_MODULE": "bench.stock_settings",
    }
    with (directory / "stock.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "--app", "bench.stock_batches", "worker",
             "--queues", "stock", "--concurrency", str(concurrency), "--loglevel", "ERROR"],
            cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        caller = subprocess.Popen(
            [sys.executable, "-m", "bench.stock_batches"], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip

    def submit(recipients: list[str]) -> float:
        if caller.stdin is None or caller.stdout is None:
            raise ValueError("it has no pipes")
        print(json.dumps(recipients), file=caller.stdin, flush=True)
        return float(caller.stdout.readline())

    def unacknowledged() -> int:
        return int(broker.hlen("unacked"))

    try:
        yield Way("celery-batches 0.11", submit, psutil.Process(worker.pid),
                  lambda: not broker.llen("stock"), unacknowledged)  # fmt: skip
    finally:
        for process in (caller, worker):
            process.kill()
            process.wait(60)


def main() -> None:
    """Measure all ways some times, interrupt each twice, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mails", type=int, default=1000, help="mails of a way in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=2)
    arguments = parser.parse_args()

    smtp_port = free_port()
    with own_servers(EMAIL_HOST="127.0.0.1", EMAIL_PORT=str(smtp_port)) as servers:
        from config.celery import app  # noqa: PLC0415 - needs Django's settings

        app.set_default()
        with ExitStack() as stack:
            broker = stack.enter_context(Redis.from_url(os.environ["BROKER_URL"]))
            sink = stack.enter_context(
                running_mail_sink(servers.directory / "mail.log", smtp_port, free_port())
            )
            settings = {
                "PYTHONPATH": str(ROOT),
                "DJANGO_SETTINGS_MODULE": "bench.mail_settings",
                "WORKER_CONCURRENCY": str(arguments.concurrency),
            }
            options = ("--include", "bench.tasks")
            relay = stack.enter_context(
                running_role(servers.directory, "relay", *options, **settings)
            )
            worker = stack.enter_context(
                running_role(
                    servers.directory,
                    "worker",
                    *options,
                    "--max-tasks-per-child",
                    "1000000",
                    **settings,
                )
            )
            theirs = stack.enter_context(
                celery_batches(servers.directory, arguments.concurrency, broker)
            )
            worker.wait_for_probe("ready")
            relay.wait_for_probe("live")
            ways = our_ways(psutil.Process(worker.process.pid))
            if theirs is not None:
                ways.append(theirs)
            bench = Bench(sink, broker)
            for way in ways:
                bench.measure(way, 50)  # everything is imported and connected afterwards
            samples: dict[str, list[Sample]] = {way.name: [] for way in ways}
            for _ in range(arguments.rounds):
                for way in ways:
                    samples[way.name].append(bench.measure(way, arguments.mails))
            if arguments.rounds:
                _print_costs(samples)
            mails = min(arguments.mails, MOST_INTERRUPTED)
            for kill, what in (
                (True, "all pool processes killed (kill -9) after a third"),
                (False, "an unexpected exception for one more recipient"),
            ):
                print(f"\n{mails} mails, {what}:")
                print(f"  {'':36}{'lost':>8}{'noted':>10}{'doubled':>10}")
                for way in ways:
                    print(f"  {way.name:36}{bench.interrupt(way, mails, kill=kill)}", flush=True)


def _print_costs(samples: dict[str, list[Sample]]) -> None:
    print(
        "Medians for 1,000 mails. CPU seconds of worker, caller, PostgreSQL; seconds until all is"
    )
    print("done; SMTP connections; transactions; CPU of all against a newsletter for all mails.")
    names = ("worker", "caller", "database", "seconds", "connections", "transactions")
    print(f"  {'':36}" + "".join(f"{name:>13}" for name in names) + f"{'ratio':>8}")

    def cpu(taken: list[Sample]) -> float:
        return median(sample.worker + sample.caller + sample.database for sample in taken)

    reference = cpu(samples["newsletter for all mails"])
    for way, taken in samples.items():
        cells = []
        for name in names:
            digits = 0 if name in {"connections", "transactions"} else 2
            value = median(getattr(sample, name) for sample in taken)
            cells.append(f"{value:13.{digits}f}")
        print(f"  {way:36}" + "".join(cells) + f"{cpu(taken) / reference:8.1f}")
    print(flush=True)


if __name__ == "__main__":
    main()

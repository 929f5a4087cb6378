"""What a durable task costs against a plain one: CPU milliseconds and database round trips.

    python -m bench.durable_task

Starts a PostgreSQL, a Redis and real workers of its own. Every case is measured in every round,
one after the other, so that what else the machine does reaches all alike: trust the ratios of one
run, not single figures.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil
from redis import Redis

from bench.project import ROOT, Servers, own_servers
from tests.support.roles import running_role, wait_until

#: Seconds that a batch of tasks may take.
PATIENCE_SECONDS: Final = 120
#: What PostgreSQL logs of a statement: who, and its first word.
LOGGED_STATEMENT: Final = re.compile(
    r"^\[([^\]]*)\] LOG:  (?:statement|execute [^:]*):\s*(\w+)", re.MULTILINE
)


@dataclass(frozen=True)
class Case:
    """A kind of task.

    Attributes:
        name: For the table.
        enqueue: Enqueues so many; returns the seconds of CPU that it took.
        worker: The main process of the worker that does it.
        queue: Where its messages are.
    """

    name: str
    enqueue: Callable[[int], float]
    worker: psutil.Process
    queue: str


@dataclass(frozen=True)
class Sample:
    """CPU milliseconds for each task, and tasks for each second.

    Attributes:
        worker: All processes of the worker.
        caller: The process that enqueues.
        database: All processes of PostgreSQL.
        broker: Redis.
        rate: From the first call to the last acknowledgement.
    """

    worker: float
    caller: float
    database: float
    broker: float
    rate: float

    @property
    def cpu(self) -> float:
        """Milliseconds of CPU for each task, wherever they are spent."""
        return self.worker + self.caller + self.database + self.broker


class Bench:
    """Runs cases on two servers."""

    def __init__(self, servers: Servers) -> None:
        self._broker = Redis.from_url(os.environ["BROKER_URL"])
        self._log = servers.postgres.working_directory / "server.log"
        self._postgres = next(
            child for child in psutil.Process().children() if "postgres" in child.name()
        )

    def measure(self, case: Case, tasks: int) -> Sample:
        """Enqueue tasks, wait until they are done, and return what one has cost."""
        before = self._cpu_seconds_of_others(case)
        began = time.monotonic()
        caller = case.enqueue(tasks)
        self._wait_until_done(case)
        seconds = time.monotonic() - began
        after = self._cpu_seconds_of_others(case)
        worker, database, broker = (
            (end - start) * 1000 / tasks for start, end in zip(before, after, strict=True)
        )
        return Sample(worker, caller * 1000 / tasks, database, broker, tasks / seconds)

    def count_statements(self, case: Case, tasks: int) -> dict[str, Counter[str]]:
        """Return how many statements each side has sent for some tasks, by their first word."""
        self._set_logging("all")
        start = self._log.stat().st_size
        case.enqueue(tasks)
        self._wait_until_done(case)
        self._set_logging("none")
        with self._log.open("rb") as log:
            log.seek(start)
            text = log.read().decode(errors="replace")
        counted: dict[str, Counter[str]] = {"caller": Counter(), "worker": Counter()}
        for who, word in LOGGED_STATEMENT.findall(text):
            counted["caller" if who == "celeriac-bench" else "worker"][word.upper()] += 1
        # Those that switched the log on and off.
        for word in ("ALTER", "SELECT"):
            counted["caller"].pop(word, None)
        return counted

    def _wait_until_done(self, case: Case) -> None:
        wait_until(
            lambda: not self._broker.llen(case.queue) and not self._broker.hlen("unacked"),
            timeout=PATIENCE_SECONDS,
            what=case.name,
        )

    def _set_logging(self, statements: str) -> None:
        from django.db import connection  # noqa: PLC0415 - needs Django's settings

        with connection.cursor() as cursor:
            cursor.execute(f"ALTER SYSTEM SET log_statement = '{statements}'")
            cursor.execute("ALTER SYSTEM SET log_line_prefix = '[%a] '")
            cursor.execute("SELECT pg_reload_conf()")
        # Every session notices before its next statement.
        time.sleep(1)

    def _cpu_seconds_of_others(self, case: Case) -> tuple[float, float, float]:
        """Return the CPU time of the worker, the database and the broker."""
        usage: Any = self._broker.info("cpu")
        broker = float(usage["used_cpu_sys"] + usage["used_cpu_user"])
        return cpu_seconds(case.worker), cpu_seconds(self._postgres), broker


def cpu_seconds(main: psutil.Process) -> float:
    """Return the CPU time of a process, its children, and those that have ended."""
    used = main.cpu_times()
    total = used.user + used.system + used.children_user + used.children_system
    for child in main.children(recursive=True):
        times = child.cpu_times()
        total += times.user + times.system
    return float(total)


def enqueuer(delay: Callable[[int], object]) -> Callable[[int], float]:
    """Return what enqueues in this process."""

    def enqueue(tasks: int) -> float:
        began = time.process_time()
        for number in range(tasks):
            delay(number)
        return time.process_time() - began

    return enqueue


@contextmanager
def stock(directory: Path, concurrency: int) -> Iterator[Case]:
    """Run a worker of ``bench.stock``, and a process that enqueues for it."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SERVICE_NAME": "stock",
        "DJANGO_SETTINGS_MODULE": "bench.stock_settings",
    }
    with (directory / "stock.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "--app", "bench.stock", "worker", "--queues", "stock",
             "--concurrency", str(concurrency), "--loglevel", "ERROR"],
            cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        caller = subprocess.Popen(
            [sys.executable, "-m", "bench.stock"],
            cwd=ROOT, env={**environment, "SERVICE_NAME": "bench"}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def enqueue(tasks: int) -> float:
        if caller.stdin is None or caller.stdout is None:
            raise ValueError("it has no pipes")
        print(tasks, file=caller.stdin, flush=True)
        return float(caller.stdout.readline())

    try:
        yield Case("stock: result", enqueue, psutil.Process(worker.pid), "stock")
    finally:
        for process in (caller, worker):
            process.terminate()
            process.wait(60)


def main() -> None:
    """Measure all cases some times, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=500, help="tasks of a case in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=2)
    arguments = parser.parse_args()

    with own_servers() as servers:
        from bench import tasks  # noqa: PLC0415 - needs Django's settings
        from config.celery import app  # noqa: PLC0415

        app.set_default()
        with (
            running_role(
                servers.directory, "worker", "--include", "bench.tasks",
                "--max-tasks-per-child", "1000000",
                WORKER_CONCURRENCY=str(arguments.concurrency), PYTHONPATH=str(ROOT),
            ) as role,
            stock(servers.directory, arguments.concurrency) as stock_case,
        ):  # fmt: skip
            role.wait_for_probe("ready")
            ours = psutil.Process(role.process.pid)
            kinds = {
                "plain: result": tasks.plain,
                "durable: result": tasks.durable,
                "plain: effect, result": tasks.plain_with_effect,
                "durable: run_once, result": tasks.durable_with_effect,
                "durable: run_once": tasks.durable_with_effect_only,
            }
            cases = [stock_case] + [
                Case(name, enqueuer(task.delay), ours, "default") for name, task in kinds.items()
            ]
            bench = Bench(servers)
            for case in cases:
                bench.measure(case, 50)  # everything is imported and connected afterwards
            samples: dict[str, list[Sample]] = {case.name: [] for case in cases}
            for _ in range(arguments.rounds):
                for case in cases:
                    samples[case.name].append(bench.measure(case, arguments.tasks))
            _print_costs(samples)
            print("\nStatements for each task, BEGIN and COMMIT included:")
            for case in cases:
                counted = bench.count_statements(case, 100)
                print(f"  {case.name:27}" + "; ".join(map(_describe, counted.items())))


def _describe(side: tuple[str, Counter[str]]) -> str:
    name, counted = side
    words = ", ".join(
        f"{word} {count / 100:.3g}" for word, count in counted.most_common() if count >= 5
    )
    return f"{name} {sum(counted.values()) / 100:.3g} ({words})"


def _print_costs(samples: dict[str, list[Sample]]) -> None:
    print("Medians (least) of CPU milliseconds for each task:")
    columns = [field.name for field in fields(Sample)]
    print(
        f"  {'':27}" + "".join(f"{name:>15}" for name in ("all", *columns)) + f"{'all / plain':>13}"
    )
    reference = median(sample.cpu for sample in samples["plain: result"])
    for case, taken in samples.items():
        cells = []
        for name in ("cpu", *columns):
            values = [getattr(sample, name) for sample in taken]
            best = max(values) if name == "rate" else min(values)
            digits = 0 if name == "rate" else 2
            cells.append(f"{median(values):.{digits}f} ({best:.{digits}f})")
        ratio = median(sample.cpu for sample in taken) / reference
        print(f"  {case:27}" + "".join(f"{cell:>15}" for cell in cells) + f"{ratio:13.2f}")


if __name__ == "__main__":
    main()

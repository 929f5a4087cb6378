"""What a worker's metrics cost: CPU milliseconds for each task, with and without them.

    python -m bench.worker_metrics

Two workers, each with a queue of its own, are measured in every round, one after the other, so that
what else the machine does reaches both: trust the ratio of one run, not single figures. The one
with metrics is scraped all the while, as Prometheus would.
"""

from __future__ import annotations

import argparse
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any, Final

import psutil
from redis import Redis

from bench.project import ROOT, Servers, own_servers
from deploy.embedded.servers import free_port
from tests.support.roles import running_role, wait_until

#: Seconds that a batch of tasks may take.
PATIENCE_SECONDS: Final = 300
#: Seconds between two scrapes (deploy/prometheus).
SCRAPE_SECONDS: Final = 15


@contextmanager
def scraped(port: int) -> Iterator[None]:
    """Scrape a worker again and again while the block runs."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(SCRAPE_SECONDS):
            one_scrape(port)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def one_scrape(port: int) -> tuple[float, int]:
    """Scrape a worker; returns the seconds and bytes that it took."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        text = response.read()
    return time.perf_counter() - began, len(text)


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process, without its children."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def worker(servers: Servers, queue: str, port: int) -> Iterator[psutil.Process]:
    """Run a worker of one queue; port 0 is one without metrics."""
    with running_role(
        servers.directory, "worker", "--include", "bench.tasks", "--queues", queue,
        "--max-tasks-per-child", "1000000", name=f"worker-{queue}",
        METRICS_PORT=str(port), WORKER_CONCURRENCY="2", PYTHONPATH=str(ROOT),
    ) as role:  # fmt: skip
        role.wait_for_probe("ready")
        yield psutil.Process(role.process.pid)


def main() -> None:
    """Measure both workers some times, and print medians and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=1000, help="tasks of a worker in each round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    port = free_port()
    with own_servers() as servers, ExitStack() as stack:
        from bench import tasks  # noqa: PLC0415 - needs Django's settings
        from config.celery import app  # noqa: PLC0415

        app.set_default()
        broker = Redis.from_url(f"{servers.redis.url}/0")
        workers = {
            "without": (stack.enter_context(worker(servers, "mail", 0)), "mail"),
            "with": (stack.enter_context(worker(servers, "bulk", port)), "bulk"),
        }
        everything: dict[str, list[float]] = {name: [] for name in workers}
        main_process: dict[str, list[float]] = {name: [] for name in workers}

        def measure(name: str, number: int) -> tuple[float, float]:
            process, queue = workers[name]
            family = [process, *process.children(recursive=True)]
            before = [cpu_seconds(member) for member in family]
            task: Any = tasks.plain
            for argument in range(number):
                task.apply_async((argument,), queue=queue)
            wait_until(
                lambda: not broker.llen(queue) and not broker.hlen("unacked"),
                timeout=PATIENCE_SECONDS,
                what=name,
            )
            used = [
                (cpu_seconds(member) - start) * 1000 / number
                for member, start in zip(family, before, strict=True)
            ]
            return sum(used), used[0]

        with scraped(port):
            for name in workers:
                measure(name, 100)  # everything is imported and connected afterwards
            for _ in range(arguments.rounds):
                for name in workers:
                    total, of_main = measure(name, arguments.tasks)
                    everything[name].append(total)
                    main_process[name].append(of_main)
        scrapes = [one_scrape(port) for _ in range(20)]

    print("CPU milliseconds for each plain task, medians:")
    for title, samples in (("worker", everything), ("its main process", main_process)):
        without, with_metrics = median(samples["without"]), median(samples["with"])
        print(
            f"  {title:17} {without:.3f} without, {with_metrics:.3f} with metrics: "
            f"ratio {with_metrics / without:.3f}"
        )
    print(
        f"A scrape: {median(seconds for seconds, _size in scrapes) * 1000:.1f} ms, "
        f"{scrapes[-1][1] / 1000:.0f} kB."
    )


if __name__ == "__main__":
    main()

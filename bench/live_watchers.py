"""Whether a task is slower while many people watch it.

    python -m bench.live_watchers

Starts a PostgreSQL, a Redis, a real web role and a real worker of its own. One task notes its
progress some hundred times; its own duration is measured with and without watchers by turns, so
that what else the machine does reaches both alike. The watchers are a process of its own with low
priority: they stand for other people's machines. All the while each processor also runs a loop of
the idle class (Linux), which gives way to everything else: a processor that sleeps between two
notes, or whose neighbour does, has another speed than a busy one, and that is not asked here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, Final

import psutil
from websockets.asyncio.client import connect

from bench.durable_task import cpu_seconds
from bench.project import ROOT, own_servers
from deploy.embedded.servers import free_port
from tests.support.roles import running_role, wait_until

#: Seconds that a task may take, and that watchers may take to come.
PATIENCE_SECONDS: Final = 300
#: Least priority, as `nice` knows it.
LOWEST_PRIORITY: Final = 19
#: Watchers that open their sockets at the same time.
OPENING_AT_ONCE: Final = 20


async def watch(address: str, token: str, watchers: int) -> None:
    """Watch a job with so many clients: print a line when all do, and one with what they saw."""
    opening = asyncio.Semaphore(OPENING_AT_ONCE)
    first_messages = asyncio.Queue[None]()
    messages = 0

    async def see_last_state() -> str:
        nonlocal messages
        message = "{}"
        headers = {"Authorization": f"Bearer {token}"}
        async with opening:
            client = await connect(
                address, additional_headers=headers, open_timeout=PATIENCE_SECONDS
            )
        async with client:
            async for text in client:
                if message == "{}":
                    first_messages.put_nowait(None)
                message = str(text)
                messages += 1
        return str(json.loads(message).get("state"))

    clients = [asyncio.create_task(see_last_state()) for _ in range(watchers)]
    for _ in clients:
        await first_messages.get()
    print("ready", flush=True)
    states = await asyncio.gather(*clients)
    print(json.dumps({"saw_end": states.count("succeeded"), "messages": messages}), flush=True)


@contextmanager
def watching(address: str, token: str, watchers: int) -> Iterator[dict[str, int]]:
    """Have a process watch; at the end of the block yields what it has seen."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.live_watchers", "--watch", address,
         "--watchers", str(watchers)],
        cwd=ROOT, env={**os.environ, "BENCH_TOKEN": token}, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    seen: dict[str, int] = {}
    try:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise RuntimeError("the watchers did not get ready; see their error above")
        yield seen
        seen.update(json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()


def duration_of(job: Any, notes: int) -> dict[str, float]:
    """Run the task for a job; returns what it has measured of itself."""
    from bench import tasks  # noqa: PLC0415 - needs Django's settings

    tasks.report.delay(str(job.id), notes)

    def ended() -> bool:
        job.refresh_from_db()
        return not job.is_open

    wait_until(ended, timeout=PATIENCE_SECONDS, what="the task ends")
    result: dict[str, float] = job.result
    return result


@contextmanager
def busy_processors() -> Iterator[None]:
    """Keep each processor from sleeping, by processes that run when nothing else wants to."""
    loop = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
    loops = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in loops:
            process.kill()
            process.wait()


def main() -> None:
    """Run the task with and without watchers by turns, and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--watchers", type=int, default=200)
    parser.add_argument("--notes", type=int, default=400, help="progress notes of a task")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--processes", type=int, default=2, help="web processes")
    parser.add_argument("--watch", metavar="ADDRESS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        os.nice(LOWEST_PRIORITY)
        asyncio.run(watch(arguments.watch, os.environ["BENCH_TOKEN"], arguments.watchers))
        return

    with own_servers() as servers:
        from django.conf import settings  # noqa: PLC0415 - as above

        from config.celery import app  # noqa: PLC0415
        from jobs.models import Job  # noqa: PLC0415

        app.set_default()
        token = next(iter(settings.API_TOKENS))
        port = free_port()
        with (
            running_role(
                servers.directory, "worker", "--include", "bench.tasks",
                WORKER_CONCURRENCY="1", PYTHONPATH=str(ROOT),
            ) as worker,
            running_role(
                servers.directory, "web", WEB_PORT=str(port), BIND_HOST="127.0.0.1",
                WEB_CONCURRENCY=str(arguments.processes), DATABASE_POOL_SIZE="10",
            ) as web,
            busy_processors(),
        ):  # fmt: skip
            worker.wait_for_probe("ready")
            ready = f"http://127.0.0.1:{port}/readyz"
            web.wait_for_probe("http", ready)
            web_process = psutil.Process(web.process.pid)
            duration_of(Job.objects.create(kind="bench"), 10)  # everything is connected afterwards

            alone: list[dict[str, float]] = []
            watched: list[dict[str, float]] = []
            print("load  alone s  watched s  web's CPU s  saw the end  messages", flush=True)
            for _ in range(arguments.rounds):
                load = os.getloadavg()[0]
                alone.append(duration_of(Job.objects.create(kind="bench"), arguments.notes))
                job = Job.objects.create(kind="bench", total=arguments.notes)
                address = f"ws://127.0.0.1:{port}/ws/jobs/{job.id}"
                with watching(address, token, arguments.watchers) as seen:
                    before = cpu_seconds(web_process)
                    watched.append(duration_of(job, arguments.notes))
                print(
                    f"{load:4.1f}  {alone[-1]['seconds']:7.3f}  {watched[-1]['seconds']:9.3f}"
                    f"  {cpu_seconds(web_process) - before:11.2f}  {seen['saw_end']:11}"
                    f"  {seen['messages']:8}",
                    flush=True,
                )
            for name, meaning in [("seconds", "duration"), ("cpu", "CPU of the task's process")]:
                ratio = median(
                    one[name] / other[name] for one, other in zip(watched, alone, strict=True)
                )
                best = min(one[name] for one in watched) / min(one[name] for one in alone)
                print(f"{meaning}, watched / alone: {ratio:.3f} (of the shortest: {best:.3f})")


if __name__ == "__main__":
    main()

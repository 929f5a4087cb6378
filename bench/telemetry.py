"""What traces and error reports cost a worker: CPU for each task, and a start with them off.

    python -m bench.telemetry

Starts servers and four workers of its own: nothing on, error reports, all traces, a tenth of them.
Each is measured in every round, one after the other: trust the ratios of one run. Then it imports
what a worker imports, with OpenTelemetry hidden from redis-py and not
(app/config/hidden_imports.py).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any, Final

import psutil

from bench.durable_task import Bench, Case, cpu_seconds, enqueuer
from bench.project import ROOT, own_servers
from tests.support.receivers import running_receiver
from tests.support.roles import Role, running_role, wait_until

#: What imports what a worker does, and says what that took.
STARTING: Final = r"""
import json, pathlib, re, sys, time
sys.path.insert(0, "app")
if sys.argv[1] == "hidden":
    from config import hidden_imports
    hidden_imports.hide()
began = time.process_time()
import celery.apps.worker, kombu.transport.redis, config.celery
seconds = time.process_time() - began
found = sum(name.startswith("opentelemetry") for name, module in sys.modules.items() if module)
status = pathlib.Path("/proc/self/status").read_text()
print(json.dumps([seconds, int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024, found]))
"""


def main() -> None:
    """Measure all cases some times, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=500, help="tasks of a case in each round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    with own_servers() as servers, running_receiver() as receiver, ExitStack() as stack:
        from bench import tasks  # noqa: PLC0415 - needs Django's settings
        from config.celery import app  # noqa: PLC0415

        app.set_default()
        traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        workers = {
            "nothing": ("default", {}),
            "error reports": (
                "mail",
                {"SENTRY_DSN": receiver.url.replace("http://", "http://key@") + "/1"},
            ),
            "traces": ("bulk", traces),
            "a tenth of the traces": (
                "maintenance",
                {**traces, "OTEL_TRACES_SAMPLER_ARG": "0.1"},
            ),
        }
        cases = []
        for name, (queue, settings) in workers.items():
            role = stack.enter_context(
                running_role(
                    servers.directory, "worker", "--include", "bench.tasks", "--queues", queue,
                    "--max-tasks-per-child", "1000000", "--hostname", f"{queue}@%h", name=queue,
                    WORKER_CONCURRENCY="2", PYTHONPATH=str(ROOT), **settings,
                )
            )  # fmt: skip
            wait_until(partial(_consumes, role), timeout=90, what=role.log)
            enqueue = enqueuer(partial(_enqueue, tasks.durable_with_effect, queue))
            cases.append(Case(name, enqueue, psutil.Process(role.process.pid), queue))
        bench = Bench(servers)
        for case in cases:
            bench.measure(case, 50)  # everything is imported and connected afterwards
        taken: dict[str, list[float]] = {case.name: [] for case in cases}
        for _ in range(arguments.rounds):
            for case in cases:
                before = cpu_seconds(case.worker)
                bench.measure(case, arguments.tasks)
                seconds = cpu_seconds(case.worker) - before
                taken[case.name].append(seconds * 1000 / arguments.tasks)
    _print_tasks(taken)
    _print_starts(arguments.rounds)


def _consumes(role: Role) -> bool:
    return role.probe("ready") == 0


def _enqueue(task: Any, queue: str, number: int) -> object:
    return task.apply_async((number,), queue=queue)


def _print_tasks(taken: dict[str, list[float]]) -> None:
    print("Worker's CPU milliseconds for each durable task with an effect, median (least):")
    reference = median(taken["nothing"])
    for name, values in taken.items():
        middle = median(values)
        print(f"  {name:24}{middle:8.2f} ({min(values):.2f}){middle / reference:8.2f} x")


def _print_starts(rounds: int) -> None:
    print("A worker's imports, with everything off: CPU seconds, MB, modules of OpenTelemetry:")
    for how in ("found", "hidden"):
        runs = []
        for _ in range(rounds):
            done = subprocess.run(
                [sys.executable, "-c", STARTING, how],
                cwd=ROOT, env={**os.environ}, capture_output=True, check=True, text=True,
            )  # fmt: skip
            runs.append(json.loads(done.stdout))
        seconds, memory, modules = (median(column) for column in zip(*runs, strict=True))
        print(f"  {how:24}{seconds:8.2f}{memory:8.1f}{modules:8.0f}")


if __name__ == "__main__":
    main()

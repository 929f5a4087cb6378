"""What happens to workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.observability.faults.fault import Fault, expected
from tests.observability.victim import Victim
from tests.support.prometheus import Prometheus
from tests.support.roles import wait_until

#: Tasks that run when a worker is killed: one for each of its pool processes (conftest.py).
RUNNING = 6
#: Starts of a worker; the alert is about more than two.
RESTARTS = 3
STARTED_AT = 'process_start_time_seconds{job="celery-worker", service="worker-bulk"}'
CONTROL_GROUPS = Path("/sys/fs/cgroup")


@contextmanager
def _killed_at_work(victim: Victim) -> Iterator[None]:
    """Kill all workers while messages are in their hands, so that nobody gives them back."""
    victim.publish("causes.sleep", RUNNING, seconds=4.5)
    wait_until(lambda: victim.redis.hlen("unacked") >= RUNNING, timeout=10, what="all are taken")
    for service in ("worker", "worker-bulk"):
        victim.target.kill(service)
    try:
        yield
    finally:
        for service in ("worker", "worker-bulk"):
            victim.stack.start(service)


@contextmanager
def _crash_loop(victim: Victim) -> Iterator[None]:
    prometheus = Prometheus(f"http://127.0.0.1:{victim.stack.values['PROMETHEUS_PORT']}")
    seen: set[float] = set()

    def has_started() -> set[float]:
        new = set(prometheus.instant(STARTED_AT)) - seen
        seen.update(new)
        return new

    for _ in range(RESTARTS):
        wait_until(has_started, timeout=60, what="Prometheus has seen this start")
        for process in victim.target._everything("worker-bulk"):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    yield
    victim.stack._wait_for("worker-bulk", "running", "healthy")


@contextmanager
def _little_memory(victim: Victim) -> Iterator[None]:
    """Put a worker into a control group whose limit its pool processes nearly reach."""
    memory = CONTROL_GROUPS / "memory"
    parent, limit = (
        (memory, "memory.limit_in_bytes") if memory.is_dir() else (CONTROL_GROUPS, "memory.max")
    )
    group = parent / f"celeriac-alerts-{victim.stack.values['WEB_PORT']}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    main, *children = victim.target._everything("worker")
    resident = sum(child.memory_info().rss for child in children)
    (group / limit).write_text(str(int(resident / 0.9)), encoding="ascii")
    try:
        for process in (main, *children):
            (group / "cgroup.procs").write_text(str(process.pid), encoding="ascii")
        yield
    finally:
        for number in (group / "cgroup.procs").read_text(encoding="ascii").split():
            (parent / "cgroup.procs").write_text(number, encoding="ascii")
        group.rmdir()


KILLED = Fault(
    "all workers are killed (SIGKILL) at work, and stay away",
    _killed_at_work,
    (
        expected("CeleryWorkerDown", service="worker"),
        expected("CeleryWorkerDown", service="worker-bulk"),
        expected("CeleryMessagesPastVisibilityTimeout"),
    ),
    afterwards=(expected("CeleryTaskRedelivered", name="causes.sleep"),),
)
CRASH_LOOP = Fault(
    f"a worker is killed {RESTARTS} times, and started again each time",
    _crash_loop,
    (expected("CeleryWorkerRestarting", service="worker-bulk"),),
    patience=120.0,
)
LITTLE_MEMORY = Fault(
    "a worker's memory limit is set just above what its processes use",
    _little_memory,
    (expected("CeleryWorkerMemoryHigh", service="worker"),),
)

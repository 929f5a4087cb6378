"""What a scrape of the celery-exporter costs, and what the exporter costs while nothing happens.

    python -m bench.exporter

starts a PostgreSQL, a Redis and the exporter itself as a process, with its own accounts. It scrapes
with nothing there, then with queued messages and open deliveries, then while each second a scan
looks at thousands of messages that wait for their eta. It prints the fastest scrape, median and
maximum, and the exporter's memory; and how busy the machine was: others' work counts in all of
them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import uuid4

from bench.ledger_plans import fill
from bench.project import PASSWORD, ROOT, Servers, own_servers
from deploy.embedded.servers import free_port
from deploy.embedded.servers.redis import CELERY_EXPORTER

#: What a scrape may take, and the exporter hold, by the project's own rule.
TARGET_MILLISECONDS: Final = 50
TARGET_MEBIBYTES: Final = 80
#: Seconds until the exporter answers.
START_SECONDS: Final = 30
#: Finished deliveries beside the open ones; a scrape must not notice them.
FINISHED: Final = 100_000


@contextmanager
def exporter(servers: Servers, scan_seconds: int) -> Iterator[tuple[int, str]]:
    """Run the exporter; yields its process id and its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "BROKER_URL": f"{servers.redis.url_of(CELERY_EXPORTER)}/0",
        "DATABASE_URL": servers.postgres.url_of("celery_exporter", PASSWORD),
        "BIND_HOST": "127.0.0.1",
        "EXPORTER_PORT": str(port),
        "EXPORTER_SCAN_SECONDS": str(scan_seconds),
        "LOG_LEVEL": "ERROR",
    }
    process = subprocess.Popen(
        [ROOT / "deploy" / "docker" / "entrypoint", "exporter"], env=environment
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                scrape(url)
                break
            except OSError:
                time.sleep(0.1)
        yield process.pid, url
    finally:
        process.terminate()
        process.wait()


def scrape(url: str) -> tuple[float, str]:
    """Scrape once; returns milliseconds and text."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:  # noqa: S310 - our own
        text = response.read().decode()
    return (time.perf_counter() - began) * 1000, text


def memory(pid: int, field: str) -> float:
    """Return ``VmRSS`` or ``VmHWM`` of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise ValueError(f"no {field} of {pid}")


def queue_messages(servers: Servers, count: int) -> None:
    """Queue copies of a message as Celery publishes it, in all queues and priorities."""
    from celery import current_app  # noqa: PLC0415 - needs settings
    from redis import Redis  # noqa: PLC0415

    from config.topology import QUEUES  # noqa: PLC0415
    from delivery.queue_lists import lists_of  # noqa: PLC0415

    current_app.send_task("housekeeping.delete_old_jobs", ("x" * 500,), queue="mail")
    with Redis.from_url(f"{servers.redis.url}/0") as client:
        message = client.rpop("mail")
        if not isinstance(message, bytes):
            raise TypeError("Celery has published nothing")
        lists = [name for queue in QUEUES for name in lists_of(queue.name)]
        for name in lists:
            for _ in range(count // len(lists) // 500 + 1):
                client.lpush(name, *[message] * 500)


def hold_messages(servers: Servers, count: int) -> None:
    """Note messages as delivered to a worker that keeps them until their eta."""
    from redis import Redis  # noqa: PLC0415

    eta = (datetime.now(UTC) + timedelta(seconds=3600)).isoformat()
    entry = json.dumps([{"body": "x" * 1000, "headers": {"eta": eta}}, "", "mail"])
    tags = [str(uuid4()) for _ in range(count)]
    with Redis.from_url(f"{servers.redis.url}/0") as client:
        client.hset("unacked", mapping=dict.fromkeys(tags, entry))
        client.zadd("unacked_index", dict.fromkeys(tags, time.time()))


def measure(servers: Servers, title: str, repetitions: int, *, scan_seconds: int = 60) -> None:
    """Start the exporter, scrape, and print a row."""
    with exporter(servers, scan_seconds) as (pid, url):
        time.sleep(1)
        idle = memory(pid, "VmRSS")
        milliseconds = []
        for _ in range(repetitions):
            time.sleep(0.1)
            milliseconds.append(scrape(url)[0])
        _, text = scrape(url)
        for line in ("celery_broker_up 1.0", "celery_database_up 1.0"):
            if line not in text:
                sys.exit(f"{title}: not {line}")
        print(
            f"{title:56}{min(milliseconds):8.1f}{statistics.median(milliseconds):8.1f}"
            f"{max(milliseconds):8.1f}{idle:8.0f}{memory(pid, 'VmHWM'):8.0f}"
        )


def main() -> None:
    """Print what scrapes cost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=50_000, help="queued messages")
    parser.add_argument("--deliveries", type=int, default=10_000, help="open deliveries")
    parser.add_argument("--held", type=int, default=20_000, help="messages that wait for their eta")
    parser.add_argument("--repetitions", type=int, default=100, help="scrapes of each kind")
    arguments = parser.parse_args()
    with own_servers(CELERY_EXPORTER_PASSWORD=PASSWORD, LOG_LEVEL="ERROR") as servers:
        from django.db import connection  # noqa: PLC0415 - needs settings

        from telemetry import reading_accounts  # noqa: PLC0415

        reading_accounts.prepare(os.environ)
        print(f"{'':56}{'fastest':>8}{'median':>8}{'max':>8}{'idle':>8}{'peak':>8}")
        print(f"{'':56}{'ms':>8}{'ms':>8}{'ms':>8}{'MiB':>8}{'MiB':>8}")
        measure(servers, "nothing", arguments.repetitions)
        queue_messages(servers, arguments.messages)
        fill(connection, FINISHED, arguments.deliveries)
        counts = f"{arguments.messages:,} messages, {arguments.deliveries:,} open deliveries"
        measure(servers, counts, arguments.repetitions)
        hold_messages(servers, arguments.held)
        title = f"the same, a scan each second, {arguments.held:,} etas"
        measure(servers, title, arguments.repetitions, scan_seconds=1)
        print(f"{'target':56}{'':8}{TARGET_MILLISECONDS:8}{'':8}{TARGET_MEBIBYTES:8}")
        load, cores = os.getloadavg()[0], os.cpu_count()
        print(f"{load:.1f} processes wanted the machine's {cores} cores in the last minute.")


if __name__ == "__main__":
    main()

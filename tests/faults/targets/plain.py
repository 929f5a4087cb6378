"""Plain Celery beside the same servers: what the suite measures the stack against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.embedded.process import STACK_MARKER, Process
from deploy.embedded.servers import (
    PostgresServer,
    RedisServer,
    Server,
    free_port,
    wait_until_ready,
)
from deploy.embedded.supervisor import Supervisor
from tests.faults.targets.supervised import SupervisedTarget
from tests.faults.targets.target import READY_SECONDS, Order
from tests.support.environment import OUTSIDE
from tests.support.roles import ROOT, wait_until

PASSWORD = "throw-away"
WORKER_PROCESSES = 4


class PlainTarget(SupervisedTarget):
    """A worker of plain Celery under supervisord."""

    name = "plain"
    keeps_promises = False
    workers = ("worker",)
    loops = ("worker",)

    def __init__(self, directory: Path) -> None:
        self.state = directory
        self.postgres = PostgresServer(directory / "postgres", free_port(), PASSWORD)
        self.redis = RedisServer(directory / "redis", free_port(), PASSWORD)
        self.supervisor = Supervisor(directory)
        self.database_url = self.postgres.url
        self.broker_url = f"{self.redis.url}/0"
        self.environment = {
            **OUTSIDE,
            "PLAIN_BROKER_URL": self.broker_url,
            "PLAIN_DATABASE_URL": self.database_url,
            STACK_MARKER: str(directory),
        }

    def up(self) -> None:
        """Start the servers, then the worker."""
        self.postgres.initialise()
        self.redis.initialise()
        servers: list[Server] = [self.postgres, self.redis]
        worker = Process(
            name="worker",
            command=[
                sys.executable, "-m", "celery", "--app=tests.faults.plain.application", "worker",
                f"--concurrency={WORKER_PROCESSES}",
            ],
            probe=lambda: None,
            directory=ROOT,
            environment={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        processes = [
            Process(
                name=server.name,
                command=server.command,
                probe=server.probe,
                directory=server.working_directory,
                environment=server.environment,
                account=server.account,
                stop_signal=server.stop_signal.name.removeprefix("SIG"),
            )
            for server in servers
        ]
        (self.state / "run").mkdir(mode=0o700)
        self.supervisor.start([*processes, worker], self.environment)
        for server in servers:
            self.start(server.name)
            wait_until_ready(server, READY_SECONDS)
        assert self.ledger
        self.start("worker")

    def submit(self, order: Order) -> bool:
        """Run the program that stands for a web process."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.plain.submit"],
            env=self.environment,
            cwd=ROOT,
            input=json.dumps(order.as_json()),
            text=True,
            check=False,
            capture_output=True,
            timeout=READY_SECONDS,
        )
        return done.returncode == 0

    def probe(self, service: str, kind: str) -> bool:
        """There is no probe: the worker counts as ready while its pool is complete."""
        return any(len(replica.children) >= WORKER_PROCESSES for replica in self.processes(service))

    def down(self) -> None:
        """Stop everything and delete the data."""
        for service in ("worker", "redis", "postgres"):
            self.stop(service)
        self.supervisor.shut_down()
        wait_until(lambda: not self.supervisor.running(), timeout=60, what="supervisord ends")
        self.supervisor.remove_socket()
        self.postgres.remove()


@contextmanager
def running(directory: Path) -> Iterator[PlainTarget]:
    """Run the servers and the worker; their files are in a directory."""
    if os.geteuid() == 0:
        directory.chmod(0o711)  # PostgreSQL runs as nobody and must get through
    target = PlainTarget(directory)
    try:
        target.up()
        yield target
    finally:
        target.down()

"""The real embedded runtime, with ports, secrets and a folder of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deploy.embedded.runtime import EmbeddedRuntime
from deploy.embedded.servers import free_port
from deploy.stack import environment, ports
from tests.faults.targets.supervised import SupervisedTarget
from tests.faults.targets.target import StackTarget
from tests.support.environment import OUTSIDE
from tests.support.roles import ROOT

APPLICATION = Path(__file__).resolve().parents[1] / "application"


class EmbeddedTarget(SupervisedTarget, StackTarget):
    """The stack as processes of this machine."""

    name = "embedded"

    def __init__(self, runtime: EmbeddedRuntime, state: Path, values: Mapping[str, str]) -> None:
        self.runtime = runtime
        self.supervisor = runtime._supervisor
        self.state = state
        self.web_url = f"http://127.0.0.1:{values['WEB_PORT']}"
        self.signing_key = values["TASK_SIGNING_KEYS"]
        self.database_url = runtime._processes.postgres.url
        self.broker_url = f"{runtime._processes.redis.url}/0"

    def has_file(self, service: str, path: Path) -> bool:
        """Look at this machine."""
        return path.exists()


def settings(directory: Path) -> dict[str, str]:
    """Return the settings of a stack that disturbs no other one on this machine."""
    shutil.copy(ROOT / ".env.example", directory)
    environment.prepare(directory)  # fresh secrets
    return {
        **environment.load(directory, OUTSIDE),
        **{port.variable: str(free_port()) for port in ports.ALL},
        "DJANGO_SETTINGS_MODULE": "fault_settings",
        "WORKER_WARM_SHUTDOWN_SECONDS": "5",
        "LOG_LEVEL": "WARNING",
    }


@contextmanager
def running(directory: Path) -> Iterator[EmbeddedTarget]:
    """Run the stack; its files are in a directory, except what PostgreSQL cannot reach there."""
    values = settings(directory)
    state = directory / "stack"
    runtime = EmbeddedRuntime(ROOT, state, values)
    # The entry point puts the application's own folder in front of this one.
    runtime._environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "app"), str(APPLICATION)])
    try:
        runtime.up()
        yield EmbeddedTarget(runtime, state, values)
    finally:
        if (state / "logs").exists():
            shutil.copytree(state / "logs", directory / "logs", dirs_exist_ok=True)
        runtime.down(volumes=True)

"""The real embedded runtime, with ports, secrets and a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.targets.supervised import SupervisedTarget
from tests.faults.targets.target import StackTarget
from tests.support import embedded_stack
from tests.support.embedded_stack import EmbeddedStack

APPLICATION = Path(__file__).resolve().parents[1] / "application"


class EmbeddedTarget(SupervisedTarget, StackTarget):
    """The stack as processes of this machine."""

    name = "embedded"

    def __init__(self, stack: EmbeddedStack) -> None:
        self.supervisor = stack.runtime._supervisor
        self.state = stack.state
        self.web_url = stack.url
        self.signing_key = stack.values["TASK_SIGNING_KEYS"]
        self.database_url = stack.runtime._processes.postgres.url
        self.broker_url = f"{stack.runtime._processes.redis.url}/0"

    def has_file(self, service: str, path: Path) -> bool:
        """Look at this machine."""
        return path.exists()


@contextmanager
def running(directory: Path) -> Iterator[EmbeddedTarget]:
    """Run the stack with the suite's own app in it."""
    with embedded_stack.running(
        directory,
        more_code=APPLICATION,
        DJANGO_SETTINGS_MODULE="fault_settings",
        WORKER_WARM_SHUTDOWN_SECONDS="5",
    ) as stack:
        yield EmbeddedTarget(stack)

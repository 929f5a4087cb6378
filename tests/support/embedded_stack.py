"""The stack that `make up` starts without Docker, with ports, secrets and a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.embedded.runtime import EmbeddedRuntime
from deploy.embedded.servers import free_port
from deploy.stack import environment, ports
from tests.support.environment import OUTSIDE
from tests.support.roles import ROOT, wait_until

#: Seconds in which a service stops or is ready again.
RESTART_SECONDS = 120.0


@dataclass(frozen=True)
class EmbeddedStack:
    """A running stack, its folder and its settings."""

    runtime: EmbeddedRuntime
    state: Path
    values: dict[str, str]

    @property
    def url(self) -> str:
        """Where the console is."""
        return f"http://127.0.0.1:{self.values['WEB_PORT']}"

    @property
    def password(self) -> str:
        """What `admin` signs in with."""
        return self.values["DJANGO_SUPERUSER_PASSWORD"]

    def ask(self, path: str, body: Any = None) -> Any:
        """Call the API with a token: POST with a body, else GET; returns the answer's JSON."""
        name_and_token = self.values["API_TOKENS"].split(",")[0]
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {name_and_token.partition(':')[2]}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def stop(self, service: str) -> None:
        """Stop a service in order and wait for its end."""
        self.runtime._supervisor.stop_process(service)
        self._wait_for(service, "stopped", None)

    def start(self, service: str) -> None:
        """Start a service that is down, and wait until it is healthy."""
        self.runtime._supervisor.start_process(service)
        self._wait_for(service, "running", "healthy")

    def _wait_for(self, service: str, state: str, health: str | None) -> None:
        def is_there() -> bool:
            [status] = [item for item in self.runtime.status() if item.service == service]
            return status.state == state and health in (None, status.health)

        wait_until(is_there, timeout=RESTART_SECONDS, what=f"{service} is {state}")


def settings(directory: Path) -> dict[str, str]:
    """Return the settings of a stack that disturbs no other one on this machine."""
    shutil.copy(ROOT / ".env.example", directory)
    environment.prepare(directory)  # fresh secrets
    return {
        **environment.load(directory, OUTSIDE),
        **{port.variable: str(free_port()) for port in ports.ALL},
        "LOG_LEVEL": "WARNING",
        "ALERT_MAIL_TO": "",  # tests count the mails in the sink
    }


@contextmanager
def running(
    directory: Path, *, root: Path = ROOT, more_code: Path | None = None, **changes: str
) -> Iterator[EmbeddedStack]:
    """Run the stack; its files are in a directory, except what PostgreSQL cannot reach there.

    Args:
        directory: For settings, data and logs; the logs stay.
        root: The repository, or a copy of it.
        more_code: A folder from which the roles can import too.
        changes: Settings that differ from .env.example.
    """
    values = {**settings(directory), **changes}
    state = directory / "stack"
    runtime = EmbeddedRuntime(root, state, values)
    # The entry point puts the application's own folder in front of this.
    folders = [root / "app", *([more_code] if more_code else [])]
    runtime._environment["PYTHONPATH"] = os.pathsep.join(map(str, folders))
    try:
        runtime.up()
        yield EmbeddedStack(runtime, state, values)
    finally:
        if (state / "logs").exists():
            shutil.copytree(state / "logs", directory / "logs", dirs_exist_ok=True)
        runtime.down(volumes=True)

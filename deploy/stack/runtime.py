"""Which runtime the stack uses, and what every runtime can do."""

import re
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from deploy.stack.errors import StackError
from deploy.stack.ports import Port

RuntimeName = Literal["containers", "embedded"]
NAMES: tuple[RuntimeName, ...] = ("containers", "embedded")
ENGINE_TIMEOUT = 5.0  # seconds; a hung engine must not hang every command


@dataclass(frozen=True)
class Choice:
    """A runtime and, in words, why it was chosen."""

    name: RuntimeName
    reason: str


@dataclass(frozen=True)
class ServiceStatus:
    """One line of `make ps`."""

    service: str
    state: str
    health: str


class Runtime(Protocol):
    """What `python3 -m deploy.stack` asks of a runtime; every method may raise StackError."""

    def ports(self) -> Collection[Port]:
        """Host ports that `up` binds."""

    def held_ports(self) -> Collection[int]:
        """Host ports our own running services listen on."""

    def up(self) -> Collection[str]:
        """Start everything, wait until it is healthy, return the names of the services."""

    def down(self, *, volumes: bool) -> bool:
        """Stop everything; delete the data too if asked. Return False if nothing ran."""

    def status(self) -> list[ServiceStatus]:
        """State of every service; empty when the stack is down."""

    def logs(self, service: str | None, *, follow: bool) -> int:
        """Print logs of one service or all; return an exit status."""

    def shell(self) -> int:
        """Run a Django shell on this terminal; return its exit status."""


def choose(values: Mapping[str, str], record: Path) -> Choice:
    """Return the runtime to use: RUNTIME, else the one that is up, else Docker if it answers.

    `record` is the file in which `up` notes its runtime. Raises StackError when RUNTIME names an
    unknown runtime, or containers without a Docker engine.
    """
    forced = values.get("RUNTIME", "")
    if forced:
        if forced not in NAMES:
            raise StackError(f"RUNTIME must be containers or embedded, not {forced!r}")
        problem = engine_problem() if forced == "containers" else None
        if problem:
            raise StackError(
                f"RUNTIME=containers needs Docker, but {problem}. "
                "Start it, or use RUNTIME=embedded, which needs none"
            )
        return Choice(forced, f"RUNTIME={forced}")
    recorded = record.read_text(encoding="utf-8").strip() if record.exists() else ""
    if recorded in NAMES:
        return Choice(recorded, "the stack was started with it")
    problem = engine_problem()
    if problem:
        return Choice("embedded", problem)
    return Choice("containers", "Docker and its compose plugin answer")


def engine_problem() -> str | None:
    """Return why Docker with compose 2 or later cannot be used, or None when it can."""
    if _answer("docker", "info", "--format", "{{.ServerVersion}}") is None:
        return "no Docker engine answers"
    version = re.match(r"v?(\d+)", _answer("docker", "compose", "version", "--short") or "")
    if version is None or int(version[1]) < 2:
        return "Docker has no compose plugin (version 2 or later)"
    return None


def _answer(*command: str) -> str | None:
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=ENGINE_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None

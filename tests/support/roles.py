"""Runs a role of the image as a real process: the same entry point, without a container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENTRYPOINT = ROOT / "deploy" / "docker" / "entrypoint"


def wait_until(condition: Callable[[], object], *, timeout: float = 60, what: str = "") -> None:
    """Wait until a condition is true.

    Raises:
        AssertionError: It was not, within so many seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what or condition}"
        time.sleep(0.05)


@dataclass
class Role:
    """A running role."""

    name: str
    process: subprocess.Popen[bytes]
    log_file: Path
    environment: dict[str, str]

    @property
    def log(self) -> str:
        """Everything that the process has printed."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def probe(self, *arguments: str) -> int:
        """Run a probe for the process; returns its exit status."""
        return subprocess.run(
            [ENTRYPOINT, "probe", *arguments],
            env=self.environment,
            check=False,
            capture_output=True,
        ).returncode

    def stop(self, *, timeout: float, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit status.

        Raises:
            AssertionError: The process did not end within so many seconds.
        """
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} did not end within {timeout:g} s:\n{self.log[-2000:]}"
            ) from None


def role_environment(directory: Path, name: str, extra: dict[str, str]) -> dict[str, str]:
    """Return the environment of a role whose files are in a directory."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SERVICE_NAME": name,
        "HEARTBEAT_FILE": str(directory / f"{name}.heartbeat"),
        "WEB_METRICS_DIRECTORY": str(directory / f"{name}.metrics"),
        **extra,
    }


@contextmanager
def running_role(
    directory: Path, role: str, *arguments: str, name: str = "", **extra: str
) -> Iterator[Role]:
    """Start a role, and kill whatever is left of it at the end."""
    name = name or role
    environment = role_environment(directory, name, extra)
    log_file = directory / f"{name}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [ENTRYPOINT, role, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Role(name, process, log_file, environment)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

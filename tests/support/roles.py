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

from deploy.embedded.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
ENTRYPOINT = ROOT / "deploy" / "docker" / "entrypoint"
#: The module of the tests' own durable tasks, for the ``tasks`` of a role.
DURABLE_TASKS = "tests.support.durable_tasks"
#: Seconds that a role may take until a probe succeeds, on a machine that has much else to do.
START_TIMEOUT = 90


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

    def wait_for_probe(self, *arguments: str, timeout: float = START_TIMEOUT) -> None:
        """Wait until a probe for the process succeeds.

        Raises:
            AssertionError: The process has ended, or the probe did not succeed within so many
                seconds. The message has the end of the log.
        """
        deadline = time.monotonic() + timeout
        while self.probe(*arguments) != 0:
            probe = f"{self.name}: the probe {' '.join(arguments)}"
            status = self.process.poll()
            assert status is None, (
                f"{probe} cannot succeed, the process has ended with {status}:\n{self._end_of_log}"
            )
            assert time.monotonic() < deadline, (
                f"{probe} did not succeed within {timeout:g} s:\n{self._end_of_log}"
            )
            time.sleep(0.05)

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
                f"{self.name} did not end within {timeout:g} s:\n{self._end_of_log}"
            ) from None

    @property
    def _end_of_log(self) -> str:
        return f"{self.log[-2000:]}\n({self.log_file})"


@dataclass
class Web:
    """A running web role and its address."""

    role: Role
    url: str


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
    directory: Path, role: str, *arguments: str, name: str = "", tasks: str = "", **extra: str
) -> Iterator[Role]:
    """Start a role, and kill whatever is left of it at the end.

    It is not ready yet: that is for tests of the start itself, and for those that wait for
    something else. The others use the context managers below.

    Args:
        directory: Where its log and its heartbeat are.
        role: What the entry point calls it.
        arguments: What follows the role on the command line.
        name: What its log, its heartbeat and its service are called, if not like the role. Two
            roles in one directory need two names.
        tasks: Modules of the tests' own tasks that it has too, with commas between them.
        extra: Variables of its environment, over those of this process.
    """
    name = name or role
    if tasks:
        arguments = (*arguments, "--include", tasks)
        extra = {"PYTHONPATH": str(ROOT), **extra}
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


@contextmanager
def running_worker(
    directory: Path, *arguments: str, name: str = "", tasks: str = "", **extra: str
) -> Iterator[Role]:
    """Run a worker that consumes its queues; see :func:`running_role`.

    Raises:
        AssertionError: It has ended, or does not consume within ``START_TIMEOUT`` seconds.
    """
    with running_role(directory, "worker", *arguments, name=name, tasks=tasks, **extra) as role:
        role.wait_for_probe("ready")
        yield role


@contextmanager
def running_relay(
    directory: Path, *, name: str = "", tasks: str = "", **extra: str
) -> Iterator[Role]:
    """Run a relay whose loop turns, with or without a broker; see :func:`running_role`.

    Raises:
        AssertionError: It has ended, or its loop does not turn within ``START_TIMEOUT`` seconds.
    """
    with running_role(directory, "relay", name=name, tasks=tasks, **extra) as role:
        role.wait_for_probe("live")
        yield role


@contextmanager
def running_beat(directory: Path, *, name: str = "", **extra: str) -> Iterator[Role]:
    """Run a beat whose loop turns, whether it leads or stands by; see :func:`running_role`.

    Raises:
        AssertionError: It has ended, or its loop does not turn within ``START_TIMEOUT`` seconds.
    """
    with running_role(directory, "beat", name=name, **extra) as role:
        role.wait_for_probe("live")
        yield role


@contextmanager
def running_web(directory: Path, port: str = "", **extra: str) -> Iterator[Web]:
    """Run a web role that accepts jobs, at a free port if none is given; see :func:`running_role`.

    Raises:
        AssertionError: It has ended, or is not ready within ``START_TIMEOUT`` seconds.
    """
    port = port or str(free_port())
    with running_role(directory, "web", WEB_PORT=port, **extra) as role:
        web = Web(role, f"http://127.0.0.1:{port}")
        role.wait_for_probe("http", f"{web.url}/readyz")
        yield web

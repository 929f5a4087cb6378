"""What the two servers have in common: how one is started, found ready and stopped."""

import importlib.util
import os
import pwd
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Protocol, TypedDict, TypeVar

from deploy.stack.errors import StackError

HOST = "127.0.0.1"


class ServerError(StackError):
    """A server could not be prepared, started or reached; the message says what to do."""


class Server(Protocol):
    """What the supervisor and `running` need to know about a server."""

    @property
    def name(self) -> str:
        """Name for messages and log files."""

    @property
    def command(self) -> list[str]:
        """Command line that runs the server in the foreground; holds no secret."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables to set on top of the caller's environment."""

    @property
    def working_directory(self) -> Path:
        """A directory the server's account can enter."""

    @property
    def account(self) -> str | None:
        """User to run as, or None for the current one."""

    @property
    def stop_signal(self) -> signal.Signals:
        """The signal that asks for an orderly and prompt stop."""

    def initialise(self) -> None:
        """Create what the first start needs. Call only while the server is stopped."""

    def probe(self) -> str | None:
        """Return None when the server answers, else one line that says why not."""


AnyServer = TypeVar("AnyServer", bound=Server)


class Identity(TypedDict, total=False):
    """Arguments of subprocess that start a process as another user."""

    user: str
    group: int
    extra_groups: list[int]


def identity(account: str | None) -> Identity:
    """Return how subprocess starts a process as `account`; empty for the current user."""
    if account is None:
        return {}
    return {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []}


def package_directory(name: str) -> Path:
    """Return where the wheel `name` is installed, without running its code.

    Raises ServerError when it is not installed.
    """
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise ServerError(f"{name} is not installed: pip install -r requirements/embedded.txt")
    return Path(found.origin).resolve().parent


_handed_out: set[int] = set()


def free_port() -> int:
    """Return a TCP port nothing listens on at this moment, and that no earlier call returned.

    The system may offer a port again that the first caller has not opened yet.
    """
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        if port not in _handed_out:
            _handed_out.add(port)
            return port


def wait_until_ready(server: Server, timeout: float) -> None:
    """Wait up to `timeout` seconds until the server answers; raises ServerError if it does not."""
    deadline = monotonic() + timeout
    while (reason := server.probe()) is not None:
        if monotonic() > deadline:
            raise ServerError(f"{server.name} does not answer after {timeout:g} s: {reason}")
        sleep(0.1)


@contextmanager
def running(server: AnyServer, timeout: float = 30) -> Iterator[AnyServer]:
    """Run the server as a child process; `timeout` in seconds bounds its start and its stop.

    Raises ServerError, with the end of the server's log, when it does not start.
    """
    server.initialise()
    log = server.working_directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            server.command,
            **identity(server.account),
            env={**os.environ, **server.environment},
            cwd=server.working_directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the tests, which then stop the server
        )
    try:
        try:
            wait_until_ready(server, timeout)
        except ServerError as error:
            end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:]
            raise ServerError("\n".join([str(error), *end])) from error
        yield server
    finally:
        process.send_signal(server.stop_signal)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

"""The supervisord daemon: its generated configuration, and control of the running daemon."""

import hashlib
import http.client
import os
import shlex
import subprocess
import sys
import tempfile
import xmlrpc.client
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from deploy.embedded.process import PROCESS_MARKER, Process
from deploy.stack.errors import StackError

START_TIMEOUT = 15  # seconds until supervisord answers
SOCKET_PATH_LIMIT = 90  # bytes; the kernel allows 107 and supervisord appends a number
LOG_BYTES = 10_000_000
UNSTARTABLE = 1000  # attempts before supervisord gives up: a broken dependency may come back


class Supervisor:
    """One supervisord, kept below `directory`, that starts nothing unless asked to."""

    def __init__(self, directory: Path) -> None:
        self.logs = directory / "logs"
        self._run = directory / "run"
        self._configuration = self._run / "supervisor.conf"
        self._socket = self._run / "supervisor.sock"
        if len(os.fsencode(self._socket)) > SOCKET_PATH_LIMIT:
            digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
            self._socket = Path(tempfile.gettempdir()) / f"celeriac-{digest}" / "supervisor.sock"

    def start(self, processes: Iterable[Process], environment: Mapping[str, str]) -> None:
        """Start the daemon in the background; raises StackError when it does not answer."""
        for directory in (self.logs, self._run, self._socket.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._socket.parent.stat().st_uid != os.geteuid():
            raise StackError(f"{self._socket.parent} belongs to another user: delete it")
        self._socket.unlink(missing_ok=True)
        self._configuration.write_text(self.configuration(processes), encoding="utf-8")
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._configuration)]
        result = subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        deadline = monotonic() + START_TIMEOUT
        while not self.running():
            if result.returncode != 0 or monotonic() > deadline:
                reason = (result.stderr or result.stdout).strip()
                raise StackError(f"supervisord did not start: {reason}; see {self.logs}")
            sleep(0.1)

    def configuration(self, processes: Iterable[Process]) -> str:
        """Return the configuration file; it holds no secrets."""
        sections: dict[str, Mapping[str, object]] = {
            "supervisord": {
                "logfile": self.logs / "supervisord.log",
                "pidfile": self._run / "supervisord.pid",
                "childlogdir": self.logs,
            },
            "unix_http_server": {"file": self._socket, "chmod": "0700"},
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": (
                    "supervisor.rpcinterface:make_main_rpcinterface"
                ),
            },
            **{f"program:{item.name}": self._program(item) for item in processes},
        }
        return "\n".join(
            "\n".join([f"[{name}]", *(f"{key} = {_escaped(value)}" for key, value in body.items())])
            + "\n"
            for name, body in sections.items()
        )

    def running(self) -> bool:
        """Whether the daemon answers."""
        try:
            self._call("getState")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def states(self) -> dict[str, str]:
        """State of every process, as supervisord names it; empty when the daemon is down."""
        try:
            return {info["name"]: info["statename"] for info in self._call("getAllProcessInfo")}
        except (OSError, http.client.HTTPException):
            return {}

    def start_process(self, name: str) -> None:
        """Ask for a stopped process to be started, without waiting for it."""
        self._call("startProcess", name, False)

    def stop_process(self, name: str) -> None:
        """Ask for a process to be stopped, without waiting for it."""
        with suppress(xmlrpc.client.Fault):  # it is not running: nothing to stop
            self._call("stopProcess", name, False)

    def shut_down(self) -> None:
        """Ask the daemon to stop whatever still runs and to leave."""
        self._call("shutdown")

    def remove_socket(self) -> None:
        """Delete the control socket of a daemon that has ended."""
        self._socket.unlink(missing_ok=True)
        if self._socket.parent != self._run and self._socket.parent.exists():
            self._socket.parent.rmdir()

    def _program(self, process: Process) -> Mapping[str, object]:
        variables = {**process.environment, PROCESS_MARKER: process.name}
        program = {
            "command": shlex.join(process.command),
            "directory": process.directory,
            "environment": ",".join(f'{name}="{value}"' for name, value in variables.items()),
            "autostart": "false",
            "autorestart": "true",
            "startsecs": "1",
            "startretries": UNSTARTABLE,
            "stopsignal": process.stop_signal,
            "stopwaitsecs": process.stop_wait,
            # Only the main process is told to stop (Celery's then ends its own children in
            # order); after stopwaitsecs the whole group is killed.
            "stopasgroup": "false",
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": self.logs / f"{process.name}.log",
            "stdout_logfile_maxbytes": LOG_BYTES,
            "stdout_logfile_backups": "2",
        }
        return {**program, "user": process.account} if process.account else program

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport("", "", f"unix://{self._socket}")
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)


def _escaped(value: object) -> str:
    return str(value).replace("%", "%%")

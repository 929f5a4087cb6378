"""What runs below a supervisord of our own: processes of this machine, found by their parent."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import xmlrpc.client
from contextlib import suppress
from pathlib import Path

import psutil

from deploy.embedded.supervisor import Supervisor
from tests.faults.targets.target import Processes, Target
from tests.support.roles import ROOT, wait_until

#: Seconds; longer than any of the processes may take to stop.
STOP_SECONDS = 120.0


class SupervisedTarget(Target):
    """Processes that supervisord starts again when they end unasked."""

    supervisor: Supervisor
    state: Path

    def processes(self, service: str) -> list[Processes]:
        """Ask supervisord for the main process, and the kernel for its children."""
        pid = self._pid(service)
        if not pid:
            return []
        try:
            children = psutil.Process(pid).children()
        except psutil.NoSuchProcess:
            return []
        return [Processes(service, pid, tuple(child.pid for child in children))]

    def send_signal(self, replica: Processes, number: signal.Signals, *pids: int) -> None:
        """Send it; the pids came from ``processes`` a moment ago."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self, service: str) -> int | None:
        """Stop it and wait for its end."""
        wait_until(
            lambda: self._has_stopped(service), timeout=STOP_SECONDS, what=f"{service} stops"
        )
        status = self.supervisor._call("getProcessInfo", service)["exitstatus"]
        # supervisord says -1 for a process that was ended by a signal.
        return int(status)

    def _has_stopped(self, service: str) -> bool:
        """Say whether it has stopped for good; if not, ask for it.

        supervisord refuses to stop a process that has just died, and then starts it again.
        """
        stopped = self.supervisor.states()[service] in ("STOPPED", "FATAL")
        if not stopped:
            self.supervisor.stop_process(service)
        return stopped

    def kill(self, service: str) -> None:
        """Kill the main process and all below it, and tell supervisord to leave it at that."""
        everything = self._everything(service)
        for process in everything:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.stop(service)

    def start(self, service: str) -> None:
        """Start it, unless it runs."""
        with suppress(xmlrpc.client.Fault):
            self.supervisor.start_process(service)

    def freeze(self, service: str) -> None:
        """Stop it and all below it."""
        for process in self._everything(service):
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self, service: str) -> None:
        """Let it and all below it go on."""
        for process in self._everything(service):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def probe(self, service: str, kind: str) -> bool:
        """Run the probe of the entry point."""
        done = subprocess.run(
            [sys.executable, ROOT / "app" / "telemetry" / "probes.py", kind],
            env={"HEARTBEAT_FILE": str(self.state / "run" / f"{service}.heartbeat")},
            check=False,
            capture_output=True,
        )
        return done.returncode == 0

    def _pid(self, service: str) -> int:
        """Return the main process of a service; 0 while it is down."""
        try:
            return int(self.supervisor._call("getProcessInfo", service)["pid"])
        except (xmlrpc.client.Fault, OSError, http.client.HTTPException):
            return 0

    def _everything(self, service: str) -> list[psutil.Process]:
        """Return the main process and all below it, the main one first."""
        with suppress(psutil.NoSuchProcess):
            if pid := self._pid(service):
                main = psutil.Process(pid)
                return [main, *main.children(recursive=True)]
        return []

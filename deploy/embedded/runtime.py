"""The stack as local processes under supervisord; every file is below `.stack`."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from deploy.embedded import leftovers, logs
from deploy.embedded.process import Process
from deploy.embedded.processes import Processes
from deploy.embedded.supervisor import Supervisor
from deploy.stack.errors import StackError
from deploy.stack.ports import Port
from deploy.stack.runtime import ServiceStatus

READY_TIMEOUT = 90  # seconds for each of: servers, roles
CRASHES_ALLOWED = 3  # early exits before `up` stops waiting for a process
LOG_LINES = 30
SOURCES = (
    ".env", "app", "deploy/docker/entrypoint", "deploy/mail_sink", "deploy/prometheus",
    "requirements",
)  # fmt: skip


class EmbeddedRuntime:
    """Starts the servers, migrates, starts the roles, and leaves them to supervisord."""

    def __init__(self, root: Path, state: Path, values: Mapping[str, str]) -> None:
        self._root = root
        self._state = state
        self._processes = Processes(root, state, values)
        self._servers = self._processes.servers()
        self._roles = self._processes.roles()
        self._everything = [*self._servers, *self._roles]
        self._supervisor = Supervisor(state)
        self._environment = {**values, **self._processes.shared_environment}

    def ports(self) -> Collection[Port]:
        """Host ports that `up` binds."""
        return [port for process in self._everything for port in process.ports]

    def held_ports(self) -> Collection[int]:
        """Host ports our own running processes listen on."""
        return leftovers.listening_ports(self._state)

    def up(self) -> Collection[str]:
        """Start what is not running and wait until all is healthy; return the services."""
        with self._lock():
            fingerprint = self._fingerprint()
            record = self._state / "fingerprint"
            unchanged = record.exists() and record.read_text(encoding="utf-8") == fingerprint
            fresh = not self._supervisor.running()
            if not fresh and not unchanged:
                print("Code or settings have changed: restarting.", flush=True)
                self._stop()
                fresh = True
            try:
                if fresh:
                    record.unlink(missing_ok=True)  # a start that fails is not to be resumed
                    self._start_from_nothing(prepare_static=not unchanged)
                    record.write_text(fingerprint, encoding="utf-8")
                self._start(self._roles)
            except KeyboardInterrupt:
                if fresh:
                    print("\nInterrupted: stopping what was started ...", flush=True)
                    self._stop()
                raise
        for name, program in self._processes.monitoring.left_out():
            print(f"Leaving {name} out: no {program} program on PATH.")
        return [process.name for process in self._everything]

    def down(self, *, volumes: bool) -> bool:
        """Stop everything, also what a killed supervisord left; delete the data if asked."""
        with self._lock():
            existed = self._stop()
        if volumes:
            self._processes.postgres.remove()
            shutil.rmtree(self._state, ignore_errors=True)
        return existed

    def status(self) -> list[ServiceStatus]:
        """State and health of every process."""
        states = self._supervisor.states()
        return [
            ServiceStatus(process.name, state.lower(), _health(process, state))
            for process in self._everything
            if (state := states.get(process.name))
        ]

    def logs(self, service: str | None, *, follow: bool) -> int:
        """Print logs of one process or all."""
        known = sorted(path.stem for path in self._supervisor.logs.glob("*.log"))
        if service is not None and service not in known:
            raise StackError(f"no log of {service!r}. There is: {', '.join(known) or 'none yet'}")
        names = [service] if service else known
        logs.show([self._log(name) for name in names], follow=follow)
        return 0

    def shell(self) -> int:
        """Run a Django shell on this terminal."""
        if not self._supervisor.running():
            raise StackError("the stack is not up: make up")
        command = self._processes.entrypoint("manage", "shell")
        return subprocess.run(
            command, env=self._environment, cwd=self._root, check=False
        ).returncode

    def _start_from_nothing(self, *, prepare_static: bool) -> None:
        leftovers.stop(self._state)
        (self._state / "run").mkdir(mode=0o700, exist_ok=True)
        for heartbeat in (self._state / "run").glob("*.heartbeat"):
            heartbeat.unlink()
        print("Preparing PostgreSQL and Redis ...", flush=True)
        self._processes.postgres.initialise()
        self._processes.redis.initialise()
        self._processes.monitoring.configure([process.name for process in self._everything])
        self._supervisor.start(self._everything, self._environment)
        self._start(self._servers)
        if prepare_static or not (self._state / "static").exists():
            self._run_once("static files", "manage", "collectstatic", "--noinput")
        self._run_once("migrations", "migrate")

    def _run_once(self, title: str, *arguments: str) -> None:
        began = monotonic()
        print(f"  {title:<15} ...", end="", flush=True)
        path = self._log(arguments[0])
        with path.open("wb") as log:
            result = subprocess.run(
                self._processes.entrypoint(*arguments),
                env=self._environment,
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if result.returncode != 0:
            print(" failed", flush=True)
            raise self._failure(arguments[0], f"{title} failed with status {result.returncode}")
        print(f" done ({monotonic() - began:.1f} s)", flush=True)

    def _start(self, processes: Collection[Process]) -> None:
        states = self._supervisor.states()
        for process in processes:
            if states.get(process.name) in ("STOPPED", "EXITED", "FATAL"):
                self._supervisor.start_process(process.name)
        self._wait_until_healthy(processes)

    def _wait_until_healthy(self, processes: Collection[Process]) -> None:
        began = monotonic()
        pending = list(processes)
        previous: dict[str, str] = {}
        crashes = dict.fromkeys((process.name for process in processes), 0)
        while pending:
            states = self._supervisor.states()
            for process in list(pending):
                state = states.get(process.name, "MISSING")
                if state == "BACKOFF" and previous.get(process.name) != state:
                    crashes[process.name] += 1
                reason = process.probe() if state in ("STARTING", "RUNNING") else state.lower()
                if reason is None:
                    pending.remove(process)
                    print(f"  {process.name:<15} healthy ({monotonic() - began:.1f} s)", flush=True)
                elif crashes[process.name] >= CRASHES_ALLOWED or state == "FATAL":
                    raise self._failure(process.name, f"{process.name} exits right after its start")
                elif monotonic() - began > READY_TIMEOUT:
                    explanation = f"{process.name} is not healthy after {READY_TIMEOUT} s: {reason}"
                    raise self._failure(process.name, explanation)
            previous = states
            sleep(0.3)

    def _stop(self) -> bool:
        """Stop roles, then servers, then supervisord, then leftovers; return whether any ran."""
        existed = self._supervisor.running()
        if existed:
            for processes in (self._roles, self._servers):
                self._stop_processes({process.name for process in processes})
            self._supervisor.shut_down()
            while self._supervisor.running():
                sleep(0.1)
        found = leftovers.find(self._state)
        if found:
            leftovers.stop(self._state)
        self._supervisor.remove_socket()
        return existed or bool(found)

    def _stop_processes(self, names: Collection[str]) -> None:
        for name in names:
            self._supervisor.stop_process(name)
        print(f"Stopping {', '.join(sorted(names))} ...", flush=True)
        # supervisord itself kills what outstays its stop_wait, so this ends.
        while any(
            state in ("RUNNING", "STARTING", "STOPPING", "BACKOFF")
            for name, state in self._supervisor.states().items()
            if name in names
        ):
            sleep(0.2)

    def _fingerprint(self) -> str:
        """Digest of all that a running process does not notice by itself."""
        digest = hashlib.sha256(self._supervisor.configuration(self._everything).encode())
        digest.update(repr(sorted(self._processes.shared_environment.items())).encode())
        for source in SOURCES:
            path = self._root / source
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    status = file.stat()
                    digest.update(f"{file} {status.st_mtime_ns} {status.st_size}\n".encode())
        return digest.hexdigest()

    def _failure(self, service: str, explanation: str) -> StackError:
        print(f"--- last {LOG_LINES} log lines of {service}", file=sys.stderr)
        for line in logs.tail(self._log(service), LOG_LINES):
            print(line, file=sys.stderr)
        return StackError(f"{explanation}. Its log is {self._log(service)}; make down stops all")

    def _log(self, name: str) -> Path:
        return self._supervisor.logs / f"{name}.log"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._state.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            self._state.chmod(0o711)  # PostgreSQL runs as nobody and must get through
        with (self._state / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StackError("another make up or make down is at work: wait for it") from error
            yield


def _health(process: Process, state: str) -> str:
    if state not in ("RUNNING", "STARTING"):
        return "-"
    reason = process.probe()
    return "healthy" if reason is None else f"unhealthy: {reason}"

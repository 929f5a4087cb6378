"""The real docker-compose.yml, with ports, secrets and volumes of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testcontainers.compose import DockerCompose

from deploy.embedded.servers import free_port
from tests.faults.targets.target import Processes, StackTarget
from tests.stack.conftest import START_SECONDS, Stack, stack_environment
from tests.support.roles import ROOT

#: What takes part. What watches the stack would only take its processors away.
SERVICES = ("postgres", "redis", "migrate", "web", "worker", "worker-bulk", "relay", "beat")
ENTRYPOINT = "/opt/celeriac/deploy/docker/entrypoint"
MAKE_NOTE_OLDER = """
import json, pathlib, sys
path = pathlib.Path("/tmp/celeriac-heartbeat")
note = json.loads(path.read_text())
note["at"] -= float(sys.argv[1])
path.write_text(json.dumps(note))
"""
#: Seconds; as docker-compose.yml, so that a stop that takes longer ends with status 137.
GRACE_SECONDS = 90


class ContainersTarget(StackTarget):
    """The stack in containers. Pids are those inside the container."""

    name = "containers"

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        values = stack.environment
        self.web_url = stack.url("WEB_PORT")
        self.database_url = (
            f"postgres://celeriac:{values['POSTGRES_PASSWORD']}"
            f"@127.0.0.1:{values['POSTGRES_PORT']}/celeriac"
        )
        self.broker_url = f"redis://:{values['REDIS_PASSWORD']}@127.0.0.1:{values['REDIS_PORT']}/0"
        self.signing_key = values["TASK_SIGNING_KEYS"]
        self._engine: Any = stack.compose._get_docker_client().client

    def containers(self, service: str) -> list[Any]:
        """Return the containers of a service, those that are down too, oldest first."""
        labels = [
            f"com.docker.compose.project={self.stack.environment['COMPOSE_PROJECT_NAME']}",
            f"com.docker.compose.service={service}",
        ]
        found = self._engine.containers.list(all=True, filters={"label": labels})
        return sorted(found, key=lambda container: container.name)

    def processes(self, service: str) -> list[Processes]:
        """Read the process tables of the containers."""
        return [
            replica
            for container in self.containers(service)
            if container.status == "running" and (replica := _processes(container))
        ]

    def send_signal(self, replica: Processes, number: signal.Signals, *pids: int) -> None:
        """Send it from inside: the engine must not know that it was on purpose."""
        container = self._engine.containers.get(replica.place)
        container.exec_run(["sh", "-c", f"kill -{number.value} {' '.join(map(str, pids))}"])

    def stop(self, service: str) -> int | None:
        """Stop all replicas; returns the highest exit status."""
        status = 0
        for container in self.containers(service):
            container.stop(timeout=GRACE_SECONDS)
            container.reload()
            status = max(status, container.attrs["State"]["ExitCode"])
        return status

    def kill(self, service: str) -> None:
        """Have the engine kill it; it does not start again by itself after that."""
        for container in self.containers(service):
            container.kill()

    def start(self, service: str) -> None:
        """Start all replicas."""
        for container in self.containers(service):
            container.start()

    def freeze(self, service: str) -> None:
        """Use the engine's freezer."""
        for container in self.containers(service):
            container.pause()

    def thaw(self, service: str) -> None:
        """Use the engine's freezer."""
        for container in self.containers(service):
            if container.status == "paused":
                container.unpause()

    def probe(self, service: str, kind: str) -> bool:
        """Run the health check of docker-compose.yml in every replica."""
        containers = self.containers(service)
        return bool(containers) and all(
            container.status == "running"
            and container.exec_run([ENTRYPOINT, "probe", kind]).exit_code == 0
            for container in containers
        )

    def second(self, service: str) -> None:
        """Scale to two."""
        self._scale(service, 2)

    def only(self, service: str) -> None:
        """Scale to one."""
        if len(self.containers(service)) > 1:
            self._scale(service, 1)

    def has_file(self, service: str, path: Path) -> bool:
        """Look into the first replica."""
        done = self.containers(service)[0].exec_run(["test", "-e", str(path)])
        return bool(done.exit_code == 0)

    def make_note_older(self, service: str, seconds: float) -> None:
        """Let time pass for the note that a loop has written last."""
        self.run(service, "python", "-c", MAKE_NOTE_OLDER, str(seconds))

    def heal(self) -> None:
        """Go back to one replica of everything too."""
        super().heal()
        for service in self.loops:
            self.only(service)

    def run(self, service: str, *command: str) -> str:
        """Run a command in the first replica; returns what it printed."""
        done = self.containers(service)[0].exec_run(list(command))
        assert done.exit_code == 0, done.output.decode()
        return str(done.output.decode())

    def _scale(self, service: str, number: int) -> None:
        self.stack.run(
            "up", "--detach", "--no-recreate", "--no-deps", f"--scale={service}={number}", service
        )


def _processes(container: Any) -> Processes | None:
    """Return a container's processes: process 1 is the init, or a server itself."""
    # The shell that lists them has gone again when somebody reads the list; cat is left out
    # because its parent is not in the list.
    output = container.exec_run(["sh", "-c", "cat /proc/[0-9]*/stat"]).output.decode()
    parents: dict[int, int] = {}
    for line in output.splitlines():
        pid, _, rest = line.partition(" (")
        fields = rest.rpartition(") ")[2].split()
        if pid.isdigit() and len(fields) > 1 and fields[0] != "Z":
            parents[int(pid)] = int(fields[1])
    if 1 not in parents:
        return None
    below_init = [pid for pid, parent in parents.items() if parent == 1]
    has_init = container.attrs["HostConfig"]["Init"]
    if has_init and not below_init:
        return None
    main = min(below_init) if has_init else 1
    children = sorted(pid for pid, parent in parents.items() if parent == main)
    return Processes(container.name, main, tuple(children))


@contextmanager
def running(directory: Path) -> Iterator[ContainersTarget]:
    """Build the image and run the stack; its files are in a directory."""
    environment = {
        **stack_environment(),
        "COMPOSE_PROJECT_NAME": os.environ.get("FAULTS_PROJECT", "celeriac-faults"),
        "CELERIAC_TAG": "faults",
        "COMPOSE_ANSI": "never",
        "POSTGRES_PORT": str(free_port()),
        "REDIS_PORT": str(free_port()),
    }
    env_file = directory / "env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
    compose = DockerCompose(
        ROOT,
        ["docker-compose.yml", "tests/faults/docker-compose.yaml"],
        env_file=str(env_file),
        services=list(SERVICES),
    )
    stack = Stack(compose, environment)
    # A run that was killed has left its containers and volumes.
    stack.run("down", "--volumes", "--remove-orphans", "--timeout", "5")
    stack.run("build", "migrate")
    try:
        start = ["up", "--detach", "--wait", f"--wait-timeout={START_SECONDS}"]
        stack.run(*start, "postgres")
        target = ContainersTarget(stack)
        assert target.ledger, "its tables are there before the first effect"
        stack.run(*start, *SERVICES)
        yield target
    finally:
        logs = stack.run("logs", "--no-color", "--timestamps", check=False)
        (directory / "stack.log").write_text(logs)
        stack.run("down", "--volumes", "--timeout", "5", check=False)

"""The stack as containers, through docker compose."""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from deploy.stack import ports
from deploy.stack.errors import StackError
from deploy.stack.ports import Port
from deploy.stack.runtime import ServiceStatus

ENTRYPOINT = "/opt/celeriac/deploy/docker/entrypoint"
READY_TIMEOUT = 300  # seconds from the last container's start until all are healthy
LOG_LINES = 30


class ContainersRuntime:
    """Runs docker compose in `root`; compose itself reads `.env`."""

    def __init__(self, root: Path, values: Mapping[str, str]) -> None:
        self._root = root
        self._environment = dict(os.environ)
        air_gapped = values.get("IMAGES") == "airgap"
        if air_gapped:
            self._environment["IMAGE_SUFFIX"] = "-airgap"
        self._without_grafana = air_gapped and not values.get("GRAFANA_IMAGE")
        if self._without_grafana:
            self._environment["GRAFANA_LINK"] = ""  # the console shows links to what runs

    def ports(self) -> Collection[Port]:
        """Host ports that `up` publishes."""
        published = [port for port in ports.ALL if not port.embedded_only]
        return [port for port in published if not (self._without_grafana and port is ports.GRAFANA)]

    def held_ports(self) -> Collection[int]:
        """Host ports our own containers publish."""
        containers = self._containers()
        return {
            int(publisher["PublishedPort"])
            for container in containers
            for publisher in container.get("Publishers") or ()
        }

    def up(self) -> Collection[str]:
        """Build and start everything, and wait until it is healthy; return the services."""
        services = self._read("config", "--services").split()
        if self._without_grafana:
            print("Leaving Grafana out: it has no air-gapped image. Set GRAFANA_IMAGE to add it.")
            services.remove("grafana")
        was_down = not self._containers()
        try:
            # Before up, not with --build: up would first look for our image in a registry.
            print("Building the image ...", flush=True)
            if self._run("build", *services):
                raise StackError("docker compose build failed, see above")
            print("Starting the containers ...", flush=True)
            wait = ["--wait", "--wait-timeout", str(READY_TIMEOUT)]
            # Named one by one because --scale grafana=0 still pulls its image.
            status = self._run("up", "--detach", *wait, *services)
        except KeyboardInterrupt:
            if was_down:
                print("\nInterrupted: stopping what was started ...", flush=True)
                self._run("down")
            raise
        if status != 0:
            raise StackError(self._failure(status))
        return services

    def down(self, *, volumes: bool) -> bool:
        """Remove the containers, and the volumes with all data if asked."""
        existed = bool(self._containers())
        if (existed or volumes) and self._run(
            "down", "--remove-orphans", *(["--volumes"] if volumes else [])
        ):
            raise StackError("docker compose down failed, see above")
        return existed

    def status(self) -> list[ServiceStatus]:
        """State of every container."""
        return sorted(
            (
                ServiceStatus(container["Service"], _state(container), container["Health"] or "-")
                for container in self._containers()
            ),
            key=lambda status: status.service,
        )

    def logs(self, service: str | None, *, follow: bool) -> int:
        """Print the last lines of the logs, then follow them if asked."""
        options = ["--tail", "100", *(["--follow"] if follow else [])]
        if not sys.stdout.isatty():
            # Else compose puts control characters before each line, whoever reads it.
            options.append("--no-color")
            self._environment["COMPOSE_ANSI"] = "never"
        return self._run("logs", *options, *([service] if service else []))

    def shell(self) -> int:
        """Run a Django shell in the web container."""
        terminal = [] if sys.stdin.isatty() else ["--no-TTY"]
        return self._run("exec", *terminal, "web", ENTRYPOINT, "manage", "shell")

    def _containers(self) -> list[dict[str, Any]]:
        output = self._read("ps", "--all", "--format", "json").strip()
        if output.startswith("["):  # one array before compose 2.21, one object a line since
            return list(json.loads(output))
        return [json.loads(line) for line in output.splitlines()]

    def _failure(self, status: int) -> str:
        failed = [
            container
            for container in self._containers()
            if container["Health"] in ("unhealthy", "starting")
            or container["State"] not in ("running", "exited")
            or (container["State"] == "exited" and container["ExitCode"] != 0)
        ]
        if not failed:
            return f"docker compose up failed with status {status}, see above"
        for service in sorted({container["Service"] for container in failed}):
            print(f"--- last {LOG_LINES} log lines of {service}", file=sys.stderr, flush=True)
            self._run("logs", "--no-log-prefix", "--tail", str(LOG_LINES), service)
        names = ", ".join(f"{item['Service']} ({_state(item, health=True)})" for item in failed)
        return f"not healthy: {names}. The log lines above say why; make down stops the rest"

    def _run(self, *arguments: str) -> int:
        command = ["docker", "compose", *arguments]
        return subprocess.run(
            command, cwd=self._root, env=self._environment, check=False
        ).returncode

    def _read(self, *arguments: str) -> str:
        result = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=self._root,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            reason = result.stderr.strip()
            raise StackError(f"docker compose {arguments[0]} failed: {reason}")
        return result.stdout


def _state(container: Mapping[str, Any], *, health: bool = False) -> str:
    if container["State"] == "exited":
        return f"exited with status {container['ExitCode']}"
    state = str(container["State"])
    return str(container["Health"]) if health and container["Health"] else state

"""The processes of the embedded stack: what each runs, with which settings, and when it is well."""

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from deploy.embedded import allowed_environment
from deploy.embedded.monitoring import Monitoring
from deploy.embedded.process import PROCESS_MARKER, STACK_MARKER, STOP_WAIT, Probe, Process, page
from deploy.embedded.servers import HOST, PostgresServer, RedisServer, Server
from deploy.embedded.servers.redis import CELERY_EXPORTER, SERVER_EXPORTER
from deploy.stack import ports
from deploy.stack.ports import Port

WORKER_STOP_WAIT = 90  # seconds; a worker finishes its tasks before it leaves
BINARIES = Path(sys.prefix) / "bin"
#: Variables of the exporter; the two secret ones are those of accounts that only read.
EXPORTER_VARIABLES = (
    "BROKER_URL=EXPORTER_BROKER_URL", "DATABASE_URL=EXPORTER_DATABASE_URL", "BIND_HOST",
    "EXPORTER_PORT", "EXPORTER_SCAN_SECONDS", "LOG_LEVEL", "LOG_FORMAT", "CELERIAC_VERSION",
    "CELERIAC_REVISION", "PYTHONUNBUFFERED", STACK_MARKER, PROCESS_MARKER,
)  # fmt: skip


class Processes:
    """Everything the stack runs, computed from its settings."""

    def __init__(self, root: Path, state: Path, values: Mapping[str, str]) -> None:
        self.root = root
        self.state = state
        self._values = values
        numbers = {port.variable: str(port.number(values)) for port in ports.ALL}
        self.postgres = PostgresServer(
            state / "postgres", int(numbers["POSTGRES_PORT"]), values["POSTGRES_PASSWORD"]
        )
        self.redis = RedisServer(
            state / "redis",
            int(numbers["REDIS_PORT"]),
            values["REDIS_PASSWORD"],
            {
                CELERY_EXPORTER: values["CELERY_EXPORTER_PASSWORD"],
                SERVER_EXPORTER: values["SERVER_EXPORTERS_PASSWORD"],
            },
        )
        self.monitoring = Monitoring(root, state, values, self.redis.port, self.postgres.port)
        self.shared_environment = {
            **numbers,
            "PATH": f"{BINARIES}{os.pathsep}{values.get('PATH', os.defpath)}",
            "PYTHONPATH": str(root / "app"),
            "PYTHONUNBUFFERED": "1",
            "BIND_HOST": HOST,
            "DATABASE_URL": self.postgres.url,
            "BROKER_URL": f"{self.redis.url}/0",
            "CHANNEL_LAYER_URL": f"{self.redis.url}/1",
            "EXPORTER_BROKER_URL": f"{self.redis.url_of(CELERY_EXPORTER)}/0",
            "EXPORTER_DATABASE_URL": self.postgres.url_of(
                "celery_exporter", values["CELERY_EXPORTER_PASSWORD"]
            ),
            "EMAIL_HOST": HOST,
            "EMAIL_PORT": numbers["MAIL_SMTP_PORT"],
            "MAIL_SINK_URL": self._url(ports.MAIL_WEB, ""),
            "DJANGO_SUPERUSER_USERNAME": "admin",
            "STATIC_ROOT": str(state / "static"),
            STACK_MARKER: str(state),
        }

    def servers(self) -> list[Process]:
        """What the roles need: they start first and stop last."""
        return [
            self._server(self.postgres, ports.POSTGRES),
            self._server(self.redis, ports.REDIS),
            self._mail(),
        ]

    def roles(self) -> list[Process]:
        """The roles of the image, and what watches them as far as it is installed."""
        return [*self._image_roles(), *self.monitoring.processes()]

    def _image_roles(self) -> list[Process]:
        return [
            self._web(),
            self._worker("worker", "WORKER_CONCURRENCY", ports.WORKER_METRICS),
            self._worker("worker-bulk", "WORKER_BULK_CONCURRENCY", ports.WORKER_BULK_METRICS),
            self._role("relay", check="live", metrics=ports.RELAY_METRICS),
            self._role("beat", check="live", metrics=ports.BEAT_METRICS),
            self._role(
                "flower",
                probe=page(
                    self._url(ports.FLOWER, "/healthcheck"), self._values["FLOWER_BASIC_AUTH"]
                ),
                port=ports.FLOWER,
            ),
            self._exporter(),
        ]

    def entrypoint(self, *arguments: str) -> list[str]:
        """Command line of a role, exactly as in the image."""
        return [str(self.root / "deploy" / "docker" / "entrypoint"), *arguments]

    def _server(self, server: Server, port: Port) -> Process:
        return Process(
            name=server.name,
            command=server.command,
            probe=server.probe,
            directory=server.working_directory,
            environment=server.environment,
            account=server.account,
            stop_signal=server.stop_signal.name.removeprefix("SIG"),
            ports=(port,),
        )

    def _mail(self) -> Process:
        web, smtp = ports.MAIL_WEB.number(self._values), ports.MAIL_SMTP.number(self._values)
        addresses = ["--smtp-host", HOST, "--smtp-port", str(smtp)]
        addresses += ["--http-host", HOST, "--http-port", str(web)]
        return Process(
            name="mail",
            command=[sys.executable, "-m", "deploy.mail_sink", *addresses],
            probe=page(self._url(ports.MAIL_WEB, "/readyz")),
            directory=self.root,
            ports=(ports.MAIL_WEB, ports.MAIL_SMTP),
        )

    def _role(
        self,
        role: str,
        *,
        name: str = "",
        probe: Probe | None = None,
        check: str = "ready",
        port: Port | None = None,
        metrics: Port | None = None,
        environment: Mapping[str, str] | None = None,
        stop_wait: int = STOP_WAIT,
    ) -> Process:
        name = name or role
        own = {
            "HEARTBEAT_FILE": str(self.state / "run" / f"{name}.heartbeat"),
            "METRICS_PORT": str(metrics.number(self._values)) if metrics else "0",
            **(environment or {}),
        }
        script = self.root / "app" / "telemetry" / "probes.py"
        # -S and -E halve what a probe costs, as in the entry point.
        command = [sys.executable, "-S", "-E", str(script), check]
        return Process(
            name=name,
            command=self.entrypoint(role),
            probe=probe or partial(_script, command, {**self.shared_environment, **own}),
            directory=self.root,
            environment=own,
            stop_wait=stop_wait,
            ports=tuple(used for used in (port, metrics) if used),
        )

    def _web(self) -> Process:
        links = {"Flower": ports.FLOWER, "Mail": ports.MAIL_WEB, **self.monitoring.links()}
        return self._role(
            "web",
            probe=page(self._url(ports.WEB, "/readyz")),
            port=ports.WEB,
            # As in docker-compose.yml.
            environment={
                "DATABASE_POOL_SIZE": "10",
                "BROKER_SOCKET_TIMEOUT_SECONDS": "2",
                "TOOL_LINKS": ",".join(
                    f"{name}={self._url(port, '')}" for name, port in links.items()
                ),
            },
        )

    def _worker(self, service: str, concurrency: str, metrics: Port) -> Process:
        environment = {"WORKER_SERVICE": service}
        if self._values.get(concurrency):
            environment["WORKER_CONCURRENCY"] = self._values[concurrency]
        return self._role(
            "worker",
            name=service,
            metrics=metrics,
            environment=environment,
            stop_wait=WORKER_STOP_WAIT,
        )

    def _exporter(self) -> Process:
        port = ports.EXPORTER
        return Process(
            name=port.service,
            command=allowed_environment.command(EXPORTER_VARIABLES, self.entrypoint("exporter")),
            probe=page(self._url(port, "/livez")),
            directory=self.root,
            ports=(port,),
        )

    def _url(self, port: Port, path: str) -> str:
        return f"http://{HOST}:{port.number(self._values)}{path}"


def _script(command: list[str], environment: Mapping[str, str]) -> str | None:
    # While all roles start at once, a probe that can only say no costs them time.
    if not Path(environment["HEARTBEAT_FILE"]).exists():
        return "it has not started its loop yet"
    try:
        result = subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "the probe takes longer than 10 s"
    if result.returncode == 0:
        return None
    return (result.stderr or result.stdout).strip().splitlines()[-1:][0] or "the probe failed"

"""What watches the embedded stack, as far as its programs are on PATH (`.ci/prometheus install`).

Debian and the projects themselves give some of the programs different names; either will do.
"""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded import allowed_environment
from deploy.embedded.process import PROCESS_MARKER, STACK_MARKER, Process, page
from deploy.prometheus import scrape_configuration
from deploy.stack import ports
from deploy.stack.errors import StackError
from deploy.stack.ports import HOST, Port

#: Share of their length that the windows of the alerts may have: shorter than this, a window would
#: hold no two scrapes.
SHORTEST_TIME_SCALE = 0.01
#: Seconds after which Prometheus tells Alertmanager again what did not arrive: its own default. It
#: drops what it would send in the first seconds after it has read its configuration.
RESEND_SECONDS = 60.0
#: Not shorter: Alertmanager takes an alert for over when it has not heard of it four times.
SHORTEST_RESEND_SECONDS = 5.0
#: What Prometheus keeps, as docker-compose.yml has it: a little more than the 30 days of the error
#: budgets, and no more than so many bytes on disk.
RETENTION_TIME = "31d"
RETENTION_SIZE = "4GB"
#: What each may know; the password of the exporters is that of accounts that only read.
_ALWAYS = (STACK_MARKER, PROCESS_MARKER)
REDIS_EXPORTER_VARIABLES = ("REDIS_USER", "REDIS_PASSWORD=SERVER_EXPORTERS_PASSWORD", *_ALWAYS)
POSTGRES_EXPORTER_VARIABLES = (
    "DATA_SOURCE_URI", "DATA_SOURCE_USER", "DATA_SOURCE_PASS=SERVER_EXPORTERS_PASSWORD", *_ALWAYS,
)  # fmt: skip
ALERTMANAGER_VARIABLES = (
    "ALERT_MAIL_TO", "ALERT_MAIL_FROM", "ALERT_WEBHOOK_URL", "ALERT_WATCHDOG_URL", "EMAIL_HOST",
    "EMAIL_PORT", "EMAIL_HOST_USER", "EMAIL_HOST_PASSWORD", "EMAIL_USE_TLS", *_ALWAYS,
)  # fmt: skip
#: As in docker-compose.yml: the file holds secrets, and is made anew at each start.
RENDER_AND_RUN = 'umask 077; "$1" > "$2" || exit; shift 2; exec "$0" "$@"'


@dataclass(frozen=True)
class Program:
    """What a program is called, in prose and on PATH, and where it listens."""

    title: str
    names: tuple[str, ...]
    port: Port

    @property
    def path(self) -> str | None:
        """Where it is; None when it is not installed."""
        return next(filter(None, map(shutil.which, self.names)), None)


PROMETHEUS = Program("Prometheus", ("prometheus",), ports.PROMETHEUS)
ALERT_MANAGER = Program(
    "Alertmanager", ("prometheus-alertmanager", "alertmanager"), ports.ALERTMANAGER
)
REDIS = Program(
    "the Redis exporter", ("prometheus-redis-exporter", "redis_exporter"), ports.REDIS_EXPORTER
)
POSTGRES = Program(
    "the PostgreSQL exporter",
    ("prometheus-postgres-exporter", "postgres_exporter"),
    ports.POSTGRES_EXPORTER,
)
PROGRAMS = (PROMETHEUS, ALERT_MANAGER, REDIS, POSTGRES)


class Monitoring:
    """Prometheus, Alertmanager and the servers' exporters: processes, and files they read."""

    def __init__(
        self,
        root: Path,
        state: Path,
        values: Mapping[str, str],
        redis_port: int,
        postgres_port: int,
    ) -> None:
        self._root = root
        self._state = state
        self._values = values
        self._redis_port = redis_port
        self._postgres_port = postgres_port
        self._folder = state / "monitoring"

    def processes(self) -> list[Process]:
        """Return those whose programs are installed."""
        made = {
            PROMETHEUS: self._prometheus,
            ALERT_MANAGER: self._alertmanager,
            REDIS: self._redis_exporter,
            POSTGRES: self._postgres_exporter,
        }
        return [make(program.path) for program, make in made.items() if program.path]

    def left_out(self) -> list[tuple[str, str]]:
        """Return title and program name of what is not installed."""
        return [(program.title, program.names[0]) for program in PROGRAMS if not program.path]

    def links(self) -> dict[str, Port]:
        """Return the pages that a person may want to open."""
        pages = (PROMETHEUS, ALERT_MANAGER)
        return {program.title: program.port for program in pages if program.path}

    def configure(self, services: Collection[str]) -> None:
        """Write the files for a stack of these services.

        Raises:
            StackError: ALERT_TIME_SCALE is no share, or the rules cannot be rendered.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        scale = self._time_scale()
        text = scrape_configuration.for_this_machine(
            self._values,
            present=frozenset(services),
            rules=self._rules(scale),
            time_scale=scale,
        )
        (self._folder / "prometheus.yml").write_text(text, encoding="utf-8")

    def _time_scale(self) -> float:
        text = self._values.get("ALERT_TIME_SCALE") or "1"
        try:
            scale = float(text)
        except ValueError:
            scale = math.nan
        if not SHORTEST_TIME_SCALE <= scale <= 1:
            raise StackError(
                f"ALERT_TIME_SCALE must be from {SHORTEST_TIME_SCALE} to 1, not {text!r}"
            )
        return scale

    def _resend_seconds(self) -> float:
        return max(SHORTEST_RESEND_SECONDS, RESEND_SECONDS * self._time_scale())

    def _rules(self, scale: float) -> Path:
        if scale == 1:
            return self._root / "deploy" / "prometheus" / "rules" / "celeriac.rules.yml"
        target = self._folder / "celeriac.rules.yml"
        interval = str(scrape_configuration.interval(scale))
        options = ["--scale", str(scale), "--scrape-interval", interval, str(target)]
        result = subprocess.run(
            [sys.executable, "-m", "deploy.prometheus", "rules", *options],
            cwd=self._root,
            env={**os.environ, "PYTHONPATH": f"{self._root / 'app'}{os.pathsep}{self._root}"},
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise StackError(f"the rules cannot be rendered: {result.stderr.strip()}")
        return target

    def _prometheus(self, program: str) -> Process:
        command = [
            program,
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._state / 'prometheus'}",
            f"--storage.tsdb.retention.time={RETENTION_TIME}",
            f"--storage.tsdb.retention.size={RETENTION_SIZE}",
            f"--rules.alert.resend-delay={self._resend_seconds():g}s",
            *self._addresses(ports.PROMETHEUS),
        ]
        return self._process(
            ports.PROMETHEUS, allowed_environment.command(_ALWAYS, command), "/-/ready"
        )

    def _alertmanager(self, program: str) -> Process:
        renderer = self._root / "deploy" / "prometheus" / "alertmanager-configuration"
        configuration = self._folder / "alertmanager.yml"
        command = [
            *("/bin/sh", "-c", RENDER_AND_RUN, program),
            str(renderer),
            str(configuration),
            f"--config.file={configuration}",
            f"--storage.path={self._state / 'alertmanager'}",
            "--cluster.listen-address=",
            *self._addresses(ports.ALERTMANAGER),
        ]
        return self._process(
            ports.ALERTMANAGER,
            allowed_environment.command(ALERTMANAGER_VARIABLES, command),
            "/-/ready",
        )

    def _redis_exporter(self, program: str) -> Process:
        command = [
            program,
            f"-redis.addr=redis://{HOST}:{self._redis_port}",
            f"-web.listen-address={self._listen(ports.REDIS_EXPORTER)}",
        ]
        return self._process(
            ports.REDIS_EXPORTER,
            allowed_environment.command(REDIS_EXPORTER_VARIABLES, command),
            "/health",
            {"REDIS_USER": "redis-exporter"},
        )

    def _postgres_exporter(self, program: str) -> Process:
        command = [program, f"--web.listen-address={self._listen(ports.POSTGRES_EXPORTER)}"]
        return self._process(
            ports.POSTGRES_EXPORTER,
            allowed_environment.command(POSTGRES_EXPORTER_VARIABLES, command),
            "/",
            {
                "DATA_SOURCE_URI": f"{HOST}:{self._postgres_port}/celeriac?sslmode=disable",
                "DATA_SOURCE_USER": "postgres_exporter",
            },
        )

    def _process(
        self,
        port: Port,
        command: list[str],
        path: str,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        return Process(
            name=port.service,
            command=command,
            probe=page(f"http://{self._listen(port)}{path}"),
            directory=self._root,
            environment=environment or {},
            ports=(port,),
        )

    def _addresses(self, port: Port) -> list[str]:
        listen = self._listen(port)
        return [f"--web.listen-address={listen}", f"--web.external-url=http://{listen}"]

    def _listen(self, port: Port) -> str:
        return f"{HOST}:{port.number(self._values)}"

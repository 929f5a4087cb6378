"""The real docker-compose.yml, started once with ports, secrets and volumes of its own."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import yaml
from testcontainers.compose import DockerCompose

from deploy.embedded.servers import free_port
from tests.support.environment import OUTSIDE
from tests.support.mail_sink import MailSink
from tests.support.roles import ROOT, wait_until

PORTS = (
    "WEB_PORT", "FLOWER_PORT", "MAIL_WEB_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT",
    "GRAFANA_PORT",
)  # fmt: skip
#: Seconds in which everything must be healthy, image build not included.
START_SECONDS = 180


def engine_fault() -> str | None:
    """Return why no Docker engine can be used, or None."""
    try:
        answer = subprocess.run(
            ["docker", "info"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"docker info: {error}"
    return answer.stderr.strip() or "docker info failed" if answer.returncode else None


def require_engine() -> None:
    """Skip a module of tests without a Docker engine; in CI, where they must run, fail later."""
    fault = None if os.environ.get("CI") else engine_fault()
    if fault:
        pytest.skip(f"needs a Docker engine: {fault}", allow_module_level=True)


@dataclass
class Stack:
    """The running stack."""

    compose: DockerCompose
    environment: dict[str, str]

    def url(self, port: str, path: str = "") -> str:
        """Return an address on one of the published ports."""
        return f"http://127.0.0.1:{self.environment[port]}{path}"

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run a docker compose command; returns what it printed."""
        command = [*self.compose.docker_compose_command(), *arguments]
        done = subprocess.run(
            command,
            cwd=ROOT,
            # Compose prefers the process's variables to the file's, and pytest has its own.
            env={**OUTSIDE, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS + 60,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def container(self, service: str) -> Any:
        """Return what the engine knows of a service's container."""
        return self.compose._get_docker_client().client.containers.get(
            str(self.compose.get_container(service, include_all=True).ID)
        )

    @cached_property
    def mails(self) -> MailSink:
        """Return the mail sink."""
        return MailSink(self.url("MAIL_WEB_PORT"))

    def get(self, url: str, user: str = "") -> tuple[int, str]:
        """Ask a server, with user:password if given."""
        request = urllib.request.Request(url)
        if user:
            request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def api(self, path: str, body: Any = None) -> dict[str, Any]:
        """Call the HTTP API with the stack's token."""
        token = self.environment["API_TOKENS"].partition(":")[2]
        request = urllib.request.Request(
            self.url("WEB_PORT", path),
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def submit(self, number: int) -> tuple[str, list[str]]:
        """Submit a newsletter to so many people; returns the job's address and the people."""
        self.mails.clear()
        people = sorted(f"{secrets.token_hex(6)}@example.com" for _ in range(number))
        job = self.api(
            "/api/jobs/newsletter", {"subject": "Hello", "body": "Text", "recipients": people}
        )
        return f"/api/jobs/{job['id']}", people

    def wait_for_end(self, job: str, timeout: float) -> dict[str, Any]:
        """Wait until a job has its final state."""
        last: dict[str, Any] = {}

        def ended() -> bool:
            last.update(self.api(job))
            return last["state"] not in ("queued", "running")

        wait_until(ended, timeout=timeout, what=f"the job ends: {last}")
        return last


def stack_environment() -> dict[str, str]:
    """Return the variables of a stack that disturbs no other one on this machine."""
    return {
        "COMPOSE_PROJECT_NAME": "celeriac-test",
        "CELERIAC_TAG": "test",
        "IMAGE_SUFFIX": "-airgap" if os.environ.get("IMAGES") == "airgap" else "",
        **{name: str(free_port()) for name in PORTS},
        "DJANGO_SECRET_KEY": secrets.token_urlsafe(32),
        "TASK_SIGNING_KEYS": f"tests:{secrets.token_urlsafe(32)}",
        "POSTGRES_PASSWORD": secrets.token_urlsafe(16),
        "REDIS_PASSWORD": secrets.token_urlsafe(16),
        "CELERY_EXPORTER_PASSWORD": secrets.token_urlsafe(16),
        "SERVER_EXPORTERS_PASSWORD": secrets.token_urlsafe(16),
        "UPSTREAM_EXPORTER_PASSWORD": secrets.token_urlsafe(16),
        "FLOWER_BASIC_AUTH": f"admin:{secrets.token_urlsafe(16)}",
        "GRAFANA_ADMIN_PASSWORD": secrets.token_urlsafe(16),
        "DJANGO_SUPERUSER_PASSWORD": secrets.token_urlsafe(16),
        "API_TOKENS": f"tests:{secrets.token_urlsafe(32)}",
        "ALERT_MAIL_TO": "",  # tests count the mails in the sink
        # Tests ask for the state of a job more often than a caller should.
        "API_RATE_LIMIT_PER_MINUTE": "0",
    }


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Build the image and run the stack."""
    fault = engine_fault()
    if fault:
        pytest.fail(f"CI must run the stack tests, but there is no Docker engine: {fault}")

    environment = stack_environment()
    env_file = tmp_path_factory.mktemp("stack") / "env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    services = {name: service for name, service in composed.items() if "profiles" not in service}
    if environment["IMAGE_SUFFIX"] and not os.environ.get("GRAFANA_IMAGE"):
        services.pop("grafana")  # no Debian package, so no stand-in

    compose = DockerCompose(
        ROOT, "docker-compose.yml", env_file=str(env_file), services=list(services)
    )
    stack = Stack(compose, environment)
    # A run that was killed has left its containers and volumes.
    stack.run("down", "--volumes", "--remove-orphans", "--timeout", "5")
    stack.run("build", "migrate")
    try:
        stack.run("up", "--detach", "--wait", f"--wait-timeout={START_SECONDS}", *services)
    except AssertionError:
        print(stack.run("ps", "--all", check=False))  # noqa: T201 - the reason of the failure
        print(stack.run("logs", "--tail=30", check=False))  # noqa: T201
        stack.run("down", "--volumes", "--timeout", "5", check=False)
        raise
    yield stack
    stack.run("down", "--volumes", "--timeout", "5")

"""Start-up with a faulty environment: every fault is named, at once, without a traceback."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.roles import ENTRYPOINT, role_environment

ROLES = ["web", "worker", "beat", "flower", "migrate"]


def start(role: str, directory: Path, **changes: str | None) -> subprocess.CompletedProcess[str]:
    environment = role_environment(directory, role, {})
    for name, value in changes.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return subprocess.run(
        [ENTRYPOINT, role], env=environment, capture_output=True, text=True, check=False, timeout=30
    )


@pytest.mark.parametrize("role", ROLES)
def test_no_role_starts_without_keys(role: str, tmp_path: Path) -> None:
    refused = start(role, tmp_path, DJANGO_SECRET_KEY=None, TASK_SIGNING_KEYS=None)

    assert refused.returncode == 78
    assert "DJANGO_SECRET_KEY: Environment variable not set." in refused.stderr
    assert "TASK_SIGNING_KEYS: Environment variable not set." in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_exporter_needs_two_addresses_and_no_secret_of_the_application(tmp_path: Path) -> None:
    refused = start(
        "exporter",
        tmp_path,
        DJANGO_SECRET_KEY=None,
        TASK_SIGNING_KEYS=None,
        CHANNEL_LAYER_URL=None,
        BROKER_URL="amqp://reader:hunter2@broker",
        DATABASE_URL=None,
        EXPORTER_PORT="0",
    )

    assert refused.returncode == 78
    assert "3 environment variable(s)" in refused.stderr
    for name in ("BROKER_URL", "DATABASE_URL", "EXPORTER_PORT"):
        assert f"  {name}: " in refused.stderr
    assert "hunter2" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_all_faults_are_in_one_message_and_no_value_is_repeated(tmp_path: Path) -> None:
    refused = start(
        "web",
        tmp_path,
        DJANGO_SECRET_KEY="short",
        DATABASE_URL="mysql://root:hunter2@db/name",
        BROKER_URL="redis://:hunter2@broker:many/0",
        API_TOKENS="ann:hunter2",
        TASK_SIGNING_KEYS="ann:hunter2",
        EMAIL_PORT="twenty-five",
        NEWSLETTER_BATCH_SIZE="0",
        LOG_LEVEL="LOUD",
        MAIL_SINK_URL="mail:8025",
        CHANNEL_LAYER_URL=None,
    )

    assert refused.returncode == 78
    for name in (
        "DJANGO_SECRET_KEY", "DATABASE_URL", "BROKER_URL", "API_TOKENS", "EMAIL_PORT",
        "TASK_SIGNING_KEYS", "NEWSLETTER_BATCH_SIZE", "LOG_LEVEL", "CHANNEL_LAYER_URL",
        "MAIL_SINK_URL",
    ):  # fmt: skip
        assert f"  {name}: " in refused.stderr
    assert "10 environment variable(s)" in refused.stderr
    assert "hunter2" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_nobody_breaks_things_on_purpose_in_production(tmp_path: Path) -> None:
    refused = start(
        "worker", tmp_path, FAULT_INJECTION="true", DJANGO_BEHIND_TLS="true", LOG_LEVEL="LOUD"
    )

    assert refused.returncode == 78
    assert "  FAULT_INJECTION: Must not be true where DJANGO_BEHIND_TLS is." in refused.stderr
    assert "2 environment variable(s)" in refused.stderr


def test_a_value_can_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("too short")

    refused = start("web", tmp_path, DJANGO_SECRET_KEY=None, DJANGO_SECRET_KEY_FILE=str(secret))

    assert "DJANGO_SECRET_KEY: Must have at least 32 characters." in refused.stderr


def test_an_unknown_role_is_refused_with_the_list(tmp_path: Path) -> None:
    refused = start("chef", tmp_path)

    assert refused.returncode == 64
    assert "web | worker | relay | beat" in refused.stderr


@pytest.mark.parametrize(
    "value", ["ann", "ann:short", f"a:{'x' * 32},a:{'y' * 32}", f":{'x' * 32}"]
)
def test_malformed_tokens_are_refused(value: str, tmp_path: Path) -> None:
    assert "  API_TOKENS: " in start("web", tmp_path, API_TOKENS=value).stderr

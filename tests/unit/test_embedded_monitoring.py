"""What watches the embedded stack, as far as it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from deploy.embedded.monitoring import PROGRAMS, Monitoring
from deploy.stack.errors import StackError
from tests.support.roles import ROOT

SECRETS = {"SERVER_EXPORTERS_PASSWORD": "a-secret", "EMAIL_HOST_PASSWORD": "another-secret"}


def install(directory: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have these programs on PATH, and no others."""
    for name in names:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))


def monitoring(state: Path, **values: str) -> Monitoring:
    return Monitoring(ROOT, state, {**SECRETS, **values}, 6379, 5432)


@pytest.mark.parametrize("names", [[program.names[i] for program in PROGRAMS] for i in (0, -1)])
def test_programs_are_found_by_either_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    install(tmp_path, monkeypatch, *names)
    watching = monitoring(tmp_path)

    assert [process.name for process in watching.processes()] == [
        "prometheus", "alertmanager", "redis-exporter", "postgres-exporter",
    ]  # fmt: skip
    assert watching.left_out() == []
    assert set(watching.links()) == {"Prometheus", "Alertmanager"}


def test_what_is_not_installed_is_named_and_not_scraped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "prometheus")
    watching = monitoring(tmp_path)

    assert [process.name for process in watching.processes()] == ["prometheus"]
    assert [name for name, _ in watching.left_out()] == [
        "Alertmanager", "the Redis exporter", "the PostgreSQL exporter",
    ]  # fmt: skip
    watching.configure(["web", "prometheus"])
    configuration = yaml.safe_load((tmp_path / "monitoring" / "prometheus.yml").read_text())
    assert [job["job_name"] for job in configuration["scrape_configs"]] == ["web", "prometheus"]
    assert "alerting" not in configuration


def test_no_password_is_on_a_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, *(program.names[0] for program in PROGRAMS))
    for process in monitoring(tmp_path).processes():
        text = " ".join([*process.command, *process.environment.values()])
        assert not any(secret in text for secret in SECRETS.values()), process.name


@pytest.mark.parametrize("scale", ["0", "0.001", "2", "fast", "nan"])
def test_a_scale_that_is_none_is_refused(tmp_path: Path, scale: str) -> None:
    with pytest.raises(StackError, match="ALERT_TIME_SCALE must be from"):
        monitoring(tmp_path, ALERT_TIME_SCALE=scale).configure(["web"])


@pytest.mark.parametrize(("scale", "delay"), [("", "60s"), ("0.5", "30s"), ("0.02", "5s")])
def test_what_did_not_arrive_is_repeated_sooner_at_a_smaller_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: str, delay: str
) -> None:
    install(tmp_path, monkeypatch, "prometheus")
    [prometheus] = monitoring(tmp_path, ALERT_TIME_SCALE=scale).processes()
    assert f"--rules.alert.resend-delay={delay}" in prometheus.command


def test_prometheus_keeps_as_much_as_in_compose_and_all_of_an_error_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "prometheus")
    [prometheus] = monitoring(tmp_path).processes()
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    kept, of_compose = (
        {option for option in map(str, command) if option.startswith("--storage.tsdb.retention")}
        for command in (prometheus.command, compose["services"]["prometheus"]["command"])
    )
    assert kept == of_compose
    [days] = [
        int(option.rpartition("=")[2].removesuffix("d")) for option in kept if "time" in option
    ]
    assert days >= 30


def test_a_scale_has_the_rules_rendered(tmp_path: Path) -> None:
    monitoring(tmp_path, ALERT_TIME_SCALE="0.02").configure(["web"])

    configuration = yaml.safe_load((tmp_path / "monitoring" / "prometheus.yml").read_text())
    [rules] = configuration["rule_files"]
    assert Path(rules).is_relative_to(tmp_path)
    assert "CeleryQueueStalled" in Path(rules).read_text()

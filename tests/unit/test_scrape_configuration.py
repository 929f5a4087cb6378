"""Whom Prometheus scrapes, compared with what serves metrics and with what runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import topology
from deploy.prometheus import scrape_configuration
from deploy.stack import ports
from telemetry import catalogue
from tests.support.roles import ROOT

COMMITTED = ROOT / "deploy" / "prometheus" / "prometheus.yml"
SERVICES = frozenset(target.service for job in scrape_configuration.JOBS for target in job.targets)
UPSTREAM = "upstream-exporter"
EMBEDDED = SERVICES - {UPSTREAM}


def embedded(present: frozenset[str] = EMBEDDED, time_scale: float = 1.0) -> dict[str, Any]:
    text = scrape_configuration.for_this_machine(
        {}, present=present, rules=Path("/rules file.yml"), time_scale=time_scale
    )
    configuration: dict[str, Any] = yaml.safe_load(text)
    return configuration


def jobs(configuration: dict[str, Any]) -> list[str]:
    return [job["job_name"] for job in configuration["scrape_configs"]]


def test_the_committed_file_follows_from_the_table() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == scrape_configuration.for_containers()


def test_every_job_of_the_catalogue_is_scraped() -> None:
    serving = {job for metric in catalogue.METRICS for job in metric.served_by}
    names = [job.name for job in scrape_configuration.JOBS]

    assert serving - set(names) == set()
    assert set(names) - serving == {
        "redis", "postgres", "prometheus", "alertmanager", UPSTREAM,
    }  # fmt: skip
    assert jobs(yaml.safe_load(COMMITTED.read_text(encoding="utf-8"))) == names
    assert jobs(embedded()) == [name for name in names if name != UPSTREAM]


def test_every_worker_service_of_the_topology_is_scraped() -> None:
    [workers] = [job for job in scrape_configuration.JOBS if job.name == catalogue.WORKER]
    assert {target.service for target in workers.targets} == {
        queue.worker for queue in topology.QUEUES
    }


def test_compose_runs_every_target() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    assert SERVICES - set(services) == set()


def test_replicas_are_found_by_name_and_say_their_service() -> None:
    for job in yaml.safe_load(COMMITTED.read_text(encoding="utf-8"))["scrape_configs"]:
        if job["job_name"] not in (catalogue.WORKER, catalogue.BEAT, catalogue.RELAY, "web"):
            continue
        assert all(found["type"] == "A" for found in job["dns_sd_configs"])
        assert {rule["target_label"] for rule in job["relabel_configs"]} == {
            "cluster", "namespace", "service",
        }  # fmt: skip


def test_the_public_exporter_that_does_not_run_is_no_target() -> None:
    configuration = yaml.safe_load(COMMITTED.read_text(encoding="utf-8"))
    [job] = [job for job in configuration["scrape_configs"] if job["job_name"] == UPSTREAM]
    # A static target would be there, and down.
    assert "static_configs" not in job
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    service = compose["services"][UPSTREAM]
    assert service["profiles"] == [UPSTREAM]
    [queues] = [option for option in service["command"] if option.startswith("--queues=")]
    assert queues == "--queues=" + ",".join(queue.name for queue in topology.QUEUES)


def test_no_series_of_the_public_exporter_is_one_of_ours() -> None:
    configuration = yaml.safe_load(COMMITTED.read_text(encoding="utf-8"))
    [job] = [job for job in configuration["scrape_configs"] if job["job_name"] == UPSTREAM]
    drop, rename = job["metric_relabel_configs"]
    assert drop["action"] == "drop"
    for metric in catalogue.METRICS:
        if metric.name.startswith("celery_"):
            assert re.fullmatch(rename["regex"], metric.name), metric.name
    assert rename["target_label"] == "__name__"
    assert rename["replacement"] == "upstream_$1"


def test_what_does_not_run_is_not_scraped() -> None:
    assert jobs(embedded(frozenset({"worker", "prometheus"}))) == ["celery-worker", "prometheus"]
    assert "alerting" not in embedded(frozenset({"worker"}))


def test_embedded_targets_listen_where_the_settings_say() -> None:
    text = scrape_configuration.for_this_machine(
        {"WORKER_BULK_METRICS_PORT": "4711"},
        present=EMBEDDED,
        rules=Path("rules.yml"),
        time_scale=1,
    )
    [workers] = [
        job for job in yaml.safe_load(text)["scrape_configs"] if job["job_name"] == "celery-worker"
    ]
    found = {group["labels"]["service"]: group["targets"] for group in workers["static_configs"]}
    assert found == {
        "worker": [f"127.0.0.1:{ports.WORKER_METRICS.default}"],
        "worker-bulk": ["127.0.0.1:4711"],
    }


@pytest.mark.parametrize(("scale", "interval"), [(1, "15s"), (0.1, "1500ms"), (0.02, "1s")])
def test_a_faster_clock_scrapes_faster(scale: float, interval: str) -> None:
    settings = embedded(time_scale=scale)["global"]
    assert settings["scrape_interval"] == settings["evaluation_interval"] == interval


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_prometheus_accepts_both(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    for scale in (1, 0.1, 0.02):
        (tmp_path / f"embedded-{scale}.yml").write_text(
            scrape_configuration.for_this_machine(
                {}, present=EMBEDDED, rules=tmp_path / "rules.yml", time_scale=scale
            )
        )
    (tmp_path / "rules.yml").write_text("groups: []\n")
    shutil.copy(COMMITTED, tmp_path)
    for file in sorted(tmp_path.glob("*.yml")):
        if file.name != "rules.yml":
            done = subprocess.run(
                ["promtool", "check", "config", file], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr

"""`make doctor`: the tree is in order, and each fault that is planted is found."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.doctor import files, live, static
from deploy.doctor.findings import Finding, Verdict
from deploy.doctor.stack import skew
from deploy.stack.runtime import ServiceStatus
from tests.support.roles import ROOT

WORKERS = ["worker", "worker-bulk"]
ENTRYPOINT = (ROOT / "deploy/docker/entrypoint").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")


@pytest.fixture
def services() -> dict[str, Any]:
    """Return the services of docker-compose.yml, to be broken."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    # Anchors share objects: a fault in one service must not be one in all of them.
    return {name: copy.deepcopy(each) for name, each in yaml.safe_load(text)["services"].items()}


def faults(findings: list[Finding]) -> str:
    """Return what is wrong, one line each; there must be something."""
    wrong = [str(finding) for finding in findings if finding.verdict is Verdict.WRONG]
    assert wrong, "the fault was not found"
    return "\n".join(wrong)


def fine(findings: list[Finding]) -> bool:
    return [finding.verdict for finding in findings] == [Verdict.OK]


def test_nothing_is_wrong_with_the_files_of_this_tree() -> None:
    # .env is the affair of the machine.
    wrong = [
        finding
        for finding in files.check(ROOT)
        if finding.verdict is Verdict.WRONG and not finding.check.startswith(".env:")
    ]
    assert not wrong


def test_a_grace_that_ends_within_the_stall_is_found(services: dict[str, Any]) -> None:
    assert fine(static.stopping(services, WORKERS, 50))
    services["worker"]["stop_grace_period"] = "1m"

    assert "worker is killed after 60 s" in faults(static.stopping(services, WORKERS, 30))
    services["worker"].pop("stop_grace_period")
    assert "after 10 s" in faults(static.stopping(services, WORKERS, 30)), "Compose's default"


def test_a_visibility_timeout_below_the_longest_task_or_delay_is_found() -> None:
    assert fine(static.visibility(900, 270, 120, 90))
    assert "630 s" in faults(static.visibility(600, 270, 120, 90))
    assert "3600 s" in faults(static.visibility(900, 270, 3600, 90))


def test_a_soft_limit_that_is_not_soft_is_found() -> None:
    assert "queue mail" in faults(static.time_limits({"mail": (270, 270), "bulk": (1, 2)}))


def test_a_worker_service_that_is_not_there_is_found(services: dict[str, Any]) -> None:
    assert fine(static.consumers(services, WORKERS))
    del services["worker-bulk"]

    assert "worker-bulk" in faults(static.consumers(services, WORKERS))


def test_a_probe_longer_than_its_interval_is_found(services: dict[str, Any]) -> None:
    assert fine(static.probes(services))
    services["beat"]["healthcheck"]["timeout"] = "15s"
    del services["web"]["healthcheck"]

    found = faults(static.probes(services))
    assert "beat: the probe" in found and "web has no healthcheck" in found


def test_a_role_that_term_does_not_reach_is_found(services: dict[str, Any]) -> None:
    assert fine(static.signals(services, ENTRYPOINT, DOCKERFILE))
    services["relay"]["init"] = False
    shell = DOCKERFILE.replace("ENTRYPOINT [", "ENTRYPOINT sh -c [")
    child = ENTRYPOINT.replace(
        "    launch celery --app config.celery --quiet beat", "    celery beat"
    )

    assert "relay has no init" in faults(static.signals(services, ENTRYPOINT, DOCKERFILE))
    assert "Dockerfile" in faults(static.signals(services, ENTRYPOINT, shell))
    assert "role beat" in faults(static.signals(services, child, DOCKERFILE))
    assert "launch()" in faults(
        static.signals(
            services,
            ENTRYPOINT.replace("  exec python -m config.launch", "  python -m config.launch"),
            DOCKERFILE,
        )
    )


@pytest.mark.parametrize(
    ("good", "bad", "expected"),
    [
        ("--maxmemory-policy noeviction", "--maxmemory-policy allkeys-lru", "evict"),
        ("--appendonly yes", "--appendonly no", "restart"),
    ],
)
def test_a_broker_that_loses_messages_is_found_in_the_file(
    services: dict[str, Any], good: str, bad: str, expected: str
) -> None:
    assert fine(static.durable_broker(services))
    services["redis"]["command"] = [
        part.replace(good, bad) for part in services["redis"]["command"]
    ]

    assert expected in faults(static.durable_broker(services))


def test_a_setting_that_nobody_reads_is_found() -> None:
    sources = 'env.str("LOG_LEVEL")\n  API_TOKENS:\n'

    assert fine(static.env_settings({"LOG_LEVEL", "API_TOKENS_FILE"}, sources))
    assert "LOG_LEVLE" in faults(static.env_settings({"LOG_LEVLE"}, sources))
    assert fine(static.example_settings({"LOG_LEVEL"}, sources))
    assert "LOG_LEV" in faults(static.example_settings({"LOG_LEV"}, sources))


def test_a_secret_without_a_value_is_found() -> None:
    assert "B is empty" in faults(static.filled_secrets({"A": "x", "B": ""}, ["A", "B"]))


def test_a_tree_whose_env_has_a_typing_error_is_found(tmp_path: Path) -> None:
    for name in (
        "app/config",
        "app/delivery",
        "deploy/docker",
        "deploy/stack",
        "deploy/embedded",
        "app/housekeeping/management/commands",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("docker-compose.yml", ".env.example"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".env").write_text("LOG_LEVLE=INFO\nLOG_LEVEL=INFO\nRUNTIME=embedded\n")

    wrong = faults(files.check(tmp_path))
    assert "LOG_LEVLE" in wrong
    assert "LOG_LEVEL;" not in wrong and "RUNTIME" not in wrong


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("1m30s", 90), ("500ms", 0.5)])
def test_durations_are_read_as_compose_does(text: str, expected: float) -> None:
    assert static.seconds(text) == expected
    with pytest.raises(ValueError, match="not a duration"):
        static.seconds(text + "x")


# --- the running stack ---------------------------------------------------------------------------

WELL: dict[str, dict[str, Any]] = {
    "database": {
        "clock_skew_seconds": 0.01, "migrations_waiting": [], "dead_letters": 0, "overdue": 0,
        "refused_lately": 0, "refused_why": None, "beat_leaders": 1,
    },
    "broker": {
        "clock_skew_seconds": -0.01, "maxmemory_policy": "noeviction", "appendonly": "yes",
    },
    "role": {"clock_skew_seconds": 0.0},
}  # fmt: skip


def test_nothing_is_wrong_with_a_stack_that_is_well() -> None:
    assert {finding.verdict for finding in live.all_of(WELL)} == {Verdict.OK}


@pytest.mark.parametrize(
    ("server", "fact", "value", "expected"),
    [
        ("database", "fault", "connection refused", "database: connection refused"),
        ("broker", "fault", "timed out", "broker: timed out"),
        (
            "database",
            "clock_skew_seconds",
            3.5,
            "PostgreSQL's clock differs from the web role's by 3.5 s (ahead)",
        ),
        (
            "broker",
            "clock_skew_seconds",
            -7.0,
            "Redis's clock differs from the web role's by 7 s (behind)",
        ),
        ("role", "clock_skew_seconds", 60.0, "this machine's by 60 s"),
        ("database", "migrations_waiting", ["jobs.0002"], "jobs.0002"),
        ("database", "dead_letters", 3, "3 deliveries have failed"),
        ("database", "overdue", 2, "2 deliveries are overdue"),
        ("database", "refused_lately", 1, "TASK_SIGNING_KEYS"),
        ("database", "beat_leaders", 0, "no beat leads"),
        ("broker", "maxmemory_policy", "allkeys-lru", "allkeys-lru"),
        ("broker", "appendonly", "no", "appendonly is off"),
    ],
)
def test_each_fault_of_a_running_stack_is_found_alone(
    server: str, fact: str, value: Any, expected: str
) -> None:
    facts = copy.deepcopy(WELL)
    facts[server][fact] = value

    found = faults(live.all_of(facts))
    assert expected in found
    assert len(found.splitlines()) == 1


def test_clocks_that_were_not_read_are_not_called_good() -> None:
    facts = copy.deepcopy(WELL)
    facts["broker"] = {"fault": "timed out"}
    assert [finding.verdict for finding in live.clocks(facts)] == [Verdict.SKIPPED]


def test_a_clock_read_between_two_moments_is_wrong_only_outside_them() -> None:
    assert skew(11, before=10, after=12) == 0
    assert skew(7, before=10, after=12) == -3
    assert skew(15, before=10, after=12) == 3


def test_a_broker_that_tells_nothing_is_not_called_good() -> None:
    findings = live.broker({"maxmemory_policy": None, "appendonly": None})
    assert [finding.verdict for finding in findings] == [Verdict.SKIPPED]


def test_a_service_that_is_not_well_or_not_there_is_found() -> None:
    well = [ServiceStatus(name, "running", "healthy") for name in live.NEEDED_SERVICES]
    migrated = ServiceStatus("migrate", "exited with status 0", "-")
    assert fine(live.services([*well, migrated]))

    assert "relay is not there" in faults(
        live.services([status for status in well if status.service != "relay"])
    )
    ill = ServiceStatus("beat", "running", "unhealthy")
    assert "make logs ARGS=beat" in faults(live.services([*well, ill]))
    assert "migrate" in faults(
        live.services([*well, ServiceStatus("migrate", "exited with status 1", "-")])
    )

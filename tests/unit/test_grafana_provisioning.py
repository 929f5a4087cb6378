"""What Grafana is given at its start: the parts name each other, and what they name is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.support.roles import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
PROVISIONING = GRAFANA / "provisioning"
#: Grafana 12: letters, digits, - and _, at most 40.
UID = re.compile(r"[A-Za-z0-9_-]{1,40}")


def provisioned(kind: str) -> dict[str, Any]:
    """Return the only file of its kind."""
    [path] = (PROVISIONING / kind).iterdir()
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICE: dict[str, Any] = COMPOSE["services"]["grafana"]
SOURCES = {source["uid"]: source for source in provisioned("datasources")["datasources"]}
[PROVIDER] = provisioned("dashboards")["providers"]
ALERTING = provisioned("alerting")


def mounted(inside: str) -> Path:
    """Return what lies at a path of the container, by the service's mounts."""
    for mount in SERVICE["volumes"]:
        source, target, *_ = mount.split(":")
        if source.startswith("./") and Path(inside).is_relative_to(target):
            return ROOT / str(source) / Path(inside).relative_to(str(target))
    raise AssertionError(f"{inside} is not mounted")


def test_every_kind_lies_in_the_folder_that_grafana_reads_for_it() -> None:
    folders = {path.name for path in mounted("/etc/grafana/provisioning").iterdir()}
    assert folders == {"datasources", "dashboards", "alerting"}
    assert {provisioned(folder)["apiVersion"] for folder in folders} == {1}


def test_mounts_are_read_only() -> None:
    assert all(mount.endswith(":ro") for mount in SERVICE["volumes"] if mount.startswith("./"))


@pytest.mark.parametrize("uid", SOURCES)
def test_a_source_is_a_service_of_the_stack_at_its_port(uid: str) -> None:
    address = urlsplit(SOURCES[uid]["url"])
    service = COMPOSE["services"][address.hostname]
    assert UID.fullmatch(uid)
    assert any(port.endswith(f":{address.port}") for port in service["ports"])
    assert SOURCES[uid]["type"] == address.hostname


def test_the_rules_of_prometheus_are_shown_with_their_alertmanager() -> None:
    prometheus = SOURCES["prometheus"]
    assert prometheus["isDefault"] is True
    assert prometheus["jsonData"]["manageAlerts"] is True
    assert SOURCES[prometheus["jsonData"]["alertmanagerUid"]]["type"] == "alertmanager"
    assert SOURCES["alertmanager"]["jsonData"]["implementation"] == "prometheus"


def test_grafana_knows_how_often_prometheus_scrapes() -> None:
    scrapes = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    interval = SOURCES["prometheus"]["jsonData"]["timeInterval"]
    assert interval == scrapes["global"]["scrape_interval"]


def test_alerts_made_in_grafana_go_to_alertmanager() -> None:
    [contact] = ALERTING["contactPoints"]
    [receiver] = contact["receivers"]
    [policy] = ALERTING["policies"]
    assert policy["receiver"] == contact["name"]
    assert UID.fullmatch(receiver["uid"])
    assert receiver["type"] == "prometheus-alertmanager"
    assert receiver["settings"]["url"] == SOURCES["alertmanager"]["url"]


def test_the_provider_reads_the_committed_dashboards() -> None:
    assert UID.fullmatch(PROVIDER["folderUid"])
    files = sorted(mounted(PROVIDER["options"]["path"]).glob("*.json"))
    assert files
    dashboards = [json.loads(path.read_text()) for path in files]
    assert [dashboard["uid"] for dashboard in dashboards] == [path.stem for path in files]
    titles = [dashboard["title"] for dashboard in dashboards]
    assert len(set(titles)) == len(titles)


def test_the_first_page_is_the_overview() -> None:
    home = mounted(SERVICE["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert json.loads(home.read_text())["uid"] == "celeriac-overview"


def test_nobody_gets_in_without_a_password() -> None:
    environment = SERVICE["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert environment["GF_USERS_ALLOW_SIGN_UP"] == "false"
    assert ":?" in environment["GF_SECURITY_ADMIN_PASSWORD"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICE["ports"])

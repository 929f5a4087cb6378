"""Every alert of the rules is fired by a fault; every alert that a fault fires is in the rules."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import yaml

from tests.observability import hurry, report
from tests.observability.phases import ALWAYS, PHASES, alerts, faults
from tests.observability.report import Row
from tests.support.roles import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules" / "celeriac.rules.yml"
#: Alerts that no fault fires, and why not.
NOT_FIRED: dict[str, str] = {}


def rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def test_every_alert_is_fired_by_a_fault_or_says_why_not() -> None:
    fired = {alert.alert for fault in faults() for alert in alerts(fault)}

    assert fired - set(rules()) == set(), "an alert that is not in the rules"
    assert set(rules()) - fired - {ALWAYS} == set(NOT_FIRED)


def test_every_fault_is_injected_once() -> None:
    counted = Counter(fault.what for phase in PHASES for fault in phase)
    assert [what for what, times in counted.items() if times > 1] == []


def test_causes_and_consequences_of_alertmanager_are_in_the_rules() -> None:
    text = (ROOT / "deploy" / "prometheus" / "alertmanager.yml").read_text(encoding="utf-8")
    for rule in yaml.safe_load(text)["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            label, _, names = matcher.replace("=~", "=").partition("=")
            if label == "alertname":
                assert set(names.strip('"').split("|")) - set(rules()) == set()


def test_the_numbers_that_are_hurried_are_where_they_are_expected(tmp_path: Any) -> None:
    hurry.copy_of_the_repository(tmp_path)


def test_the_table_goes_between_its_marks(tmp_path: Any) -> None:
    page = tmp_path / "alerts.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    row = Row("RedisDown", "Redis is stopped", 4.2, 2.9)

    report.write(page, [row])

    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "old" not in text
    assert "| RedisDown | Redis is stopped | 4 | 3 |" in text
    with pytest.raises(ValueError, match="does not have the marks"):
        report.write(ROOT / "LICENSE", [row])

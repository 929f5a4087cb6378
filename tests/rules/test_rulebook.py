"""What the rules say, compared with the tables that they are made from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config.topology import QUEUES, queues_of
from deploy.prometheus import __main__ as command
from deploy.prometheus import alerts_page
from deploy.prometheus.rulebook import book, foreign, ledger, schedule
from deploy.prometheus.rulebook.pace import HOUR, MINUTE, Pace, duration, number
from deploy.prometheus.rulebook.rule import (
    CRITICAL,
    NONE,
    WARNING,
    Alert,
    Recording,
    annotations_of,
)
from telemetry.catalogue import BY_NAME, HISTOGRAM
from tests.support.roles import ROOT

GROUPS = book.groups(Pace())
RULES = [rule for group in GROUPS for rule in group.rules]
ALERTS = [alert for _group, alert in book.alerts(Pace())]
RECORDED = {rule.name for rule in RULES if isinstance(rule, Recording)}
#: Words of PromQL that are neither metrics nor calls.
WORDS = {"and", "or", "unless", "offset", "bool"}
DASHBOARDS = {"overview", "queues", "tasks", "workers", "schedule", "broker", "web-database"}


def metrics_in(expression: str) -> set[str]:
    """Return the names of series that an expression reads."""
    text = re.sub(r"\{[^}]*\}", " ", expression)
    text = re.sub(r'"[^"]*"', " ", text)
    text = re.sub(r"\[[^]]*\]", " ", text)
    text = re.sub(r"\b(by|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    text = re.sub(r"\boffset \w+", " ", text)
    return set(re.findall(r"\b[a-z][\w:]*\b(?!\s*\()", text)) - WORDS


def exported() -> set[str]:
    """Return the names of all series that our own processes serve."""
    names = set()
    for metric in BY_NAME.values():
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == HISTOGRAM else ("",)
        names |= {metric.name + suffix for suffix in suffixes}
    return names


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_metric_in_a_rule_exists(rule: Alert | Recording) -> None:
    assert metrics_in(rule.expression) <= exported() | foreign.NAMES | RECORDED


def test_the_names_in_an_expression_are_found() -> None:
    expression = (
        'sum by (name) (rate(a_total{x="b_total"}[5m] offset 1h)) / on (y) group_left () c:d:e > 1'
    )
    assert metrics_in(expression) == {"a_total", "c:d:e"}


def test_every_foreign_metric_is_used() -> None:
    assert set().union(*(metrics_in(rule.expression) for rule in RULES)) >= foreign.NAMES


def test_names_are_unique() -> None:
    names = [rule.name for rule in RULES]
    assert len(names) == len(set(names))
    assert len({group.name for group in GROUPS}) == len(GROUPS)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_every_alert_tells_what_to_do(alert: Alert) -> None:
    texts = annotations_of(alert)

    assert alert.severity in {CRITICAL, WARNING, NONE}
    assert re.fullmatch(r"[A-Z][A-Za-z]+", alert.name)
    assert not alert.meaning.endswith(".") and not alert.summary.endswith(".")
    assert "$" not in alert.summary, "one alert, one summary: values are in the description"
    assert alert.description.endswith(".")
    assert texts["runbook_url"].endswith(f"/docs/runbooks/{alert.name}.md")
    assert alert.dashboard in DASHBOARDS
    for variable in alert.dashboard_variables:
        assert f"var-{variable}={{{{ $labels.{variable} }}}}" in texts["dashboard_url"]


def test_links_follow_grafana() -> None:
    alert = next(alert for alert in ALERTS if alert.name == "CeleryQueueStalled")
    url = annotations_of(alert, "https://grafana.example.org")["dashboard_url"]
    assert url == (
        "https://grafana.example.org/d/celeriac-queues?var-queue_name={{ $labels.queue_name }}"
    )


def test_no_target_is_written_into_a_rule() -> None:
    """It comes from the series that exports it: a number here would be the same fact twice."""
    too_old = next(alert for alert in ALERTS if alert.name == "CeleryQueueOldestMessageTooOld")
    numbers = {int(found) for found in re.findall(r"(?<![\w[])\d+(?![\w\]])", too_old.expression)}

    assert numbers == {2}, "twice the target, whatever it is"


def test_facts_of_the_code_are_those_of_the_rulebook() -> None:
    settings = (ROOT / "app/config/settings.py").read_text(encoding="utf-8")
    relay = (ROOT / "app/delivery/relay.py").read_text(encoding="utf-8")

    assert f"CELERY_BEAT_MAX_LOOP_INTERVAL = {schedule.BEAT_INTERVAL_SECONDS}\n" in settings
    assert f"MAXIMUM_PAUSE_SECONDS: Final = {ledger.RELAY_PAUSE_SECONDS}.0\n" in relay


def test_a_queue_stands_still_after_the_longest_limit_of_its_workers() -> None:
    stalled = next(alert for alert in ALERTS if alert.name == "CeleryQueueStalled")

    for queue in QUEUES:
        longest = max(row.hard_time_limit_seconds for row in queues_of(queue.worker))
        assert f"[{duration(longest + 2 * MINUTE)}]" in stalled.expression
        assert re.search(rf"[\"|]{queue.name}[\"|]", stalled.expression), queue.name


def test_windows_follow_the_scale_down_to_what_a_rate_needs() -> None:
    fast = Pace(0.02, scrape_interval=1)

    assert [fast.window(seconds) for seconds in (HOUR, 5 * MINUTE, MINUTE)] == ["1m12s", "6s", "3s"]
    assert fast.hold(MINUTE) == "1s200ms"
    assert fast.age(2 * MINUTE) == "2.4"
    assert fast.age(2 * MINUTE, fact=60) == "62.4"
    assert fast.age(MINUTE) == "2", "an age is never younger than two scrapes"
    assert Pace(0.02).window(5 * MINUTE) == "45s", "three scrapes of 15 s"
    assert Pace().count(2, HOUR) == "120"
    assert (duration(0), duration(90_061.5), number(0.144)) == ("0s", "1d1h1m1s500ms", "0.144")


@pytest.mark.parametrize(("scale", "interval"), [(0, 15), (-1, 15), (1, 0)])
def test_a_pace_that_cannot_be_is_refused(scale: float, interval: float) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        Pace(scale, interval)


def test_the_command_writes_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    out = tmp_path / "rules.yml"

    assert command.main(["rules", "--scale", "0.02", "--scrape-interval", "1", str(out)]) == 0
    assert command.main(["rules", "--check", str(out)]) == 1
    assert "make rules" in capsys.readouterr().err
    assert command.main(["rules", str(out)]) == 0
    assert command.main(["rules", "--check", str(out)]) == 0
    assert "promtool is not installed" in capsys.readouterr().out

    monkeypatch.setenv("CI", "true")
    assert command.main(["rules", "--check", str(out)]) == 1


def test_the_page_lists_every_alert() -> None:
    page = command.ALERTS_PAGE.read_text(encoding="utf-8")
    table = alerts_page.table(book.alerts(Pace()))

    assert alerts_page.with_table(page, table) == page, "run make rules"
    for alert in ALERTS:
        assert f"| **{alert.name}** | {alert.severity} |" in page


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="once each"):
        alerts_page.with_table("# Alerts\n", "")

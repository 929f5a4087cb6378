"""promtool judges the rules: their syntax, and every story."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from deploy.prometheus import render
from deploy.prometheus.__main__ import RULES
from deploy.prometheus.promtool import Promtool
from deploy.prometheus.rulebook import book
from deploy.prometheus.rulebook.pace import Pace
from deploy.prometheus.rulebook.rule import Group
from tests.rules import health
from tests.rules.narrow import rules_for
from tests.rules.stories import ALL
from tests.rules.story import Fires, Quiet, Story, as_test

ALERTS = [alert.name for _group, alert in book.alerts(Pace())]
#: It must never be quiet.
ALWAYS = {"Watchdog"}
#: Seconds that promtool may take for the stories of one alert, or for a day; seconds when idle.
PATIENCE_SECONDS = 600


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    found = Promtool.find()
    if found is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return found


def write_tests(
    folder: Path, groups: Iterable[Group], stories: Iterable[Story | health.Health]
) -> list[Path]:
    """Write the rules and a file of tests for each step of time; returns these files."""
    (folder / "rules.yml").write_text(render.text(groups), encoding="utf-8")
    by_step: dict[int, list[object]] = {}
    for story in stories:
        test = story.as_test() if isinstance(story, health.Health) else as_test(story)
        by_step.setdefault(story.step, []).append(test)
    files = []
    for step, tests in by_step.items():
        file = folder / f"every-{step}s.test.yml"
        content = {
            "rule_files": ["rules.yml"], "evaluation_interval": f"{step}s", "tests": tests,
        }  # fmt: skip
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        files.append(file)
    return files


@pytest.mark.timeout(PATIENCE_SECONDS)
@pytest.mark.parametrize("alert", ALERTS)
def test_the_stories_of_an_alert(alert: str, promtool: Promtool, tmp_path: Path) -> None:
    stories = [story for story in ALL if story.alert == alert]

    result = promtool.run("test", "rules", *write_tests(tmp_path, rules_for(alert), stories))

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_firing_and_a_quiet_story(alert: str) -> None:
    kinds = {type(story) for story in ALL if story.alert == alert}

    assert kinds == ({Fires} if alert in ALWAYS else {Fires, Quiet})


def test_every_story_is_about_an_alert_that_exists() -> None:
    assert {story.alert for story in ALL} == set(ALERTS)


@pytest.mark.timeout(PATIENCE_SECONDS)
@pytest.mark.parametrize("story", health.STORIES, ids=lambda story: story.title)
def test_the_whole_stack(story: health.Health, promtool: Promtool, tmp_path: Path) -> None:
    result = promtool.run("test", "rules", *write_tests(tmp_path, book.groups(Pace()), [story]))

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "pace",
    [Pace(), Pace(0.02, 1), Pace(0.02, 15), Pace(0.001, 0.5), Pace(3, 60)],
    ids=lambda pace: f"{pace.scale:g} at {pace.scrape_interval:g} s",
)
def test_promtool_accepts_every_pace(pace: Pace, promtool: Promtool, tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(render.text(book.groups(pace)), encoding="utf-8")

    result = promtool.run("check", "rules", file)

    assert result.returncode == 0, result.stdout + result.stderr


def test_the_committed_rules_are_those_of_the_rulebook() -> None:
    assert RULES.read_text(encoding="utf-8") == render.text(book.groups(Pace()))


def test_no_judge_in_ci_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    assert Promtool.find() is None

    monkeypatch.setenv("CI", "true")
    with pytest.raises(FileNotFoundError, match="promtool"):
        Promtool.find()

"""The dashboards of Grafana: what every one of them must have, and what their queries may ask."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.topology import QUEUES
from deploy.grafana.dashboards import colours
from deploy.grafana.dashboards.__main__ import main
from deploy.grafana.dashboards.builder import (
    BYTES,
    COUNT,
    RATIO,
    SECONDS,
    Column,
    Dashboard,
    Panel,
    Query,
    Row,
    Thresholds,
    Uid,
    stat,
    table,
    timeseries,
)
from deploy.grafana.dashboards.collection import dashboards
from telemetry.catalogue import BY_NAME, HISTOGRAM
from telemetry.metrics_server import REGISTRY
from tests.support.roles import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules" / "celeriac.rules.yml"
#: Of Prometheus itself and of programs that are not ours, by what their names begin with.
FOREIGN = ("ALERTS", "alertmanager_", "django_", "pg_", "prometheus_", "redis_", "up")
#: Pixels of a 1920 by 1080 screen, of a grid unit with its gap, and of Grafana's header.
SCREEN_HEIGHT, GRID_UNIT, HEADER = 1080, 38, 104

EVERY = [pytest.param(dashboard, id=str(dashboard.uid)) for dashboard in dashboards()]


def panels_of(model: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel, rows too, and those inside collapsed rows."""
    for panel in model["panels"]:
        yield panel
        yield from panel.get("panels", [])


def contents(model: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in panels_of(model) if panel["type"] != "row"]


def expressions(model: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each query of panels and annotations, with where it stands."""
    for panel in contents(model):
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in model["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def filled_in(expression: str) -> str:
    """The expression as Prometheus gets it, with some value for each variable."""
    for name, value in (("__rate_interval", "1m"), ("__interval", "15s"), ("__range", "1h")):
        expression = expression.replace(f"${name}", value)
    return expression.replace("$before", "1d").replace("$", "")


@pytest.fixture(scope="module")
def recorded() -> set[str]:
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    return {rule["record"] for rule in rules if "record" in rule}


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """Names of our series: histograms have three each; a process tells of itself too."""
    names = {sample.name for metric in REGISTRY.collect() for sample in metric.samples}
    for name, metric in BY_NAME.items():
        parts = ("_bucket", "_count", "_sum") if metric.kind == HISTOGRAM else ("",)
        names |= {name + part for part in parts}
    return names


def test_the_seven_dashboards_are_all_there() -> None:
    assert [dashboard.uid for dashboard in dashboards()] == list(Uid)


def test_the_committed_json_is_what_the_python_says() -> None:
    assert main(["--check"]) == 0


def test_a_changed_or_stray_file_is_noticed(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("deploy.grafana.dashboards.__main__.DIRECTORY", tmp_path)
    assert main([]) == 0
    assert main(["--check"]) == 0
    (tmp_path / "celeriac-queues.json").write_text("{}", encoding="utf-8")
    (tmp_path / "old.json").write_text("{}", encoding="utf-8")
    assert main(["--check"]) == 1
    assert re.findall(r"^\S+\.json", capsys.readouterr().err, re.MULTILINE) == [
        "celeriac-queues.json",
        "old.json",
    ]


@pytest.mark.parametrize("dashboard", EVERY)
def test_every_part_has_an_id_and_a_place_of_its_own(dashboard: Dashboard) -> None:
    model = dashboard.to_json()
    ids = [panel["id"] for panel in panels_of(model)]
    assert len(set(ids)) == len(ids)
    for siblings in (model["panels"], *(panel.get("panels", []) for panel in model["panels"])):
        for one, other in itertools.combinations(siblings, 2):
            assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])
        assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in siblings)


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
    apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    return not (apart_x or apart_y)


@pytest.mark.parametrize("dashboard", EVERY)
def test_every_part_says_what_it_is_for(dashboard: Dashboard) -> None:
    model = dashboard.to_json()
    assert model["title"]
    assert model["description"].endswith("?")
    rows = [panel for panel in model["panels"] if panel["type"] == "row"]
    assert rows
    assert all(row["title"].endswith("?") for row in rows)
    for panel in contents(model):
        where = panel["title"]
        assert panel["type"] != "piechart", where
        assert len(panel["description"]) > len(panel["title"]), where
        assert panel["description"].endswith("."), where
        if panel["targets"]:
            assert panel["fieldConfig"]["defaults"]["unit"], where
            assert panel["fieldConfig"]["defaults"]["noValue"], where
            assert panel["datasource"]["uid"] == "${datasource}", where


@pytest.mark.parametrize("dashboard", EVERY)
def test_the_page_is_reached_shared_and_refreshed_like_the_others(dashboard: Dashboard) -> None:
    model = dashboard.to_json()
    assert model["uid"] == dashboard.uid
    assert model["tags"] == ["celeriac"]
    assert model["timezone"] == "browser"
    assert model["refresh"] in {"10s", "30s"}
    assert model["links"][0]["tags"] == model["tags"]
    names = [variable["name"] for variable in model["templating"]["list"]]
    assert names[:2] == ["datasource", "namespace"]
    text = json.dumps(model)
    # What begins with two underscores is Grafana's own.
    used = set(re.findall(r"\$\{?([a-z][a-z_]*)", text))
    assert used <= set(names), used - set(names)
    assert "Deployments" in [annotation["name"] for annotation in model["annotations"]["list"]]


@pytest.mark.parametrize("dashboard", EVERY)
def test_every_link_leads_to_a_dashboard_and_sets_variables_of_it(dashboard: Dashboard) -> None:
    variables = {
        str(other.uid): {variable["name"] for variable in other.to_json()["templating"]["list"]}
        for other in dashboards()
    }
    model = dashboard.to_json()
    urls = [
        link["url"]
        for panel in contents(model)
        for link in [
            *panel["fieldConfig"]["defaults"].get("links", []),
            *(
                link
                for override in panel["fieldConfig"]["overrides"]
                for found in override["properties"]
                if found["id"] == "links"
                for link in found["value"]
            ),
        ]
    ]
    internal = [url for url in urls if url.startswith("/d/")]
    assert internal
    for url in internal:
        uid, _, query = url.removeprefix("/d/").partition("?")
        if uid == "${__field.labels.dashboard}":
            continue
        assert uid in variables
        assert set(re.findall(r"var-([a-z_]+)=", query)) <= variables[uid], url


def test_trouble_leads_to_dashboards() -> None:
    overview = next(dashboard for dashboard in dashboards() if dashboard.uid == Uid.OVERVIEW)
    text = json.dumps(overview.to_json())
    named = set(re.findall(r'\\"dashboard\\", \\"([^\\]*)\\"', text))
    assert len(named) > 3
    assert named <= set(Uid)


def test_the_overview_fits_one_screen() -> None:
    overview = next(dashboard for dashboard in dashboards() if dashboard.uid == Uid.OVERVIEW)
    bottom = max(
        panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in overview.to_json()["panels"]
    )
    assert HEADER + bottom * GRID_UNIT <= SCREEN_HEIGHT


@pytest.mark.parametrize("dashboard", EVERY)
@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_every_query_parses(dashboard: Dashboard, tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": filled_in(expression)}
        for number, (_, expression) in enumerate(expressions(dashboard.to_json()))
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    checked = subprocess.run(
        ["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("dashboard", EVERY)
def test_every_query_asks_for_series_that_somebody_exports(
    dashboard: Dashboard, exported: set[str], recorded: set[str]
) -> None:
    for where, expression in expressions(dashboard.to_json()):
        for name in series_in(expression):
            assert name in exported | recorded or name.startswith(FOREIGN), (where, name)


def series_in(expression: str) -> set[str]:
    """Names of series: what stands before a brace or a bracket, and in ``__name__``."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    names = set(re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*[{\[]", bare))
    for alternatives in re.findall(r'__name__=~"([^"]+)"', expression):
        names |= {name for name in alternatives.split("|") if "(" not in name}
    return names


def test_series_are_found_in_a_query() -> None:
    found = series_in('sum by (a) (rate(x_total{b="c{"}[5m])) / {__name__=~"y|z"} + q:w:e5m{}')
    assert found == {"x_total", "y", "z", "q:w:e5m"}


@pytest.mark.parametrize("dashboard", EVERY)
def test_counters_are_never_drawn_as_they_are(dashboard: Dashboard) -> None:
    for where, expression in expressions(dashboard.to_json()):
        for match in re.finditer(r"\b[a-z_]+_total\{[^}]*\}", expression):
            after = expression[match.end() :]
            if "timestamp(" in expression[match.start() - 10 : match.start()]:
                continue  # when it was born, not how much it is
            joins = re.match(r"\)* \+ on| unless| and min_over_time\(timestamp|\)\)? \* 0", after)
            assert after.startswith("[") or joins, (where, match[0])


def test_alerts_link_to_dashboards_that_exist() -> None:
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    urls = [
        rule["annotations"]["dashboard_url"]
        for group in document["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert len(urls) > 40
    variables = {
        str(dashboard.uid): {
            variable["name"] for variable in dashboard.to_json()["templating"]["list"]
        }
        for dashboard in dashboards()
    }
    for url in urls:
        uid, _, query = url.partition("/d/")[2].partition("?")
        assert uid in variables, url
        assert set(re.findall(r"var-([a-z_]+)=", query)) <= variables[uid], url


# --- the builder ----------------------------------------------------------------------------------


def a_panel(**changes: Any) -> Panel:
    return stat("Title", "What it means.", Query("up"), **({"unit": COUNT} | changes))


def test_the_builder_refuses_what_a_reader_could_not_understand() -> None:
    with pytest.raises(ValueError, match="needs a title and a description"):
        stat("Title", " ", Query("up"), unit=COUNT)
    with pytest.raises(ValueError, match="needs a title and a description"):
        timeseries("", "What it means.", Query("up"), unit=COUNT)
    with pytest.raises(ValueError, match="needs a unit"):
        a_panel(unit="")
    with pytest.raises(ValueError, match="does not fit the grid"):
        a_panel(width=25)
    with pytest.raises(ValueError, match="is not a question"):
        Row("Is it up", ())
    with pytest.raises(ValueError, match="a question as description"):
        Dashboard(uid=Uid.QUEUES, title="Queues", description="Queues", rows=())
    column = Column(title="Up", expr="up", unit=COUNT)
    with pytest.raises(ValueError, match="has no column"):
        table("Title", "What it means.", {"job": "Job"}, (column,), links={"Jobs": ()})


def test_panels_wrap_below_the_tallest_before_them() -> None:
    row = Row("Is it up?", (a_panel(width=12, height=4), a_panel(width=12, height=6), a_panel()))
    model = Dashboard(uid=Uid.QUEUES, title="Q", description="Is it?", rows=(row, row)).to_json()
    places = [tuple(panel["gridPos"][axis] for axis in "xywh") for panel in model["panels"]]
    assert places[:4] == [(0, 0, 24, 1), (0, 1, 12, 4), (12, 1, 12, 6), (0, 7, 4, 4)]
    assert places[4] == (0, 11, 24, 1)


def test_a_collapsed_row_keeps_its_panels_and_takes_one_line() -> None:
    folded = Row("Details?", (a_panel(),), collapsed=True)
    row = Row("Is it up?", (a_panel(),))
    model = Dashboard(uid=Uid.QUEUES, title="Q", description="Is it?", rows=(folded, row)).to_json()
    assert [panel["type"] for panel in model["panels"]] == ["row", "row", "stat"]
    assert [panel["title"] for panel in model["panels"][0]["panels"]] == ["Title"]
    assert model["panels"][1]["gridPos"]["y"] == 1


def test_thresholds_are_explained_and_ordered() -> None:
    rising = Thresholds("the limit", warning=0.8, bad=0.9)
    assert rising.in_words(RATIO) == "Orange from 80 % and red from 90 %: the limit."
    assert [step["value"] for step in rising.to_json()["steps"]] == [None, 0.8, 0.9]
    falling = Thresholds("the floor", warning=5, bad=2, falling=True)
    assert falling.in_words(SECONDS) == "Orange below 5 s and red below 2 s: the floor."
    assert [(step["value"], step["color"]) for step in falling.to_json()["steps"]] == [
        (None, colours.BAD),
        (2, colours.WARNING),
        (5, colours.GOOD),
    ]
    assert Thresholds("a disk", bad=2**20).in_words(BYTES) == "Red from 1 MiB: a disk."
    assert a_panel(thresholds=rising, unit=RATIO).description.endswith("red from 90 %: the limit.")


# --- colours --------------------------------------------------------------------------------------

#: Grafana 12's panels in its two themes.
BACKGROUNDS = {"dark": "#181b1f", "light": "#ffffff"}
#: Linear RGB as people see it who lack one kind of cones (Machado, Oliveira, Fernandes 2009).
VISIONS = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
#: Distances in CIELAB (1976); about 2 is just noticeable side by side.
CLEARLY_DIFFERENT, DIFFERENT = 20, 12


def linear(colour: str) -> list[float]:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def luminance(rgb: list[float]) -> float:
    return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted(luminance(linear(colour)) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(rgb: list[float]) -> tuple[float, float, float]:
    red, green, blue = (min(1.0, max(0.0, channel)) for channel in rgb)
    x, y, z = (
        t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116
        for t in (
            (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047,
            0.2126 * red + 0.7152 * green + 0.0722 * blue,
            (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883,
        )
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def distance(one: str, other: str, vision: str) -> float:
    seen = [
        lab(
            [
                sum(a * b for a, b in zip(row, linear(colour), strict=True))
                for row in VISIONS[vision]
            ]
        )
        for colour in (one, other)
    ]
    return math.dist(*seen)


ALL_COLOURS = {
    value
    for name, value in vars(colours).items()
    if re.fullmatch(r"[A-Z]+", name) and isinstance(value, str)
}


@pytest.mark.parametrize("theme", BACKGROUNDS)
@pytest.mark.parametrize("colour", sorted(ALL_COLOURS))
def test_colours_stand_out_in_both_themes(theme: str, colour: str) -> None:
    assert contrast(colour, BACKGROUNDS[theme]) >= 3


@pytest.mark.parametrize("vision", VISIONS)
def test_good_warning_and_bad_differ_for_everybody(vision: str) -> None:
    for pair in itertools.combinations((colours.GOOD, colours.WARNING, colours.BAD), 2):
        assert distance(*pair, vision) >= CLEARLY_DIFFERENT, pair


@pytest.mark.parametrize("vision", VISIONS)
def test_queues_differ_for_everybody(vision: str) -> None:
    assert set(colours.QUEUE) == {queue.name for queue in QUEUES}
    for pair in itertools.combinations(colours.QUEUE_PALETTE, 2):
        assert distance(*pair, vision) >= DIFFERENT, pair


def test_no_queue_looks_like_a_verdict() -> None:
    assert not {colours.GOOD, colours.WARNING, colours.BAD} & set(colours.QUEUE.values())

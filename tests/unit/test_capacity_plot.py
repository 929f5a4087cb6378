"""The plot of a capacity plan: what it shows, and that nothing in it can run."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from capacity.plot import COLOURS, HEIGHT, STYLE_SOURCE, WIDTH, plot

SVG = "{http://www.w3.org/2000/svg}"


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value * 0.9, "high": value * 1.1}


def candidate(workers: int, wait: float | None, *, stable: bool = True) -> dict[str, Any]:
    return {
        "workers": workers,
        "utilisation": 6 / workers,
        "stable": stable,
        "wait": None if wait is None else interval(wait),
        "meets_target": wait is not None and wait * 1.1 <= 0.2,
    }


RESULT: dict[str, Any] = {
    "recommended_workers": 9,
    "recommended_pods": 3,
    "slots_per_pod": 4,
    "target_wait": 0.2,
    "percentile": 95.0,
    "candidates": [
        candidate(6, None, stable=False),
        candidate(7, 40.0),
        candidate(8, 0.5),
        candidate(9, 0.15),
        candidate(10, 0.0),
    ],
}


def drawn(**changes: Any) -> ET.Element:
    return ET.fromstring(plot({**RESULT, **changes}))


def test_it_says_in_words_what_it_shows() -> None:
    root = drawn()
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")

    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "title description"
    assert title is not None and title.text == "Wait at p95 against workers"
    assert description is not None and description.text is not None
    assert "Recommended: 9 workers in 3 pods of 4. Target: 200 ms." in description.text
    assert "8 workers: 500 ms (450 ms to 550 ms)" in description.text
    labels = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert {"workers (tasks at the same time)", "wait at p95", "target 200 ms", "10", "0 s"} <= set(
        labels
    )


def test_every_candidate_is_drawn_and_the_recommended_one_has_a_ring() -> None:
    root = drawn()

    circles = root.findall(f"{SVG}circle")
    assert len(circles) == 4, "three points and a ring"
    assert [circle.get("cx") for circle in circles if circle.get("fill") == "none"] == [
        circles[2].get("cx")
    ]
    # The overloaded one and the one far above the target are triangles at the top.
    beyond = [element.findtext(f"{SVG}title") for element in root.findall(f"{SVG}polygon")]
    assert beyond[0] == "6 workers, utilisation 100 %: queue grows without end"
    assert beyond[1] is not None and beyond[1].startswith("7 workers, utilisation 85.7 %: 40 s")


def test_everything_is_inside() -> None:
    for element in drawn().iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.get(name, 0)) <= WIDTH
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.get(name, 0)) <= HEIGHT


@pytest.mark.parametrize(
    "changes",
    [
        {"candidates": [], "recommended_workers": None, "recommended_pods": None},
        {"candidates": [candidate(1, None, stable=False)], "recommended_workers": None},
        {"candidates": [candidate(1, 0.0)], "recommended_workers": 1},
        {"candidates": [candidate(n, 1e-7 * n) for n in range(1, 200)], "target_wait": 1e-6},
        {"candidates": [candidate(n, 90_000.0) for n in range(1, 5)], "target_wait": 86_400.0},
    ],
)
def test_odd_results_are_drawn_too(changes: dict[str, Any]) -> None:
    root = drawn(**changes)
    assert 2 <= len(root.findall(f"{SVG}text")) < 40


def test_what_comes_in_is_escaped_and_nothing_can_run() -> None:
    text = plot({**RESULT, "slots_per_pod": '<script x="1">&amp;'})

    ET.fromstring(text)
    assert "<script" not in text
    assert not re.search(r"\son\w+=|href|url\(|@import", text)


def test_the_policy_names_the_style_sheet() -> None:
    style = drawn().findtext(f"{SVG}style")
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" == STYLE_SOURCE


def luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("name", COLOURS.keys() - {"ground", "line"})
@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_are_legible_in_light_and_dark(name: str, scheme: int) -> None:
    """WCAG 2.2, contrast AA: 4.5 to 1."""
    ground, ink = luminance(COLOURS["ground"][scheme]), luminance(COLOURS[name][scheme])
    assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) >= 4.5

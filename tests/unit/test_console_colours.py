"""Contrast of the console's colours, computed from its style sheet (WCAG 2.2, level AA)."""

from __future__ import annotations

import re

import pytest

from tests.support.roles import ROOT

SHEET = ROOT / "app" / "console" / "static" / "console" / "console.css"
#: Success criterion 1.4.3: text of normal size; 1.4.11: edges of inputs, bars, the focus ring.
TEXT, GRAPHIC = 4.5, 3.0

STATES = ["succeeded", "failed", "running", "queued", "cancelled", "retried"]
#: Foreground, background, what they are for.
PAIRS = [
    *[(text, ground, TEXT) for text in ("ink", "quiet") for ground in ("ground", "card", "well")],
    *[
        (link, ground, TEXT)
        for link in ("accent", "accent-strong")
        for ground in ("ground", "card")
    ],
    *[(state, ground, TEXT) for state in STATES for ground in ("ground", "card", "well")],
    ("on-accent", "accent", TEXT),
    ("on-accent", "accent-strong", TEXT),
    ("ground", "ink", TEXT),
    *[("edge", ground, GRAPHIC) for ground in ("ground", "card", "well")],
    *[("running", "line", GRAPHIC), ("succeeded", "line", GRAPHIC), ("retried", "line", GRAPHIC)],
]


def colours(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\n *\}", SHEET.read_text(encoding="utf-8"), re.DOTALL)
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light))
    if scheme == "dark":
        found.update(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", dark))
    return found


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_formula_gives_the_values_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("front", "back", "least"), PAIRS)
def test_everybody_can_read_it(scheme: str, front: str, back: str, least: float) -> None:
    known = colours(scheme)
    assert contrast(known[front], known[back]) >= least


def test_every_colour_is_one_that_is_checked() -> None:
    rules = SHEET.read_text(encoding="utf-8").partition("* { box-sizing")[2]

    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b", rules), "colours are named at the top only"
    checked = {name for front, back, _ in PAIRS for name in (front, back)}
    assert set(colours("dark")) == checked

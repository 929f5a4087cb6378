"""The plot of a capacity plan as SVG: waits against workers. No script; pure.

The dark colours are in a style sheet inside the file. Where that is blocked, the plot keeps its own
light ground, and stays legible.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Final

#: Size in pixels, and what is left for labels around the plot itself.
WIDTH: Final = 720
HEIGHT: Final = 400
LEFT: Final = 76
RIGHT: Final = 24
TOP: Final = 56
BOTTOM: Final = 60
#: The highest wait that is drawn, in targets: an overloaded candidate must not flatten the others.
HIGHEST_IN_TARGETS: Final = 5.0
#: Labels on an axis, at most.
MOST_TICKS: Final = 12
#: A point's colours, as in the console's style sheet: light first, then dark.
COLOURS: Final = {
    "ground": ("#ffffff", "#1d2320"),
    "ink": ("#1d2320", "#eceeea"),
    "quiet": ("#5c6661", "#a3ada7"),
    "line": ("#dcdad3", "#353d38"),
    "over": ("#a84300", "#ff9a5c"),
    "within": ("#00704f", "#4fc9a3"),
    "target": ("#0b5c8f", "#7cc4f0"),
}
STYLE: Final = "".join([
    "@media (prefers-color-scheme: dark) {",
    *(
        f".fill-{name} {{ fill: {dark} }} .stroke-{name} {{ stroke: {dark} }} "
        for name, (_light, dark) in COLOURS.items()
    ),
    "}",
])  # fmt: skip
#: What a Content-Security-Policy calls the style sheet (CSP 3 §2.3.1).
STYLE_SOURCE: Final = (
    f"'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
)


@dataclass(frozen=True, slots=True)
class _Scale:
    """From workers and seconds to pixels."""

    first: int
    last: int
    highest: float

    def across(self, workers: float) -> float:
        share = (workers - self.first + 0.5) / (self.last - self.first + 1)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def up(self, seconds: float) -> float:
        share = min(seconds / self.highest, 1.0)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def plot(result: Mapping[str, Any]) -> str:
    """Return the plot of a capacity job's result.

    Each candidate is a point with a bar for its confidence interval; a dashed line is the target;
    the recommended one has a ring. What is above the top is drawn as a triangle there.
    """
    candidates: list[Mapping[str, Any]] = list(result["candidates"])
    target: float = result["target_wait"]
    beyond = "▲ higher up, or growing without end"
    highest = max((entry["wait"]["high"] for entry in candidates if entry["wait"]), default=target)
    scale = _Scale(
        first=candidates[0]["workers"] if candidates else 1,
        last=candidates[-1]["workers"] if candidates else 1,
        highest=max(target * 1.25, min(highest * 1.05, target * HIGHEST_IN_TARGETS)),
    )
    title = f"Wait at p{result['percentile']:g} against workers"
    parts = [
        _element("title", title, id="title"),
        _element("desc", _description(result), id="description"),
        f"<style>{STYLE}</style>",
        _element("rect", width=WIDTH, height=HEIGHT, rx=8, **_fill("ground")),
        _text(LEFT, 24, title, anchor="start", weight="600"),
        _text(LEFT, 42, _answer(result), "quiet", anchor="start"),
        _text(WIDTH - RIGHT, 42, beyond, "quiet", anchor="end"),
        *_axes(scale, f"wait at p{result['percentile']:g}"),
        *_target(scale, target),
        *(
            part
            for entry in candidates
            for part in _candidate(scale, entry, result["recommended_workers"])
        ),
    ]
    return _element(
        "svg", None, *parts, xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}", width=WIDTH, height=HEIGHT, role="img",
        aria_labelledby="title description", font_family="system-ui, sans-serif", font_size=13,
    )  # fmt: skip


def _description(result: Mapping[str, Any]) -> str:
    """Say in words what the plot shows, for those who do not see it."""
    measured = [
        f"{entry['workers']} workers: {_seconds(entry['wait']['value'])} "
        f"({_seconds(entry['wait']['low'])} to {_seconds(entry['wait']['high'])})"
        for entry in result["candidates"]
        if entry["wait"]
    ]
    return (
        f"{_answer(result)} Target: {_seconds(result['target_wait'])}. "
        f"Waits with 95 % confidence intervals: {'; '.join(measured) or 'none was simulated'}."
    )


def _answer(result: Mapping[str, Any]) -> str:
    workers, pods = result["recommended_workers"], result["recommended_pods"]
    if workers is None:
        return "No number of workers within the limit is surely enough."
    return (
        f"Recommended: {workers} worker{'s' * (workers != 1)} in {pods} pod{'s' * (pods != 1)} "
        f"of {result['slots_per_pod']}."
    )


def _axes(scale: _Scale, wait: str) -> list[str]:
    bottom, end = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    step = _round_step(scale.highest / 5)
    for number in range(int(scale.highest / step * (1 + 1e-9)) + 1):
        height = scale.up(number * step)
        parts += [
            _line(LEFT, height, end, height, "line"),
            _text(LEFT - 8, height + 4, _seconds(number * step), "quiet", anchor="end"),
        ]
    stride = math.ceil((scale.last - scale.first + 1) / MOST_TICKS)
    for workers in range(scale.first, scale.last + 1, stride):
        parts.append(_text(scale.across(workers), bottom + 20, str(workers), "quiet"))
    middle = (TOP + bottom) / 2
    return [
        *parts,
        _line(LEFT, bottom, end, bottom, "quiet"),
        _text((LEFT + end) / 2, HEIGHT - 16, "workers (tasks at the same time)", "quiet"),
        _text(16, middle, wait, "quiet", transform=f"rotate(-90 16 {middle:g})"),
    ]


def _target(scale: _Scale, target: float) -> list[str]:
    height = scale.up(target)
    return [
        _line(
            LEFT, height, WIDTH - RIGHT, height, "target", stroke_width=2, stroke_dasharray="6 4"
        ),
        _text(WIDTH - RIGHT - 4, height - 6, f"target {_seconds(target)}", "target", anchor="end"),
    ]


def _candidate(scale: _Scale, entry: Mapping[str, Any], recommended: int | None) -> list[str]:
    across, wait = scale.across(entry["workers"]), entry["wait"]
    name = f"{entry['workers']} workers, utilisation {entry['utilisation'] * 100:.3g} %"
    if wait is None:
        reason = "queue too close to its limit" if entry["stable"] else "queue grows without end"
        return [_beyond(across, "quiet", f"{name}: {reason}")]
    colour = "within" if entry["meets_target"] else "over"
    label = (
        f"{name}: {_seconds(wait['value'])} ({_seconds(wait['low'])} to {_seconds(wait['high'])})"
    )
    if wait["value"] > scale.highest:
        return [_beyond(across, colour, label)]
    height = scale.up(wait["value"])
    ring = [_circle(across, height, 9, colour, hollow=True)] * (entry["workers"] == recommended)
    low, high = scale.up(wait["low"]), scale.up(wait["high"])
    return [
        _line(across, low, across, high, colour, stroke_width=2),
        _line(across - 5, low, across + 5, low, colour, stroke_width=2),
        _line(across - 5, high, across + 5, high, colour, stroke_width=2),
        *ring,
        _circle(across, height, 4.5, colour, label=label),
    ]


def _beyond(across: float, colour: str, label: str) -> str:
    """Return a triangle at the top: the wait is further up, or has no end."""
    points = f"{across - 6:g},{TOP + 9} {across + 6:g},{TOP + 9} {across:g},{TOP - 2}"
    return _element("polygon", None, _element("title", label), points=points, **_fill(colour))


def _line(left: float, top: float, right: float, bottom: float, colour: str, **more: Any) -> str:
    return _element("line", x1=left, y1=top, x2=right, y2=bottom, **_stroke(colour), **more)


def _circle(
    across: float,
    height: float,
    radius: float,
    colour: str,
    label: str = "",
    *,
    hollow: bool = False,
) -> str:
    paint = {"fill": "none", "stroke_width": 2, **_stroke(colour)} if hollow else _fill(colour)
    inside = [_element("title", label)] if label else []
    return _element("circle", None, *inside, cx=across, cy=height, r=radius, **paint)


def _text(  # noqa: PLR0917
    across: float, height: float, text: str, colour: str = "ink", anchor: str = "middle",
    weight: str = "400", **more: Any,
) -> str:  # fmt: skip
    return _element(
        "text", text, x=across, y=height, text_anchor=anchor, font_weight=weight, **_fill(colour),
        **more,
    )  # fmt: skip


def _fill(colour: str) -> dict[str, str]:
    return {"class": f"fill-{colour}", "fill": COLOURS[colour][0]}


def _stroke(colour: str) -> dict[str, str]:
    return {"class": f"stroke-{colour}", "stroke": COLOURS[colour][0]}


def _element(tag: str, text: str | None = None, *inside: str, **attributes: Any) -> str:
    """Return an element, with text and attributes escaped, and ``inside`` as it is."""
    written = "".join(
        f' {name.replace("_", "-")}="{escape(str(value))}"' for name, value in attributes.items()
    )
    return f"<{tag}{written}>{escape(text or '')}{''.join(inside)}</{tag}>"


def _seconds(seconds: float) -> str:
    """Write a time with a unit that suits it."""
    if seconds == 0:
        return "0 s"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds / 3600:.3g} h"


def _round_step(step: float) -> float:
    """Return the next number above that is 1, 2 or 5 with zeros."""
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))

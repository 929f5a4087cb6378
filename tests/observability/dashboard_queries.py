"""Every query of every committed dashboard, as Grafana would send it; and which are empty, when."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.support.roles import ROOT

JSON: Final = ROOT / "deploy" / "grafana" / "dashboards" / "json"

#: Seconds of the time range that is looked at: since the stack is there, and a little more.
RANGE_SECONDS: Final = 120
#: Seconds between two points of a graph.
STEP_SECONDS: Final = 5
#: What Grafana puts in for variables that are no lists: everything is chosen there. ``before`` is
#: what Tasks compares with; the stack of a test is minutes old, so a reader would choose seconds.
CHOSEN: Final = {"before": "20s"}
#: What a big number answers when nothing does (``deploy.grafana.dashboards.absence``): no data.
NOTHING: Final = " or on () vector(-1)"


@dataclass(frozen=True)
class Asked:
    """One query of a panel, with Grafana's variables in it.

    Attributes:
        dashboard: Its uid.
        panel: Title of its panel.
        reference: ``A`` for the panel's first query, ``B`` for the second, ...
        expression: PromQL with variables.
        instant: Whether only the present value is asked for.
    """

    dashboard: str
    panel: str
    reference: str
    expression: str
    instant: bool

    @property
    def place(self) -> tuple[str, str, str]:
        """Where it is: dashboard without prefix, panel, query."""
        return (self.dashboard.removeprefix("celeriac-"), self.panel, self.reference)

    def __str__(self) -> str:
        """Return the place, as the name of a test."""
        return " / ".join(self.place)


@dataclass(frozen=True)
class Offered:
    """The choice at the top of a dashboard."""

    dashboard: str
    name: str
    query: str

    def __str__(self) -> str:
        """Return the place, as the name of a test."""
        return f"{self.dashboard} / ${self.name}"


def dashboards() -> list[dict[str, Any]]:
    """Return the committed dashboards."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(JSON.glob("*.json"))]


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the panels, those in folded rows too."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def queries() -> list[Asked]:
    """Return every query of every panel, and of the annotations."""
    found = []
    for dashboard in dashboards():
        uid = dashboard["uid"]
        for panel in panels(dashboard):
            found += [
                Asked(uid, panel["title"], target["refId"], target["expr"], target["instant"])
                for target in panel["targets"]
            ]
    return found


def annotation_queries() -> list[Asked]:
    """Return the queries of the annotations; they are the same on every dashboard."""
    [first, *_] = dashboards()
    return [
        Asked("annotations", annotation["name"], "A", annotation["expr"], instant=False)
        for annotation in first["annotations"]["list"]
    ]


def variables() -> list[Offered]:
    """Return every variable that Prometheus is asked for."""
    return [
        Offered(dashboard["uid"], variable["name"], variable["query"]["query"])
        for dashboard in dashboards()
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    ]


def as_grafana_sends(
    expression: str, scrape_seconds: float, chosen: Mapping[str, str] = CHOSEN
) -> str:
    """Put values in for variables, everything chosen unless ``chosen`` says more, as Grafana does.

    ``$__rate_interval`` is four scrapes at least, and a step and a scrape. Subqueries look at every
    scrape: what the rules record is over in seconds where their windows are short.
    """
    expression = expression.replace(":1m]", f":{scrape_seconds:g}s]")
    rate_seconds = max(STEP_SECONDS + scrape_seconds, 4 * scrape_seconds)
    values = {
        "__rate_interval": f"{rate_seconds:g}s",
        "__interval": f"{STEP_SECONDS}s",
        "__range_s": str(RANGE_SECONDS),
        "__range": f"{RANGE_SECONDS}s",
        **dict.fromkeys(("namespace", "queue_name", "name", "instance", "view"), ".*"),
        **chosen,
    }
    # The longest name first: $name is the start of $namespace.
    for name in sorted(values, key=len, reverse=True):
        expression = expression.replace(f"${{{name}}}", values[name])
        expression = expression.replace(f"${name}", values[name])
    return expression

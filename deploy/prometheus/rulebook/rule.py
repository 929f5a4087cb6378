"""What a rule is, before it becomes YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

CRITICAL: Final = "critical"
WARNING: Final = "warning"
NONE: Final = "none"

#: Where people read what to do. The page has the alert's name.
RUNBOOK_URL: Final = "https://github.com/celeriac/celeriac/blob/main/docs/runbooks/{alert}.md"
#: Grafana of the local stack (deploy/stack/ports.py); ``--grafana-url`` for another one.
GRAFANA_URL: Final = "http://localhost:3000"


@dataclass(frozen=True, slots=True)
class Recording:
    """A series that is computed ahead.

    Attributes:
        name: ``level:metric:operation``. A window in it is the one at scale 1.
        expression: PromQL.
    """

    name: str
    expression: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert.

    Attributes:
        name: CamelCase; also the name of its runbook.
        severity: ``critical`` pages somebody, ``warning`` is a ticket, ``none`` is for machines.
        meaning: One line for the table in docs/alerts.md: what is wrong, in plain words.
        expression: PromQL; a series in its result is an alert.
        hold: The ``for``: how long the expression must hold.
        summary: One line without values.
        description: What happens, with values.
        dashboard: Last part of the dashboard's uid: ``queues`` for ``celeriac-queues``.
        dashboard_variables: Label of the alert that each variable of the dashboard takes.
    """

    name: str
    severity: str
    meaning: str
    expression: str
    summary: str
    description: str
    dashboard: str
    hold: str = "0s"
    dashboard_variables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated one after the other.

    Attributes:
        name: Unique in the file.
        rules: In the order of their evaluation.
        interval: How often, where that is not Prometheus' own ``evaluation_interval``.
        area: Label of its alerts; by it Alertmanager can route.
    """

    name: str
    rules: tuple[Recording | Alert, ...]
    interval: str = ""
    area: str = ""


def labels_of(alert: Alert, group: Group) -> Mapping[str, str]:
    """Return the labels that an alert adds to those of its series."""
    return {"severity": alert.severity} | ({"area": group.area} if group.area else {})


def annotations_of(alert: Alert, grafana_url: str = GRAFANA_URL) -> Mapping[str, str]:
    """Return what people read of an alert: two texts and two links."""
    variables = "&".join(
        f"var-{name}={{{{ $labels.{name} }}}}" for name in alert.dashboard_variables
    )
    return {
        "summary": alert.summary,
        "description": alert.description,
        "runbook_url": RUNBOOK_URL.format(alert=alert.name),
        "dashboard_url": f"{grafana_url}/d/celeriac-{alert.dashboard}"
        + (f"?{variables}" if variables else ""),
    }

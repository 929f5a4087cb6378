"""A story: series over time, and which alert they must or must not fire."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy.prometheus.rulebook import book
from deploy.prometheus.rulebook.pace import Pace
from deploy.prometheus.rulebook.rule import annotations_of, labels_of

#: Samples a minute: the scrape interval of production.
SAMPLES = 4
NAMESPACE = "celeriac"

_ALERTS = {alert.name: (group, alert) for group, alert in book.alerts(Pace())}


@dataclass(frozen=True)
class Fires:
    """The alert fires at the end of these series, and with these words.

    Attributes:
        title: What happens.
        alert: Name of the alert.
        series: Values by series; a series without a namespace gets the usual one.
        at: Minute at which it fires.
        not_before: Minute until which it has not fired, so that its patience is seen too.
        labels: Labels of the alert beside severity, area and namespace.
        description: The words of the alert, with values.
        resolved_at: Minute at which it fires no more.
        namespace: Its namespace; None for an alert without one.
        step: Seconds between two samples, and two evaluations.
    """

    title: str
    alert: str
    series: Mapping[str, str]
    at: float
    description: str
    labels: Mapping[str, str] = field(default_factory=dict)
    not_before: float | None = None
    resolved_at: float | None = None
    namespace: str | None = NAMESPACE
    step: int = 60 // SAMPLES


@dataclass(frozen=True)
class Quiet:
    """The alert does not fire at any evaluation from the start to the given minute."""

    title: str
    alert: str
    series: Mapping[str, str]
    until: float
    step: int = 60 // SAMPLES


Story = Fires | Quiet


def flat(value: float, minutes: float) -> str:
    """Return samples of one value."""
    return f"{value:g}x{round(minutes * SAMPLES) - 1}"


def rising(start: float, per_minute: float, minutes: float) -> str:
    """Return samples that begin at a value and change by so much a minute."""
    step = per_minute / SAMPLES
    return f"{start:g}{'+' if step >= 0 else '-'}{abs(step):g}x{round(minutes * SAMPLES) - 1}"


def nothing(minutes: float) -> str:
    """Return a gap."""
    return f"_x{round(minutes * SAMPLES)}"


def now(minutes: float, *, from_minute: float = 0) -> str:
    """Return a timestamp that is always fresh."""
    return rising(from_minute * 60, 60, minutes)


def with_namespace(series: str) -> str:
    """Return the series with the usual namespace, unless it has one or is the monitoring's."""
    if "namespace=" in series:
        return series
    name, _, rest = series.partition("{")
    return f'{name}{{namespace="{NAMESPACE}"{", " + rest if rest else "}"}'


def as_test(story: Story) -> dict[str, Any]:
    """Return the story as promtool reads it."""
    test: dict[str, Any] = {
        "name": f"{story.alert}: {story.title}",
        "interval": f"{story.step}s",
        "input_series": [
            {"series": with_namespace(name), "values": values}
            for name, values in story.series.items()
        ],
    }
    if isinstance(story, Quiet):
        test["promql_expr_test"] = [_never_fires(story.alert, story.until)]
        return test
    test["alert_rule_test"] = [
        {
            "eval_time": _minute(story.at),
            "alertname": story.alert,
            "exp_alerts": [expected(story)],
        }
    ]
    if story.not_before is not None:
        test["promql_expr_test"] = [_never_fires(story.alert, story.not_before)]
    if story.resolved_at is not None:
        test["alert_rule_test"].append(
            {"eval_time": _minute(story.resolved_at), "alertname": story.alert, "exp_alerts": []}
        )
    return test


def expected(story: Fires) -> dict[str, Any]:
    """Return the labels and annotations of the alert."""
    _group, alert = _ALERTS[story.alert]
    own = _own_labels(story)
    texts = {
        key: re.sub(r"{{ \$labels\.(\w+) }}", lambda found: own[found[1]], value)
        for key, value in annotations_of(alert).items()
    }
    return {
        "exp_labels": all_labels(story),
        "exp_annotations": {**texts, "description": story.description},
    }


def all_labels(story: Fires) -> dict[str, str]:
    """Return every label of the alert but its name: those of its series, and those of its rule."""
    group, alert = _ALERTS[story.alert]
    return {**labels_of(alert, group), **_own_labels(story)}


def _own_labels(story: Fires) -> dict[str, str]:
    return dict(story.labels) | ({"namespace": story.namespace} if story.namespace else {})


def _minute(minute: float) -> str:
    return f"{round(minute * 60)}s"


def _never_fires(alert: str, until: float) -> dict[str, Any]:
    """Return a check of every evaluation up to a minute, not of that one alone."""
    which = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    return {
        "expr": f"count_over_time({which}[{round(until * 60)}s])",
        "eval_time": _minute(until),
        "exp_samples": [],
    }

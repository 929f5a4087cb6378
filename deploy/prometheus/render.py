"""Writes rules as YAML, with the standard library only: the stack starts without any package."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from deploy.prometheus.rulebook.rule import GRAFANA_URL, Alert, Group, annotations_of, labels_of

_HEADER = "# Written by `make rules` from deploy/prometheus/rulebook. Do not edit.\n"


def text(groups: Iterable[Group], grafana_url: str = GRAFANA_URL) -> str:
    """Return the file that Prometheus reads."""
    lines = ["groups:"]
    for group in groups:
        lines.append(f"  - name: {group.name}")
        if group.interval:
            lines.append(f"    interval: {group.interval}")
        lines.append("    rules:")
        for rule in group.rules:
            if isinstance(rule, Alert):
                lines.append(f"      - alert: {rule.name}")
                lines += _expression(rule.expression)
                if rule.hold != "0s":
                    lines.append(f"        for: {rule.hold}")
                lines += _mapping("labels", labels_of(rule, group))
                lines += _mapping("annotations", annotations_of(rule, grafana_url))
            else:
                lines.append(f"      - record: {rule.name}")
                lines += _expression(rule.expression)
    return _HEADER + "\n".join(lines) + "\n"


def _expression(expression: str) -> list[str]:
    if "\n" not in expression:
        return [f"        expr: {json.dumps(expression)}"]
    return ["        expr: |-", *(f"          {line}" for line in expression.split("\n"))]


def _mapping(name: str, values: Mapping[str, str]) -> list[str]:
    quoted = (f"          {key}: {json.dumps(value)}" for key, value in values.items())
    return [f"        {name}:", *quoted]

"""The table of alerts in docs/alerts.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from deploy.prometheus.rulebook.rule import Alert, Group

BEGIN: Final = "<!-- alerts: begin -->"
END: Final = "<!-- alerts: end -->"


def table(alerts: Iterable[tuple[Group, Alert]]) -> str:
    """Return a table for each area."""
    lines: list[str] = []
    area = ""
    for group, alert in alerts:
        if group.area != area:
            area = group.area
            lines += ["", f"### {area.capitalize()}", ""]
            lines += ["| alert | severity | for | what it means | runbook |"]
            lines += ["|---|---|---|---|---|"]
        hold = "at once" if alert.hold == "0s" else alert.hold
        lines.append(
            f"| **{alert.name}** | {alert.severity} | {hold} | {alert.meaning}. "
            f"| [runbook](runbooks/{alert.name}.md) |"
        )
    return "\n".join([*lines[1:], ""])


def with_table(page: str, text: str) -> str:
    """Return the page with the table between its markers.

    Raises:
        ValueError: The page does not have each marker once, in order.
    """
    parts = re.split(f"({BEGIN}\n|{END})", page)
    if parts[1::2] != [f"{BEGIN}\n", END]:
        raise ValueError(f"docs/alerts.md needs {BEGIN} and {END}, once each")
    return f"{parts[0]}{BEGIN}\n{text}{END}{parts[4]}"

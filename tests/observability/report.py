"""The table of what fired: printed after the tests, and written to docs/alerts.md on demand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.stack import table
from tests.observability.hurry import TIME_SCALE

BEGIN: Final = "<!-- fired: begin -->"
END: Final = "<!-- fired: end -->"


@dataclass(frozen=True)
class Row:
    """One alert that its fault has fired.

    Attributes:
        alert: Its name.
        fault: What was done.
        fired: Seconds from the fault to Alertmanager; None: it fires without one.
        over: Seconds from the end of the fault to the end of the alert; None: it is not over.
    """

    alert: str
    fault: str
    fired: float | None
    over: float | None

    def cells(self) -> tuple[str, str, str, str]:
        """Return what stands in its row."""
        return self.alert, self.fault, _seconds(self.fired), _seconds(self.over)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


HEADINGS: Final = ("alert", "fault", "fires after (s)", "over after (s)")


def as_text(rows: Iterable[Row]) -> str:
    """Return the table for a terminal."""
    return table.render([HEADINGS, *(row.cells() for row in rows)])


def as_markdown(rows: Iterable[Row]) -> str:
    """Return the table for a page, with what the numbers mean."""
    lines = [
        f"Measured by `make fire-alerts`, embedded stack, windows at {TIME_SCALE:g} of their",
        "length: the seconds compare alerts with each other, and are not those of production. An",
        "alert is over after 0 s when it ended while the fault was undone; one about what happened",
        "within a window is over when the window has passed.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row.cells())} |" for row in sorted(rows, key=lambda row: row.alert)),
    ]
    return "\n".join(lines)


def write(page: Path, rows: Iterable[Row]) -> None:
    """Replace what is between the two marks of a page.

    Raises:
        ValueError: The page does not have them.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} does not have the marks {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{as_markdown(rows)}\n\n{END}{after}", encoding="utf-8")

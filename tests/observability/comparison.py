"""The table of two exporters and the truth: printed after the test, and written on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from deploy.stack import table
from tests.support.roles import ROOT

BEGIN: Final = "<!-- compared: begin -->"
END: Final = "<!-- compared: end -->"
PAGE: Final = ROOT / "docs" / "decisions" / "0028-public-exporter.md"
HEADINGS: Final = ("metric", "of what", "ledger", "ours", "theirs")


@dataclass(frozen=True)
class Row:
    """One number, as three have it.

    Attributes:
        metric: Its name without the prefix ``celery_``.
        what: Of what.
        truth: What the ledger says, or what the test did where the ledger has no such thing.
        ours: What our metrics say.
        theirs: What the public exporter says; None: it has no such metric.
    """

    metric: str
    what: str
    truth: float
    ours: float
    theirs: float | None

    def cells(self) -> tuple[str, ...]:
        """Return what stands in its row."""
        theirs = "none" if self.theirs is None else f"{self.theirs:g}"
        return self.metric, self.what, f"{self.truth:g}", f"{self.ours:g}", theirs

    def markdown(self) -> str:
        """Return the same for a page: what differs from the truth is in bold."""
        metric, what, truth, ours, theirs = self.cells()
        if self.theirs != self.truth:
            theirs = f"**{theirs}**"
        return f"| `{metric}` | {what} | {truth} | {ours} | {theirs} |"


@dataclass
class Comparison:
    """What was compared.

    Attributes:
        rows: The numbers.
        notes: What else was measured, in words.
    """

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def as_text(comparison: Comparison) -> str:
    """Return the table for a terminal."""
    rows = table.render([HEADINGS, *(row.cells() for row in comparison.rows)])
    return "\n".join([rows, *comparison.notes])


def write(comparison: Comparison) -> None:
    """Replace what is between the two marks of the page.

    Raises:
        ValueError: The page does not have them.
    """
    text = PAGE.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} does not have the marks {BEGIN} and {END}")
    lines = [
        f"| {' | '.join(HEADINGS)} |",
        "|---|---|---|---|---|",
        *(row.markdown() for row in comparison.rows),
        "",
        *comparison.notes,
    ]
    PAGE.write_text(
        "\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{after}"]), encoding="utf-8"
    )

"""The table that a run of the suite ends with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One fault and what came of it.

    Attributes:
        fault: What was done to the system.
        target: Which system.
        tasks: Submissions that had committed; an effect is due for each.
        lost: Those without an effect when the wait was over.
        doubled: Effects beyond the first.
        seconds: From the end of the fault until the last effect; 0 when it was made before; NaN
            where nothing was to recover.
        passed: Whether the scenario's own assertions held.
    """

    fault: str
    target: str
    tasks: int
    lost: int
    doubled: int
    seconds: float
    passed: bool = True


HEADER = ("target", "fault", "tasks", "lost", "doubled", "recovered in", "")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text, aligned, in the order in which they were measured."""
    cells = [HEADER]
    for row in rows:
        seconds = "" if math.isnan(row.seconds) else f"{row.seconds:.1f} s"
        verdict = "" if row.passed else "FAILED"
        numbers = (str(row.tasks), str(row.lost), str(row.doubled))
        cells.append((row.target, row.fault, *numbers, seconds, verdict))
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        texts = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
        figures = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join([*texts, *figures]).rstrip())
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

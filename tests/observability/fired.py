"""What a test has seen of an alert that its fault fires."""

from __future__ import annotations

from dataclasses import dataclass

from tests.observability.faults.fault import Expected, Fault
from tests.observability.report import Row
from tests.observability.watch import Firing


@dataclass
class Fired:
    """An alert that its fault has fired.

    Attributes:
        fault: What was done.
        expected: The alert.
        firing: What was seen in Alertmanager.
        injected: When the fault began, or ended, if that is what fires the alert.
        mended: When it ended.
    """

    fault: Fault
    expected: Expected
    firing: Firing
    injected: float
    mended: float = 0.0

    def row(self) -> Row:
        """Return it for the table."""
        over = None
        if self.firing.ended is not None:
            # Some are over by themselves before the rest of the phase is.
            over = max(0.0, self.firing.ended - self.mended)
        seconds = self.firing.began - self.injected
        return Row(self.expected.alert, self.fault.what, seconds, over)

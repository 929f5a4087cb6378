"""What a check has found."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """The word at the beginning of a line."""

    OK = "ok"
    WRONG = "WRONG"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: What was looked at, in a few words.
        verdict: How it is.
        explanation: What is wrong and what to do, or why it was not checked; empty if it is ok.
    """

    check: str
    verdict: Verdict
    explanation: str = ""

    def __str__(self) -> str:
        line = f"{self.verdict.value:<8} {self.check}"
        return f"{line}: {self.explanation}" if self.explanation else line


def judge(check: str, faults: Sequence[str]) -> list[Finding]:
    """Return one finding for each fault, or a single good one."""
    if not faults:
        return [Finding(check, Verdict.OK)]
    return [Finding(check, Verdict.WRONG, fault) for fault in faults]


def skip(check: str, reason: str) -> list[Finding]:
    """Return that a check was not made, and why."""
    return [Finding(check, Verdict.SKIPPED, reason)]

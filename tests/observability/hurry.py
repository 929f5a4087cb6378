"""A copy of the repository in which everything that is waited for comes sooner.

``ALERT_TIME_SCALE`` shortens what is a judgement of the rules. What is left are facts of the stack:
targets of queues, time limits, how often the canary is sent. A copy in which these numbers are
smaller is the same stack, and its rules are rendered from them.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from config.topology import QUEUES
from tests.support.roles import ROOT

#: Share of their length that the windows of the rules have: five minutes are six seconds.
TIME_SCALE: Final = 0.02
#: Seconds after which a task of any queue is killed.
HARD_LIMIT_SECONDS: Final = 6
#: Seconds without an acknowledgement after which a message is delivered again.
VISIBILITY_TIMEOUT_SECONDS: Final = 12


@dataclass(frozen=True)
class Change:
    """A number that is another one in the copy.

    Attributes:
        file: Where it stands.
        pattern: What stands there: a regular expression that matches as often as it says.
        replacement: What stands there instead.
        times: How often it stands there.
    """

    file: str
    pattern: str
    replacement: str
    times: int = 1


CHANGES: Final = (
    Change("app/config/topology.py", r"(wait_target_seconds)=\d+", r"\1=2", len(QUEUES)),
    Change("app/config/topology.py", r"(soft_time_limit_seconds)=\d+", r"\1=5", len(QUEUES)),
    Change(
        "app/config/topology.py",
        r"(hard_time_limit_seconds)=\d+",
        rf"\1={HARD_LIMIT_SECONDS}",
        len(QUEUES),
    ),
    Change(
        "app/config/topology.py",
        r"(VISIBILITY_TIMEOUT_SECONDS: Final) = \d+",
        rf"\1 = {VISIBILITY_TIMEOUT_SECONDS}",
    ),
    Change("app/config/topology.py", r"(CANARY_PERIOD_SECONDS: Final) = \d+", r"\1 = 4"),
    Change("app/exporter/ledger.py", r"(OVERDUE_SECONDS: Final) = \d+", r"\1 = 4"),
    # A worker starts no faster: so that it can do so three times within the window.
    Change(
        "deploy/prometheus/rulebook/workers.py",
        r"(window = pace\.window)\(15 \* MINUTE\)",
        r"\1(90 * MINUTE)",
    ),
    # Counters begin anew when a worker does, and are compared with what they were before if it was
    # away for less than the window: here half a minute, until messages are overdue and it is back.
    Change(
        "deploy/prometheus/rulebook/tasks.py",
        r'("celery_task_redelivered_total"), 15 \* MINUTE',
        r"\1, 60 * MINUTE",
    ),
    # Not 0s: what is urgent is posted at once here too.
    Change(
        "deploy/prometheus/alertmanager.yml",
        r"(group_(?:wait|interval)): [1-9]\d*[ms]",
        r"\1: 1s",
        4,
    ),
)


def copy_of_the_repository(directory: Path) -> Path:
    """Copy what the stack runs from, and make it hurry; returns the folder.

    Raises:
        AssertionError: A number is not where it was.
    """
    for folder in ("app", "deploy", "requirements"):
        shutil.copytree(ROOT / folder, directory / folder, symlinks=True)
    for change in CHANGES:
        file = directory / change.file
        text, count = re.subn(change.pattern, change.replacement, file.read_text(encoding="utf-8"))
        assert count == change.times, f"{change.file}: {change.pattern} matches {count} times"
        file.write_text(text, encoding="utf-8")
    return directory

"""promtool, Prometheus' own judge of configuration and rules."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Promtool:
    """The program.

    Attributes:
        path: Where it is.
    """

    path: str

    @classmethod
    def find(cls) -> Promtool | None:
        """Return the program, or None where it is not installed.

        Raises:
            FileNotFoundError: It is missing where ``CI`` is set: there nothing may be skipped.
        """
        path = shutil.which("promtool")
        if path:
            return cls(path)
        if os.environ.get("CI"):
            raise FileNotFoundError("promtool is missing, and this is CI (Debian: prometheus)")
        return None

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run it with these arguments; its output is in ``stdout`` and ``stderr``."""
        return subprocess.run(
            [self.path, *map(str, arguments)], capture_output=True, text=True, check=False
        )

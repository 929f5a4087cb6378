"""Keeps libraries that are off out of a process, also where others import what they find.

redis-py imports OpenTelemetry wherever it is installed: 61 modules, 2 MB and 0.06 s of each start
(``python -m bench.telemetry``), for metrics that nobody asked it for.
"""

from __future__ import annotations

import os
import sys
from typing import Final

#: Package -> the setting that it is for. ``NAME_FILE`` counts as well (config/environment.py).
USED_BY: Final = {"opentelemetry": "OTEL_EXPORTER_OTLP_ENDPOINT"}


def hide() -> None:
    """Make packages whose setting is empty look as if they were not installed.

    ``None`` in ``sys.modules`` is Python's own way to say so
    (https://docs.python.org/3/reference/import.html#the-module-cache): an import raises
    ``ModuleNotFoundError``, which who imports it without being asked must be ready for. To be
    called before anything is imported.
    """
    for package, setting in USED_BY.items():
        if not os.environ.get(setting) and not os.environ.get(f"{setting}_FILE"):
            sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # see above

"""The commands people type: up, down, ps, logs, shell and demo, for either runtime."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - the host's own python3 runs this
    raise SystemExit(f"Python 3.11 or later is needed, this is {sys.version.split()[0]}")

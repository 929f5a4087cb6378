"""Has a Python program write down what it has imported when it ends (``IMPORTS_FILE``)."""

import atexit
import os
import sys
from pathlib import Path


@atexit.register
def _write() -> None:
    imported = sorted(name for name, module in sys.modules.items() if module is not None)
    file = Path(f"{os.environ['IMPORTS_FILE']}.{os.getpid()}")
    file.write_text("\n".join(imported), encoding="utf-8")

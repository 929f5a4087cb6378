"""Starts a program so that SIGTERM ends it from its first moment: ``python -m config.launch NAME``.

In a container the role is process 1, for which the kernel ignores signals without a handler. Until
Celery or gunicorn have installed theirs (2 s of imports), a stop would wait for its whole grace
period and then kill. They replace the handler of this module.
"""

from __future__ import annotations

import runpy
import signal
import sys
from types import FrameType


def _leave(_number: int, _frame: FrameType | None) -> None:
    """End at once, and successfully: nothing has begun."""
    sys.exit(0)


def main(program: str, *arguments: str) -> None:
    """Run a module as ``python -m`` does, with arguments."""
    signal.signal(signal.SIGTERM, _leave)
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Starts a program so that SIGTERM ends it from its first moment: ``python -m config.launch NAME``.

Until Celery or gunicorn have installed their handlers (2 s of imports), a stop would end the role
with the status of a failure; or, where it is process 1 (a container without an init), not at all,
because the kernel ignores signals to it that have no handler. They replace the handler of this
module.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from types import FrameType

from config import hidden_imports


def _leave(_number: int, _frame: FrameType | None) -> None:
    """End at once, and successfully: nothing has begun.

    Not by an exception: whatever is being imported at this moment could catch it, or be called from
    where Python drops exceptions (a finalizer), and the role would start all the same.
    """
    os._exit(0)


def main(program: str, *arguments: str) -> None:
    """Run a module as ``python -m`` does, with arguments."""
    signal.signal(signal.SIGTERM, _leave)
    hidden_imports.hide()
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

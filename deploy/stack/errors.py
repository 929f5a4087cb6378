"""What an operator sees when a command cannot go on."""

import os
import sys


class StackError(Exception):
    """A mistake or a failure; the message says what is wrong and what to do about it."""


def reader_left() -> int:
    """Return the exit status when who reads the output, such as head, has left.

    Nothing more is written: Python would fail once more when it ends.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141

"""Prints log files of several processes together, and follows them."""

import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from time import sleep
from typing import TextIO

TAIL_LINES = 100
POLL_INTERVAL = 0.3  # seconds


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a file; none when it does not exist."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - lines * 1000))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


def show(paths: Collection[Path], *, follow: bool, stream: TextIO = sys.stdout) -> None:
    """Print the end of every file, each line with the file's name; then new lines, for ever."""
    width = max((len(path.stem) for path in paths), default=0)
    followers = {path: _new_lines(path) for path in paths if follow}
    for path in paths:
        stream.writelines(f"{path.stem.ljust(width)} | {line}\n" for line in tail(path, TAIL_LINES))
    while followers:
        for path, lines in followers.items():
            stream.writelines(f"{path.stem.ljust(width)} | {line}\n" for line in next(lines))
        stream.flush()
        sleep(POLL_INTERVAL)


def _new_lines(path: Path) -> Iterator[list[str]]:
    """Yield again and again the lines added since the last time, across log rotation."""
    position = path.stat().st_size if path.exists() else 0
    while True:
        lines = []
        if path.exists():
            if path.stat().st_size < position:
                position = 0  # rotated
            with path.open("rb") as file:
                file.seek(position)
                text, newline, _ = file.read().rpartition(b"\n")
                position += len(text) + len(newline)
                lines = (text + newline).decode(errors="replace").splitlines()
        yield lines

"""Memory of processes and of their control group, from the kernel's own files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

PROC: Final = Path("/proc")
CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")
#: Version 1 says "no limit" with the largest number of pages that it can count.
NO_LIMIT_BYTES: Final = 1 << 62

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(process_ids: Iterable[int], proc: Path = PROC) -> int:
    """Return the resident memory of processes together; one that has just ended counts nothing."""
    return sum(_resident_bytes(proc / str(process_id) / "statm") for process_id in process_ids)


def _resident_bytes(statm: Path) -> int:
    try:
        _size, resident, *_ = statm.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 0
    return int(resident) * _PAGE_BYTES


def limit_bytes(proc: Path = PROC, control_groups: Path = CONTROL_GROUPS) -> int:
    """Return the memory limit that this process runs into first; 0 where there is none.

    A group's own file says nothing of the groups around it, so all of them are asked.
    """
    limits = [limit for file in _limit_files(proc, control_groups) if (limit := _limit(file))]
    return min(limits, default=0)


def _limit_files(proc: Path, control_groups: Path) -> Iterator[Path]:
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _number, _, controllers_and_path = line.partition(":")
        controllers, _, path = controllers_and_path.partition(":")
        if not controllers:
            root, name = control_groups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = control_groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the root of what is mounted is the container's own group.
        group = PurePosixPath(path.lstrip("/"))
        for ancestor in (group, *group.parents):
            yield root / ancestor / name


def _limit(file: Path) -> int:
    try:
        limit = int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0  # not there, or "max"
    return limit if limit < NO_LIMIT_BYTES else 0

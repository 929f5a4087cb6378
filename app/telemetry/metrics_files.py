"""The files in which the processes of the web role keep their metrics, so that one can tell all.

Gunicorn runs several processes, and a scrape reaches one of them. prometheus-client's multiprocess
mode has each write its numbers to files of its own in one folder (``PROMETHEUS_MULTIPROC_DIR``,
which must be set before it is imported: the entry point does that for the web role alone).

What it lacks is an end: a process that is replaced leaves its counters behind, and each scrape
reads them for ever. ``retire`` adds them up in one file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

#: Kinds of metrics that outlive their process.
LASTING: Final = ("counter", "histogram")
#: Takes the place of a process id in the name of the file with the sums.
RETIRED: Final = "retired"

#: Names of the files that belong to a start of the role, and are of no use to the next one.
OWN_FILES: Final = ("counter_*", "gauge_*", "histogram_*", "summary_*", "lock")

#: Processes that have ended and still have files.
_ended: set[int] = set()


def directory() -> Path | None:
    """Return the folder; None where one process is all there is."""
    name = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(name) if name else None


def prepare() -> None:
    """Make the folder, or rid it of the files of an earlier start: their numbers would never reset.

    The folder itself stays, and whatever else is in it: it may be a mount, or the wrong one.

    Raises:
        PermissionError: There is one of another user, who could read or change what is in it.
    """
    folder = directory()
    if folder is None:
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    for name in OWN_FILES:
        for path in folder.glob(name):
            path.unlink()


def exposition(folder: Path) -> bytes:
    """Return the metrics of all processes, in Prometheus' text format."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    with _locked(folder, fcntl.LOCK_SH):
        return generate_latest(registry)


def retire(process: int) -> None:
    """Add what an ended process has counted to the sums, and remove its files.

    A scrape sees the numbers before or after, but never twice or not at all: Prometheus would take
    that for a restart. While one reads, this is put off until the next process ends: gunicorn's
    main process must not wait for anybody.

    Raises:
        OSError: The folder is gone, or cannot be written to.
        ValueError, struct.error: A file is damaged. The process's files are removed, and its
            numbers are lost: each scrape would fail too.
    """
    folder = directory()
    if folder is None:
        return
    _ended.add(process)
    # At once: what was open in it is not, and a scrape that reads can miss a gauge's file.
    mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]
    try:
        with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            # Out of the set first, and each by itself: what fails once must not fail for ever.
            while _ended:
                _keep(folder, _ended.pop())
    except BlockingIOError:
        return


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, how)
        yield


def _keep(folder: Path, process: int) -> None:
    try:
        for kind in LASTING:
            _add_up(folder, kind, process)
    finally:
        for path in folder.glob(f"*_{process}.db"):
            path.unlink(missing_ok=True)


def _add_up(folder: Path, kind: str, process: int) -> None:
    part = folder / f"{kind}_{process}.db"
    if not part.exists():
        return
    total = folder / f"{kind}_{RETIRED}.db"
    parts = [part, total] if total.exists() else [part]
    merged = MultiProcessCollector.merge([str(path) for path in parts], accumulate=False)  # type: ignore[no-untyped-call]
    unfinished = total.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    sums = MmapedDict(str(unfinished))  # type: ignore[no-untyped-call]
    for metric in merged:
        for sample in metric.samples:
            names, values = list(sample.labels), list(sample.labels.values())
            key = mmap_key(metric.name, sample.name, names, values, metric.documentation)
            sums.write_value(key, sample.value, 0.0)  # type: ignore[no-untyped-call]
    sums.close()  # type: ignore[no-untyped-call]
    unfinished.replace(total)
    part.unlink()

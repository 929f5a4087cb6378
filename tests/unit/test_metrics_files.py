"""The files of the web role's metrics: sums of processes that have ended, and no scrape between."""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from telemetry import metrics_files
from tests.support.scrapes import Scrape, parse

#: What a process of the web role does: it counts, and ends.
COUNTING = """
from prometheus_client import Counter, Gauge, Histogram
Counter("requests_total", "Requests.", ["view"]).labels("page").inc(3)
Histogram("seconds", "Seconds.", ["view"], buckets=(1, 10)).labels("page").observe(5)
Gauge("open", "Open.", multiprocess_mode="livesum").inc()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "web.metrics"
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    monkeypatch.setattr(metrics_files, "_ended", set())
    metrics_files.prepare()
    return folder


def ended_process() -> int:
    """Run a process that counts; returns its id."""
    with subprocess.Popen([sys.executable, "-c", COUNTING]) as process:
        assert process.wait(30) == 0
    return process.pid


def told(folder: Path) -> Scrape:
    return parse(metrics_files.exposition(folder).decode())


def assert_sums(seen: Scrape, processes: int) -> None:
    assert seen.value("requests_total", view="page") == 3 * processes
    assert seen.value("seconds_sum", view="page") == 5 * processes
    assert seen.value("seconds_count", view="page") == processes
    assert seen.value("seconds_bucket", view="page", le="1.0") == 0
    assert seen.value("seconds_bucket", view="page", le="10.0") == processes
    assert seen.value("seconds_bucket", view="page", le="+Inf") == processes


def test_what_ended_processes_have_counted_stays_in_one_file(folder: Path) -> None:
    for number in range(1, 4):
        process = ended_process()
        assert_sums(told(folder), number)
        metrics_files.retire(process)
        seen = told(folder)
        assert_sums(seen, number)
        assert not seen.has("open"), "it is not open any more"
        assert {path.name for path in folder.iterdir()} == {
            "lock", "counter_retired.db", "histogram_retired.db",
        }  # fmt: skip


def test_what_a_living_process_counts_is_left_alone(folder: Path) -> None:
    living, ended = ended_process(), ended_process()
    metrics_files.retire(ended)
    assert (folder / f"counter_{living}.db").exists()
    seen = told(folder)
    assert_sums(seen, 2)
    assert seen.value("open") == 1


def test_while_a_scrape_reads_nothing_is_moved_and_nobody_waits(folder: Path) -> None:
    first, second = ended_process(), ended_process()
    with (folder / "lock").open("w") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        metrics_files.retire(first)
        assert (folder / f"counter_{first}.db").exists()
        seen = told(folder)
        assert_sums(seen, 2)
        assert seen.value("open") == 1, "of the one that lives"
    metrics_files.retire(second)
    assert not list(folder.glob(f"*_{first}.db"))
    assert_sums(told(folder), 2)


def test_a_start_forgets_the_numbers_of_an_earlier_one(folder: Path) -> None:
    metrics_files.retire(ended_process())
    ended_process()
    told(folder)
    metrics_files.prepare()
    assert list(folder.iterdir()) == []
    assert told(folder).values == {}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_start_leaves_the_folder_and_what_else_is_in_it(folder: Path) -> None:
    (folder / "letters.db").touch()
    (folder / "photographs").mkdir()
    before = folder.stat()
    metrics_files.prepare()
    assert {path.name for path in folder.iterdir()} == {"letters.db", "photographs"}
    assert folder.stat().st_ino == before.st_ino


def test_a_folder_of_somebody_else_is_refused(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    folder.rmdir()
    folder.symlink_to(victim)
    with pytest.raises(PermissionError):
        metrics_files.prepare()
    assert (victim / "file").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder, 12345, 12345)
    with pytest.raises(PermissionError):
        metrics_files.prepare()


def test_a_damaged_file_costs_its_process_and_nobody_else(folder: Path) -> None:
    good, bad = ended_process(), ended_process()
    (folder / f"counter_{bad}.db").write_bytes(b"")
    with pytest.raises(struct.error):
        metrics_files.retire(bad)
    assert not list(folder.glob(f"*_{bad}.db")), "a scrape would stumble over them"
    metrics_files.retire(good)
    assert_sums(told(folder), 1)


def test_the_end_of_a_process_does_not_end_the_role(
    folder: Path,
) -> None:
    gunicorn = importlib.import_module("config.gunicorn")
    worker = SimpleNamespace(pid=ended_process())
    shutil.rmtree(folder)
    with structlog.testing.capture_logs() as lines:
        gunicorn.child_exit(None, worker)
    assert [line["event"] for line in lines] == ["metrics_of_a_process_lost"]

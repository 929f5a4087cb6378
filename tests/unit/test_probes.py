"""Probes: what they accept, what they refuse, and that they are cheap."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from telemetry import heartbeat, probes
from tests.support.roles import ROOT


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: object) -> Path:
    path = tmp_path / "heartbeat"
    settings.HEARTBEAT_FILE = str(path)  # type: ignore[attr-defined]
    monkeypatch.setenv("HEARTBEAT_FILE", str(path))
    return path


def test_a_consuming_worker_is_alive_and_ready(file: Path) -> None:
    heartbeat.note(heartbeat.CONSUMING)

    assert probes.main(["live"]) == 0
    assert probes.main(["ready"]) == 0


def test_a_worker_that_waits_for_its_broker_is_alive_but_not_ready(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heartbeat.note(heartbeat.RECONNECTING)

    assert probes.main(["live"]) == 0
    assert probes.main(["ready"]) == 1
    assert "reconnecting, not consuming" in capsys.readouterr().err


def test_a_loop_that_stands_still_is_neither(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(json.dumps({"at": time.time() - 61, "state": "consuming"}))

    assert probes.main(["live"]) == 1
    assert probes.main(["ready"]) == 1
    assert "61 s old: the loop is stuck" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"at": "x", "state": "consuming"}'])
def test_a_file_that_makes_no_sense_is_a_fault(file: Path, content: str) -> None:
    file.write_text(content)

    assert probes.main(["live"]) == 1


def test_a_process_that_stopped_on_purpose_is_not_alive(file: Path) -> None:
    heartbeat.note(heartbeat.TICKING)
    heartbeat.forget()
    heartbeat.forget()

    assert probes.main(["live"]) == 1


def test_a_full_disk_does_not_stop_work(file: Path, settings: object) -> None:
    settings.HEARTBEAT_FILE = "/dev/full/no"  # type: ignore[attr-defined]

    heartbeat.note(heartbeat.CONSUMING)


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path.strip("/")))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (302, 0), (400, 1), (503, 1)])
def test_a_server_is_well_when_it_answers_below_400(
    server: str, status: int, expected: int
) -> None:
    assert probes.main(["http", f"{server}/{status}"]) == expected


def test_a_server_that_does_not_answer_is_not_well() -> None:
    assert probes.main(["http", "http://127.0.0.1:1/"]) == 1


def test_unknown_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert probes.main([]) == 1
    assert "usage" in capsys.readouterr().err


def test_a_probe_needs_nothing_but_the_standard_library(file: Path) -> None:
    heartbeat.note(heartbeat.CONSUMING)
    probe = subprocess.run(
        # Without site-packages and without the folders of the project.
        [sys.executable, "-S", "-I", ROOT / "app" / "telemetry" / "probes.py", "live"],
        check=False,
        capture_output=True,
    )
    assert probe.returncode == 0, probe.stderr

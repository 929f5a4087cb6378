"""The public celery-exporter as a process of this machine, with what the Compose stack gives it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from deploy.embedded.servers import free_port
from tests.support.roles import ROOT, wait_until
from tests.support.scrapes import Scrape, scrape

SERVICE: Final[dict[str, Any]] = yaml.safe_load(
    (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
)["services"]["upstream-exporter"]
#: Whose Celery settings it is given: the folder that Compose mounts.
SETTINGS: Final = ROOT / str(SERVICE["volumes"][0]).split(":", maxsplit=1)[0]
REQUIREMENTS: Final = ROOT / "deploy" / "docker" / "airgap" / "upstream-exporter.txt"
#: It has neither a command nor a module that starts it; the stand-in's image does the same.
START: Final = "from src.cli import cli; cli(auto_envvar_prefix='CE')"


def install(directory: Path) -> None:
    """Install it from PyPI into a folder, with the Celery that its lock file names."""
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet",
            "--no-deps", "--require-hashes", "--ignore-requires-python", "--no-compile",
            "--target", directory, "--requirement", REQUIREMENTS,
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"cannot be installed here: {done.stderr[-500:]}")
    assert not done.returncode, done.stderr


@dataclass
class UpstreamExporter:
    """The running process."""

    process: subprocess.Popen[bytes]
    url: str
    log_file: Path

    @property
    def log(self) -> str:
        """Everything that it has printed."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def scrape(self) -> Scrape:
        """Return what it serves; that takes it two seconds."""
        return scrape(f"{self.url}/metrics")


@contextmanager
def running(
    packages: Path,
    directory: Path,
    broker_url: str,
    *,
    settings: Path | None = SETTINGS,
    patience: float = 30,
) -> Iterator[UpstreamExporter]:
    """Run it until it is told to stop.

    Args:
        packages: Where it is installed.
        directory: For its log.
        broker_url: With the account it is to use.
        settings: The folder with its Celery settings; None: it has none.
        patience: Seconds until it must have answered a scrape.

    Raises:
        AssertionError: It has not.
    """
    port = free_port()
    log_file = directory / f"upstream-exporter-{port}.log"
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {name: str(value) for name, value in SERVICE["environment"].items()}
    environment |= {
        "CE_BROKER_URL": broker_url,
        "PYTHONPATH": os.pathsep.join(str(path) for path in (packages, settings) if path),
        "PYTHONUNBUFFERED": "1",
    }
    command = [*SERVICE["command"], "--host=127.0.0.1", f"--port={port}"]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", START, *command],
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    exporter = UpstreamExporter(process, f"http://127.0.0.1:{port}", log_file)
    try:
        wait_until(lambda: _answers(exporter), timeout=patience, what=f"it answers: {exporter.log}")
        yield exporter
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(exporter: UpstreamExporter) -> bool:
    try:
        exporter.scrape()
    except OSError:
        return False
    return True

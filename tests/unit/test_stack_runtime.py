"""Which runtime is chosen, with a made-up docker on PATH."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.stack import runtime
from deploy.stack.errors import StackError

Docker = Callable[[str], None]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    """Put a docker on PATH that runs the given shell script; there is none before."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))

    def install(script: str) -> None:
        program = programs / "docker"
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)

    return install


WORKING = 'case $1 in info) echo 28.0.0;; compose) echo "2.26.1-4";; esac'


def choose(tmp_path: Path, forced: str = "") -> runtime.Choice:
    return runtime.choose({"RUNTIME": forced}, tmp_path / "runtime")


def test_containers_when_docker_answers(tmp_path: Path, docker: Docker) -> None:
    docker(WORKING)
    assert choose(tmp_path).name == "containers"


def test_embedded_without_docker(tmp_path: Path, docker: Docker) -> None:
    assert choose(tmp_path) == runtime.Choice("embedded", "no Docker engine answers")


def test_embedded_when_the_engine_is_down(tmp_path: Path, docker: Docker) -> None:
    docker("echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    assert choose(tmp_path).name == "embedded"


def test_embedded_when_the_engine_hangs(
    tmp_path: Path, docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "ENGINE_TIMEOUT", 0.2)
    docker("exec /bin/sleep 30")
    assert choose(tmp_path).name == "embedded"


@pytest.mark.parametrize("compose", ["exit 1", "echo 1.29.2", "echo unknown"])
def test_embedded_without_compose_2(tmp_path: Path, docker: Docker, compose: str) -> None:
    docker(f"case $1 in info) echo 28.0.0;; compose) {compose};; esac")
    assert choose(tmp_path).reason == "Docker has no compose plugin (version 2 or later)"


def test_runtime_forces_one(tmp_path: Path, docker: Docker) -> None:
    docker(WORKING)
    assert choose(tmp_path, "embedded").name == "embedded"
    assert choose(tmp_path, "containers").name == "containers"


def test_forcing_containers_without_an_engine_is_an_error(tmp_path: Path, docker: Docker) -> None:
    with pytest.raises(StackError, match=r"no Docker engine answers.*RUNTIME=embedded"):
        choose(tmp_path, "containers")


def test_forcing_an_unknown_runtime_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="containers or embedded, not 'podman'"):
        choose(tmp_path, "podman")


def test_a_running_stack_keeps_its_runtime(tmp_path: Path, docker: Docker) -> None:
    docker(WORKING)
    (tmp_path / "runtime").write_text("embedded\n", encoding="utf-8")
    assert choose(tmp_path).name == "embedded"
    assert choose(tmp_path, "containers").name == "containers"

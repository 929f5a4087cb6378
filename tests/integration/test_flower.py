"""A real Flower: nothing of it can be reached without its password."""

from __future__ import annotations

import base64
import re
import socket
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from flower.urls import handlers
from tornado.web import url as named_route

from deploy.embedded.servers import free_port
from tests.support.roles import ENTRYPOINT, Role, role_environment, running_role

PASSWORD = "tests-only"


@pytest.fixture(scope="module")
def flower(
    role_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Role]:
    directory, port = tmp_path_factory.mktemp("flower"), str(free_port())
    with running_role(
        directory, "flower", FLOWER_PORT=port, **role_settings,
        FLOWER_BASIC_AUTH=f"admin:{PASSWORD},second:{PASSWORD}-2",
    ) as role:  # fmt: skip
        url = f"http://127.0.0.1:{port}/healthcheck"
        role.wait_for_probe("http", url, "FLOWER_BASIC_AUTH")
        yield role


def ask(flower: Role, path: str, method: str = "GET", authorization: str = "") -> int:
    port = int(flower.environment["FLOWER_PORT"])
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Authorization": authorization} if authorization else {}
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def basic(credentials: str) -> str:
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


def addresses() -> list[str]:
    """Return an address for each row of Flower's own table of routes."""
    patterns = [
        (row.regex.pattern if isinstance(row, named_route) else row[0]).rstrip("$")
        for row in handlers
    ]
    return [re.sub(r"\(\.[+*]\)", "flower.js", pattern).rstrip("?") for pattern in patterns]


def test_no_address_answers_without_a_password(flower: Role) -> None:
    paths = [path if path.startswith("/") else "/nowhere" for path in addresses()]
    assert {"/metrics", "/healthcheck", "/static/flower.js", "/login/", "/nowhere"} <= set(paths)
    assert len(paths) == len(handlers)

    answers = {
        (method, path): ask(flower, path, method)
        for path in paths
        for method in ("GET", "POST", "OPTIONS", "HEAD", "PUT")
    }

    assert set(answers.values()) == {401}, {key for key, code in answers.items() if code != 401}


@pytest.mark.parametrize(
    "authorization",
    [
        basic("admin:"),
        basic("admin:other"),
        basic(f"second:{PASSWORD}"),
        basic(f"admin:{PASSWORD},second:{PASSWORD}-2"),
        f"Bearer {PASSWORD}",
        "Basic",
        "Basic not-base64!",
        "Basic \xff",
    ],
)
def test_a_wrong_password_opens_nothing(flower: Role, authorization: str) -> None:
    assert ask(flower, "/metrics", authorization=authorization) == 401


@pytest.mark.parametrize("credentials", [f"admin:{PASSWORD}", f"second:{PASSWORD}-2"])
def test_the_password_opens_everything(flower: Role, credentials: str) -> None:
    for path in ("/", "/workers", "/tasks", "/metrics", "/healthcheck", "/api/task/types"):
        assert ask(flower, path, authorization=basic(credentials)) == 200, path
    assert ask(flower, "/nowhere", authorization=basic(credentials)) == 404


def test_the_body_of_a_stranger_is_not_read(flower: Role) -> None:
    port = int(flower.environment["FLOWER_PORT"])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(
            b"POST /api/task/apply/x HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n"
        )
        # It has not got a byte of the body.
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_a_probe_without_the_password_says_so(flower: Role) -> None:
    url = f"http://127.0.0.1:{flower.environment['FLOWER_PORT']}/healthcheck"
    assert flower.probe("http", url) == 1
    assert flower.probe("http", url, "NO_SUCH_VARIABLE") == 1


def test_flower_does_not_start_without_a_password(
    role_settings: dict[str, str], tmp_path: Path
) -> None:
    refused = subprocess.run(
        [ENTRYPOINT, "flower"],
        env=role_environment(tmp_path, "flower", role_settings),
        check=False,
        capture_output=True,
    )
    assert refused.returncode != 0
    assert b"FLOWER_BASIC_AUTH" in refused.stderr

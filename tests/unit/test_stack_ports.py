"""Port conflicts are found before anything starts, all at once."""

import socket
from collections.abc import Iterator

import pytest

from deploy.stack import ports
from deploy.stack.errors import StackError


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((ports.HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def free() -> int:
    with socket.socket() as probe:
        probe.bind((ports.HOST, 0))
        return int(probe.getsockname()[1])


def test_free_ports_are_fine(free: int) -> None:
    ports.check([ports.WEB], {"WEB_PORT": str(free)})


def test_names_port_purpose_and_variable(taken: int) -> None:
    with pytest.raises(StackError) as caught:
        ports.check([ports.FLOWER], {"FLOWER_PORT": str(taken)})

    assert f"{taken} for Flower is in use" in str(caught.value)
    assert "set FLOWER_PORT in .env" in str(caught.value)


def test_reports_every_conflict_at_once(taken: int) -> None:
    with pytest.raises(StackError) as caught:
        ports.check([ports.WEB, ports.FLOWER], {"WEB_PORT": str(taken), "FLOWER_PORT": str(taken)})

    assert "for the web console and the API is in use" in str(caught.value)
    assert f"{taken} is both WEB_PORT and FLOWER_PORT" in str(caught.value)


def test_a_port_our_own_stack_holds_is_fine(taken: int) -> None:
    ports.check([ports.WEB], {"WEB_PORT": str(taken)}, held=[taken])


@pytest.mark.parametrize("text", ["abc", "0", "70000", "-1", "80 "])
def test_refuses_what_is_not_a_port(text: str) -> None:
    with pytest.raises(StackError, match="WEB_PORT must be a port from 1 to 65535"):
        ports.WEB.number({"WEB_PORT": text})


def test_an_empty_setting_means_the_default() -> None:
    assert ports.WEB.number({"WEB_PORT": ""}) == 8000

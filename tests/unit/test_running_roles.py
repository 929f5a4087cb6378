"""Waiting for a role: what the tests say about one that does not come."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.embedded.servers import free_port
from tests.support.roles import running_relay, running_role


def test_a_role_that_ends_before_it_is_ready_is_not_waited_for(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError) as caught,
        running_relay(tmp_path, name="mistaken", DATABASE_URL="nowhere"),
    ):
        pytest.fail("it runs")

    # 78: a faulty environment, which the log explains.
    assert "mistaken: the probe live cannot succeed, the process has ended with 78" in str(
        caught.value
    )
    assert "DATABASE_URL: " in str(caught.value)


def test_a_role_that_is_not_ready_in_time_is_told_with_its_log(tmp_path: Path) -> None:
    port = str(free_port())
    with (
        running_role(tmp_path, "web", WEB_PORT=port) as role,
        pytest.raises(AssertionError) as caught,
    ):
        role.wait_for_probe("http", f"http://127.0.0.1:{port}/readyz", timeout=0)

    assert "did not succeed within 0 s" in str(caught.value)
    assert str(role.log_file) in str(caught.value)

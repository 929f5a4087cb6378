"""The load generator against a real web service, worker and mail sink."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobs.models import Job
from newsletters.models import Newsletter
from tests.integration.conftest import TOKEN
from tests.support.environment import OUTSIDE
from tests.support.roles import ROOT, Role, Web, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def started(web: Web, *arguments: str, token: str = TOKEN) -> Iterator[subprocess.Popen[str]]:
    """Run it with the interpreter's standard library only, as `make load` does without a venv."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-m", "deploy.load", *arguments],
        cwd=ROOT,
        env={
            **OUTSIDE,
            "WEB_PORT": web.url.rpartition(":")[2],
            "API_TOKENS": f"tester:{token}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        # Not a minute more of it for the tests that follow, whatever this one has found.
        process.kill()
        process.communicate()


def count(table: str, row: str) -> int:
    match = re.search(rf"^{row} +(\d+)", table, re.MULTILINE)
    assert match, table
    return int(match[1])


def test_submits_what_was_planned_and_follows_it_to_its_end(web: Web, worker: Role) -> None:
    options = ["--rate", "6", "--duration", "4", "--mix", "newsletter=1", "--recipients", "5"]
    options += ["--failures", "0.2", "--burst", "10/2", "--patience", "60"]
    with started(web, *options) as process:
        output, errors = process.communicate(timeout=110)

    assert process.returncode == 0, output + errors
    submitted = count(output, "submitted")
    assert submitted + count(output, "held back") == 24 + 10
    assert submitted == count(output, "accepted") == count(output, "succeeded")
    assert count(output, "not ended") == 0
    assert count(output, "mails refused") == submitted
    assert Job.objects.filter(state="succeeded").count() == submitted
    assert Newsletter.objects.count() == submitted
    assert re.search(r"^wait to start +p50 [\d.]+ m?s, p95 [\d.]+ m?s", output, re.MULTILINE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_with_its_table(
    web: Web, transactional_db: None, number: signal.Signals
) -> None:
    options = ["--rate", "5", "--duration", "600", "--mix", "newsletter=1"]
    with started(web, *options) as process:
        wait_until(Job.objects.exists, timeout=30, what="it submits")
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)

    assert process.returncode == 130, output + errors
    assert "Traceback" not in errors
    assert count(output, "accepted") == Job.objects.count() > 0


def test_a_wrong_token_is_an_error(web: Web) -> None:
    with started(web, "--duration", "1", token="x" * 40) as process:
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "answered 401: is API_TOKENS in .env" in errors, output + os.linesep + errors

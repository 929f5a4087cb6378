"""Fixtures of the tests that run the application."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from redis import Redis

from jobs.models import Job
from tests.conftest import broker_is_idle
from tests.support.roles import Role, Web, running_web, running_worker, wait_until

#: The token of tests/test.env.
TOKEN = "tests-only-token-tests-only-token-00"
#: Seconds in which a commit is done that a process had sent before it was frozen.
COMMIT_SECONDS = 0.5


@pytest.fixture(scope="session", autouse=True)
def static_files() -> None:
    """Collect static files, as the image build does: pages name them by their hashes."""
    call_command("collectstatic", interactive=False, verbosity=0)


def wait_for_end(job: Job, timeout: float = 60) -> Job:
    """Wait until a job has its final state; returns it as it is then."""

    def ended() -> bool:
        job.refresh_from_db()
        return not job.is_open

    wait_until(ended, timeout=timeout, what=f"job {job.id} ends")
    return job


def assert_error(response: Any, status: int, code: str) -> None:
    """Check that an answer is an error in the API's one shape."""
    assert response.status_code == status, response.content
    body = response.json()
    assert set(body) == {"code", "message", "detail", "request_id"}
    assert body["code"] == code
    assert body["request_id"]


def post_newsletter(url: str, *addresses: str) -> tuple[int, dict[str, Any]]:
    """Submit a newsletter over HTTP; returns the status and the job."""
    request = urllib.request.Request(
        f"{url}/api/jobs/newsletter",
        data=json.dumps({"subject": "s", "body": "b", "recipients": addresses}).encode(),
        headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return response.status, json.load(response)


@pytest.fixture(scope="session")
def web(role_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """Run a real web process for all tests that only talk to it."""
    with running_web(
        tmp_path_factory.mktemp("web"),
        DATABASE_POOL_SIZE="4",
        BROKER_SOCKET_TIMEOUT_SECONDS="2",
        **role_settings,
    ) as web:
        yield web


@pytest.fixture(scope="module")
def bulk_worker_process(
    role_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Role]:
    """Run a real worker of the queue bulk, but not beside modules that need it without one."""
    with running_worker(
        tmp_path_factory.mktemp("worker-bulk"),
        name="worker-bulk",
        WORKER_SERVICE="worker-bulk",
        WORKER_CONCURRENCY="2",
        **role_settings,
    ) as role:
        yield role


@pytest.fixture
def bulk_worker(
    bulk_worker_process: Role, relay_process: Role, empty_broker: Redis, transactional_db: None
) -> Iterator[Role]:
    """Return the worker, with a relay beside it. Afterwards wait: the tables are emptied then."""
    yield bulk_worker_process
    wait_until(lambda: broker_is_idle(empty_broker), timeout=60, what="the worker is idle")

"""Who runs, as real processes say so: there, standing by, waiting for the broker, gone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

import pytest
from django.utils import timezone

from console import status
from deploy.embedded.servers import RedisServer, free_port, running
from telemetry import presence
from telemetry.models import Presence
from tests.support import environment
from tests.support.roles import Role, running_role, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass
class Crowd:
    """A worker with a broker of its own, two beats, and a web server."""

    worker: Role
    beats: list[Role]
    web: Role
    redis: RedisServer
    redis_runs: ExitStack


@pytest.fixture(scope="module")
def crowd(
    role_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Crowd]:
    directory = tmp_path_factory.mktemp("crowd")
    redis = RedisServer(directory / "redis", free_port(), environment.PASSWORD)
    settings = {
        **role_settings,
        "BROKER_URL": f"{redis.url}/0",
        "WORKER_CONCURRENCY": "1",
        "WEB_PORT": str(free_port()),
        "WEB_CONCURRENCY": "1",
    }
    with ExitStack() as stack, ExitStack() as redis_runs:
        redis_runs.enter_context(running(redis))

        def run(role: str, name: str) -> Role:
            return stack.enter_context(running_role(directory, role, name=name, **settings))

        yield Crowd(
            worker=run("worker", "crowd-worker"),
            beats=[run("beat", "crowd-beat-1"), run("beat", "crowd-beat-2")],
            web=run("web", "crowd-web"),
            redis=redis,
            redis_runs=redis_runs,
        )


def row_of(role: Role) -> Presence | None:
    """Return the row of a role's process; of web, that of its one child."""
    if role.name.endswith("web"):
        return Presence.objects.filter(service=role.name).first()
    return Presence.objects.filter(pid=role.process.pid).first()


def state_of(role: Role) -> str:
    row = row_of(role)
    return "" if row is None else row.state


def wait_for_state(role: Role, state: str) -> None:
    wait_until(lambda: state_of(role) == state, timeout=60, what=f"{role.name} {state}: {role.log}")


def test_everybody_says_what_it_does(crowd: Crowd) -> None:
    wait_for_state(crowd.worker, "consuming")
    wait_for_state(crowd.web, "serving")
    wait_until(
        lambda: sorted(map(state_of, crowd.beats)) == ["standby", "ticking"],
        timeout=60,
        what="one beat leads, one stands by",
    )
    row = row_of(crowd.worker)
    assert row is not None
    assert row.service == "worker"
    assert sorted(row.queues.split(",")) == ["default", "mail", "maintenance"]
    assert row.version

    status.forget()
    facts = {fact.name: fact for fact in status.current().facts}
    assert facts["Beat"].value.startswith("ticked ")
    assert "1 standing by" in facts["Beat"].detail


def test_who_stops_leaves_no_row_and_the_other_beat_leads(crowd: Crowd) -> None:
    wait_until(lambda: "ticking" in map(state_of, crowd.beats), timeout=60, what="a leader")
    leader = next(beat for beat in crowd.beats if state_of(beat) == "ticking")
    other = next(beat for beat in crowd.beats if beat is not leader)
    wait_for_state(crowd.web, "serving")

    assert leader.stop(timeout=30) == 0
    assert crowd.web.stop(timeout=30) == 0
    assert row_of(leader) is None
    assert row_of(crowd.web) is None
    wait_for_state(other, "ticking")


def test_a_worker_that_waits_for_its_broker_says_so(crowd: Crowd) -> None:
    wait_for_state(crowd.worker, "consuming")
    crowd.redis_runs.close()
    wait_for_state(crowd.worker, "reconnecting")

    with running(crowd.redis):
        wait_for_state(crowd.worker, "consuming")


def test_a_killed_worker_is_gone_without_having_said_so(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seconds enough for one write to be late, and few enough to wait for.
    monkeypatch.setattr(presence, "GONE_AFTER_SECONDS", presence.INTERVAL_SECONDS + 1)
    wait_until(lambda: row_of(crowd.worker), timeout=60, what="the worker's row")

    def said() -> str:
        processes = status.read().processes or ()
        return next(one.says for one in processes if one.pid == crowd.worker.process.pid)

    wait_until(lambda: said() != "gone", timeout=60, what="the worker is there")
    crowd.worker.stop(timeout=10, number=signal.SIGKILL)
    wait_until(lambda: said() == "gone", timeout=60, what="the worker is gone")


def test_rows_of_the_long_gone_are_removed_by_the_living() -> None:
    an_hour_ago = timezone.now() - timedelta(hours=1)
    Presence.objects.create(
        name="old", service="old", state="serving", host="h", pid=1,
        started_at=an_hour_ago, seen_at=an_hour_ago,
    )  # fmt: skip
    keeper = presence.Keeper("living")
    keeper.note(presence.SERVING)
    wait_until(
        lambda: not Presence.objects.filter(name="old").exists(), timeout=60, what="it is removed"
    )
    keeper.end()
    assert not Presence.objects.filter(service="living").exists()

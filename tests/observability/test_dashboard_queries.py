"""Every query of every dashboard returns data on a stack that works, or under the fault it shows.

The stack is that of the alerts' tests: one start for both.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from deploy.prometheus import scrape_configuration
from tests.observability import community_queries, hurry
from tests.observability.community_queries import CommunityQuery
from tests.observability.dashboard_queries import (
    NOTHING,
    RANGE_SECONDS,
    STEP_SECONDS,
    Asked,
    Offered,
    annotation_queries,
    as_grafana_sends,
    queries,
    variables,
)
from tests.observability.victim import Victim
from tests.support.prometheus import Prometheus
from tests.support.roles import ROOT

pytestmark = pytest.mark.timeout(240)

#: Seconds in which a query has data once the load has begun; the slowest is that of the canary.
DATA_SECONDS = 60.0
#: Seconds in which a fault shows.
FAULT_SECONDS = 90.0
#: Seconds for which jobs are submitted: longer than all tests of this module take.
LOAD_SECONDS = 600

Place = tuple[str, str, str]
Cause = Callable[[Victim], AbstractContextManager[None]]

# --- What is empty in health ---------------------------------------------------------------------


@contextmanager
def _again_and_again(publish: Callable[[], None], seconds: float) -> Iterator[None]:
    """Publish every so many seconds: a rate sees a counter grow, not that it is born at 5."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(seconds):
            with suppress(OSError):
                publish()

    thread = threading.Thread(target=go_on, name="fault", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _task_fails(victim: Victim) -> Iterator[None]:
    with _again_and_again(partial(victim.publish, "causes.fail", 2, works=False), 1):
        yield


@contextmanager
def _process_dies(victim: Victim) -> Iterator[None]:
    with _again_and_again(partial(victim.publish, "causes.kill_own_process"), 5):
        yield


@contextmanager
def _outlives_its_limit(victim: Victim) -> Iterator[None]:
    victim.publish("causes.sleep", 2, seconds=2.0 * hurry.HARD_LIMIT_SECONDS)
    yield


@contextmanager
def _view_fails(victim: Victim) -> Iterator[None]:
    for _ in range(3):
        assert victim.get("/causes/fail") == 500
    yield


@contextmanager
def _outlives_the_visibility_timeout(victim: Victim) -> Iterator[None]:
    """Run so long that the broker gives the message out once more, with a time limit to match."""
    limits = {"soft_time_limit": 60, "time_limit": 60}
    seconds = 2.5 * hurry.VISIBILITY_TIMEOUT_SECONDS
    victim.publish("causes.sleep", 2, options=limits, seconds=seconds)
    yield


@contextmanager
def _memory_is_limited(victim: Victim) -> Iterator[None]:
    """Give Redis the limit that it has in Compose."""
    victim.redis.config_set("maxmemory", "384mb")
    try:
        yield
    finally:
        victim.redis.config_set("maxmemory", "0")


#: Fault -> what is done, and the queries that only it fills.
FAULTS: Final[Mapping[str, tuple[Cause, tuple[Place, ...]]]] = {
    "a task fails for good": (
        _task_fails,
        (
            ("broker", "Dead letters", "A"),
            ("broker", "Dead letters and quarantined messages", "A"),
            ("overview", "Alerts", "A"),
            ("overview", "Trouble in the last 5 minutes", "A"),
            ("tasks", "Tasks now", "J"),
            ("tasks", "Fail share", "A"),
            ("tasks", "Failures by exception", "A"),
            ("tasks", "Dead letters", "A"),
            ("tasks", "Burn of the tasks' budget", "A"),
            ("annotations", "Alerts", "A"),
        ),
    ),
    "a task's process dies": (
        _process_dies,
        (
            ("tasks", "Retry share", "A"),
            ("tasks", "Time-outs, lost processes, repeated deliveries", "B"),
        ),
    ),
    "a task outlives its time limit": (
        _outlives_its_limit,
        (("tasks", "Time-outs, lost processes, repeated deliveries", "A"),),
    ),
    "a view fails": (_view_fails, (("web-database", "Exceptions", "A"),)),
    "a task outlives the visibility timeout": (
        _outlives_the_visibility_timeout,
        (("tasks", "Time-outs, lost processes, repeated deliveries", "C"),),
    ),
    "the memory of Redis is limited": (
        _memory_is_limited,
        (("broker", "Memory of its limit", "A"), ("broker", "Memory", "C")),
    ),
}
#: Queries that are listed there.
EMPTY_IN_HEALTH: Final = {place for _, places in FAULTS.values() for place in places}

#: What this stack cannot have -> why, and the same query without the condition that keeps it empty.
NOT_HERE: Final[Mapping[Place, tuple[str, Callable[[str], str]]]] = {
    ("workers", "Memory by worker", "B"): (
        "processes of this machine have no memory limit of their own; the metric is 0",
        lambda expression: expression.replace(" > 0", ""),
    ),
    ("workers", "Workers now", "H"): (
        "as above",
        lambda expression: expression.replace(" > 0", " >= 0"),
    ),
    ("annotations", "Deployments", "A"): (
        "nothing is deployed anew while the tests run; whatever runs was deployed once",
        lambda expression: expression.partition(" unless ")[0],
    ),
}

ALL: Final = [*queries(), *annotation_queries()]


# --- The stack -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prometheus(victim: Victim) -> Prometheus:
    """Return the stack's Prometheus."""
    return Prometheus(f"http://127.0.0.1:{victim.stack.values['PROMETHEUS_PORT']}")


@pytest.fixture(scope="module", autouse=True)
def load(victim: Victim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Submit jobs with `make load` until the tests are over; returns what it prints."""
    output = tmp_path_factory.mktemp("load") / "output"
    options = ["--rate", "2", "--duration", str(LOAD_SECONDS), "--failures", "0.05"]
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.load", *options, "--recipients", "5"],
            cwd=ROOT,
            env=victim.stack.values,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            yield output
        finally:
            process.terminate()
            process.wait(timeout=30)


def data(prometheus: Prometheus, asked: Asked, expression: str) -> list[float]:
    """Return the numbers that a query is answered with."""
    sent = as_grafana_sends(
        expression.replace(NOTHING, ""), scrape_configuration.interval(hurry.TIME_SCALE)
    )
    if asked.instant:
        return prometheus.instant(sent)
    return prometheus.over(sent, RANGE_SECONDS, STEP_SECONDS)


def wait_for_data(prometheus: Prometheus, asked: Asked, expression: str, timeout: float) -> None:
    """Ask again and again until there is an answer.

    Raises:
        AssertionError: There was none in so many seconds.
    """
    deadline = time.monotonic() + timeout
    while not data(prometheus, asked, expression):
        assert time.monotonic() < deadline, f"{asked} returns nothing:\n{expression}"
        time.sleep(0.5)


# --- Tests ---------------------------------------------------------------------------------------


def test_what_is_listed_as_empty_exists() -> None:
    places = {asked.place for asked in ALL}
    assert EMPTY_IN_HEALTH | set(NOT_HERE) <= places
    assert not EMPTY_IN_HEALTH & set(NOT_HERE)


@pytest.mark.parametrize("offered", variables(), ids=str)
def test_every_variable_offers_something(offered: Offered, prometheus: Prometheus) -> None:
    query = as_grafana_sends(offered.query, scrape_configuration.interval(hurry.TIME_SCALE))
    deadline = time.monotonic() + DATA_SECONDS
    while not prometheus.label_values(query):
        assert time.monotonic() < deadline, f"{offered} offers nothing: {query}"
        time.sleep(0.5)


@pytest.mark.parametrize(
    "asked",
    [asked for asked in ALL if asked.place not in EMPTY_IN_HEALTH and asked.place not in NOT_HERE],
    ids=str,
)
def test_every_query_returns_data_under_load(asked: Asked, prometheus: Prometheus) -> None:
    wait_for_data(prometheus, asked, asked.expression, DATA_SECONDS)


@pytest.mark.parametrize("asked", [asked for asked in ALL if asked.place in NOT_HERE], ids=str)
def test_what_cannot_be_had_here_runs_and_would_have_data(
    asked: Asked, prometheus: Prometheus
) -> None:
    _, without_condition = NOT_HERE[asked.place]
    assert without_condition(asked.expression) != asked.expression
    data(prometheus, asked, asked.expression)
    wait_for_data(prometheus, asked, without_condition(asked.expression), DATA_SECONDS)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fills_what_is_empty_in_health(
    fault: str, victim: Victim, prometheus: Prometheus
) -> None:
    cause, places = FAULTS[fault]
    missing = [asked for asked in ALL if asked.place in places]
    with cause(victim):
        deadline = time.monotonic() + FAULT_SECONDS
        # Once seen is enough: what a rule records is over soon after its fault.
        while missing := [
            asked for asked in missing if not data(prometheus, asked, asked.expression)
        ]:
            assert time.monotonic() < deadline, [str(asked) for asked in missing]
            time.sleep(0.5)


def community_data(prometheus: Prometheus, asked: CommunityQuery) -> list[float]:
    """Return the numbers that a query of a community dashboard is answered with."""
    sent = as_grafana_sends(
        asked.expression, scrape_configuration.interval(hurry.TIME_SCALE), community_queries.CHOSEN
    )
    return prometheus.over(sent, RANGE_SECONDS, STEP_SECONDS)


@pytest.mark.parametrize("name", community_queries.VARIABLES)
def test_the_variables_of_community_dashboards_offer_what_we_have(
    name: str, prometheus: Prometheus
) -> None:
    query = as_grafana_sends(
        community_queries.VARIABLES[name],
        scrape_configuration.interval(hurry.TIME_SCALE),
        community_queries.CHOSEN,
    )
    offered = prometheus.label_values(query)
    chosen = community_queries.CHOSEN[name]
    assert offered
    assert chosen == ".*" or chosen in offered


@pytest.mark.parametrize(
    "asked", [asked for asked in community_queries.QUERIES if not asked.needs], ids=str
)
def test_community_dashboards_draw_under_load(
    asked: CommunityQuery, prometheus: Prometheus
) -> None:
    deadline = time.monotonic() + DATA_SECONDS
    while not community_data(prometheus, asked):
        assert time.monotonic() < deadline, f"{asked} returns nothing:\n{asked.expression}"
        time.sleep(0.5)


def test_community_dashboards_draw_failures(victim: Victim, prometheus: Prometheus) -> None:
    missing = [asked for asked in community_queries.QUERIES if asked.needs]
    assert {asked.needs for asked in missing} == {"a failure"}
    with _task_fails(victim):
        deadline = time.monotonic() + FAULT_SECONDS
        while missing := [asked for asked in missing if not community_data(prometheus, asked)]:
            assert time.monotonic() < deadline, [str(asked) for asked in missing]
            time.sleep(0.5)


def test_the_load_was_accepted(load: Path) -> None:
    lines = load.read_text().splitlines()
    assert lines
    assert "Traceback" not in "\n".join(lines)
    assert int(lines[-1].split("accepted ")[1].split()[0]) > 0

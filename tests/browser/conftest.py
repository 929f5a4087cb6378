"""A stack as `make up` starts it, a browser, and visits that fail for anything that goes wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, StorageState

from tests.browser.program import find_browser, running_browser
from tests.browser.visit import Visit
from tests.support import embedded_stack
from tests.support.embedded_stack import EmbeddedStack

VISITS: pytest.StashKey[list[Visit]] = pytest.StashKey()

#: A telephone and a large screen, in CSS pixels.
WIDTHS = (375, 1600)
HEIGHT = 900

Visitor = Callable[..., Visit]


# For this package and no longer: its workers would take the work of other tests' stacks, and a
# running Playwright keeps Django from using the database in this thread.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Run the browser of this machine."""
    path, fault = find_browser()
    if fault and not os.environ.get("CI"):
        pytest.skip(fault)
    assert not fault, f"CI must run the tests in a browser, but: {fault}"
    with running_browser(path) as browser:
        yield browser


@pytest.fixture(scope="package")
def stack(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """Run everything that `make up` runs, on ports of its own."""
    with embedded_stack.running(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(scope="package")
def session(browser: Browser, stack: EmbeddedStack) -> StorageState:
    """Sign in once; returns the cookies."""
    context = browser.new_context()
    visit = Visit(context, stack.url)
    visit.open("/sign-in?next=/")
    visit.sign_in(stack.password)
    visit.page.wait_for_url(f"{stack.url}/")
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def visitor(
    browser: Browser, stack: EmbeddedStack, session: StorageState, request: pytest.FixtureRequest
) -> Iterator[Visitor]:
    """Return what begins a visit: ``visitor(width=..., dark=..., signed_in=...)``."""
    visits = request.node.stash.setdefault(VISITS, [])

    def begin(*, width: int = WIDTHS[1], dark: bool = False, signed_in: bool = True) -> Visit:
        context = browser.new_context(
            viewport={"width": width, "height": HEIGHT},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            storage_state=session if signed_in else None,
        )
        context.tracing.start(snapshots=True)
        visit = Visit(context, stack.url)
        visits.append(visit)
        return visit

    yield begin
    for visit in visits:
        visit.context.close()


@pytest.fixture
def visit(visitor: Visitor) -> Visit:
    """Begin a visit at a large screen."""
    return visitor()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test for whatever its browser complained of."""
    result = yield
    for visit in item.stash.get(VISITS, []):
        visit.page.evaluate("0")  # everything before it has been reported then
        if visit.faults:
            pytest.fail("\n".join(["the browser complained:", *visit.faults]), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Save what was on the screen when a test failed, and say where."""
    report = yield
    if report.when == "call" and report.failed and isinstance(item, pytest.Function):
        factory = item._request.getfixturevalue("tmp_path_factory")
        for visit in item.stash.get(VISITS, []):
            files = visit.save(factory.mktemp("failure"))
            lines = [f"at {visit.page.url}", *visit.faults, *map(str, files)]
            lines.append(f"look at it: .venv/bin/playwright show-trace {files[-1]}")
            report.sections.append(("browser", "\n".join(lines)))
    return report

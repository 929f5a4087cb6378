"""Pages that stay up to date by themselves, whatever is in the way."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, WebSocketRoute, expect

from tests.browser.conftest import WIDTHS, Visitor
from tests.browser.forms import send_newsletter
from tests.browser.visit import END_SECONDS, Visit
from tests.support.embedded_stack import EmbeddedStack

pytestmark = pytest.mark.timeout(300)

PATIENCE = END_SECONDS * 1000
#: What a browser says by itself while a server is away.
SERVER_IS_AWAY = "WebSocket|ERR_|Failed to load|htmx:"

Submit = Callable[[], str]


@pytest.fixture
def submit(stack: EmbeddedStack) -> Submit:
    """Return what has a program elsewhere send a newsletter; it returns the job's id."""

    def send() -> str:
        newsletter = {"subject": "s", "body": "b", "recipients": ["ada@example.com"]}
        return str(stack.ask("/api/jobs/newsletter", newsletter)["id"])

    return send


def row_of(page: Page, job_id: str) -> Locator:
    """Return a job's row in the list."""
    return page.get_by_role("row").filter(has=page.locator(f"a[href='/jobs/{job_id}']"))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_list_shows_what_was_started_elsewhere(
    visitor: Visitor, submit: Submit, width: int
) -> None:
    visit = visitor(width=width)
    visit.open("/")
    expect(visit.page.locator("[data-live-status]").first).to_have_text("live")
    visit.mark()
    row = row_of(visit.page, submit())

    visit.wait_for_state("succeeded", within=row)
    assert visit.is_marked()


def block_sockets(visit: Visit) -> None:
    """Be in a network that lets no WebSocket through."""

    def refuse(socket: WebSocketRoute) -> None:
        socket.close(code=1011, reason="blocked")

    visit.context.route_web_socket(re.compile(r".*/ws/.*"), refuse)


def test_without_websockets_pages_ask_again(visitor: Visitor, submit: Submit) -> None:
    visit = visitor()
    block_sockets(visit)
    visit.open("/")
    send_newsletter(visit.page)
    visit.page.wait_for_url("**/jobs/*")
    visit.mark()
    visit.wait_for_state("succeeded")
    assert visit.is_marked()

    visit.open("/")
    visit.mark()
    expect(visit.page.locator("[data-live-status]").first).to_have_text("polling", timeout=PATIENCE)
    visit.wait_for_state("succeeded", within=row_of(visit.page, submit()))
    assert visit.is_marked()


def test_pages_outlive_a_restart_of_the_server(
    visit: Visit, stack: EmbeddedStack, submit: Submit
) -> None:
    visit.open("/")
    status = visit.page.locator("[data-live-status]").first
    expect(status).to_have_text("live", timeout=PATIENCE)
    visit.mark()
    with visit.expected(SERVER_IS_AWAY):
        stack.stop("web")
        try:
            expect(status).not_to_have_text("live", timeout=PATIENCE)
        finally:
            stack.start("web")
        expect(status).to_have_text("live", timeout=PATIENCE)
        visit.wait_for_state("succeeded", within=row_of(visit.page, submit()))
    assert visit.is_marked()

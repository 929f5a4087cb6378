"""What somebody sees who comes for the first time. Must be the first file of this folder."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import WIDTHS, Visitor
from tests.browser.visit import END_SECONDS, Visit
from tests.support.embedded_stack import EmbeddedStack

pytestmark = pytest.mark.timeout(300)


def test_an_empty_console_says_what_to_do_first(visit: Visit, stack: EmbeddedStack) -> None:
    assert stack.ask("/api/jobs")["items"] == [], "another file of this folder has run before"
    visit.open("/")

    expect(visit.page.get_by_text("No jobs yet")).to_be_visible()


def test_a_stack_that_has_just_started_says_that_all_is_well(visit: Visit) -> None:
    page = visit.open("/")
    visit.mark()

    # Processes that have just started have not all said so yet; the page asks by itself.
    expect(page.locator("#headline.good")).to_be_visible(timeout=END_SECONDS * 1000)
    assert visit.is_marked()


def test_a_wrong_password_is_explained_and_the_right_one_lets_in(
    visitor: Visitor, stack: EmbeddedStack
) -> None:
    for width in WIDTHS:
        visit = visitor(width=width, signed_in=False)
        visit.open("/")
        visit.sign_in("wrong")
        expect(visit.page.get_by_role("alert")).to_contain_text("correct username and password")
        assert not visit.is_too_wide()
        visit.sign_in(stack.password)
        expect(visit.page).to_have_url(f"{stack.url}/")
        expect(visit.page.get_by_role("button", name="Sign out")).to_be_visible()

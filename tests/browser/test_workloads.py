"""Start each kind of work in a browser, watch it end, stop it, and see why it failed."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import WIDTHS, Visitor
from tests.browser.forms import (
    LONG_PLAN,
    corrupt_picture,
    picture,
    send_newsletter,
    send_picture,
    send_plan,
)
from tests.browser.visit import END_SECONDS, Visit

pytestmark = pytest.mark.timeout(300)

#: The button that ends a job early.
STOP = re.compile("stop|cancel", re.IGNORECASE)
IS_DRAWN = "picture => picture.complete && picture.naturalWidth > 0"

both_widths = pytest.mark.parametrize("width", WIDTHS)


def watch(visit: Visit, state: str) -> Locator:
    """Wait on a job's page for its end, without loading it again; returns the main part."""
    visit.mark()
    visit.wait_for_state(state)
    assert visit.is_marked(), "the page was loaded again"
    return visit.page.locator("main")


def expect_pictures(page: Page, selector: str) -> None:
    """Wait until a picture of the page has been drawn."""
    pictures = page.locator(selector)
    expect(pictures.first).to_be_visible()
    for each in pictures.all():
        each.scroll_into_view_if_needed()
        page.wait_for_function(
            "each => each.complete && each.naturalWidth > 0", arg=each.element_handle()
        )


@both_widths
def test_a_newsletter_is_sent(visitor: Visitor, width: int) -> None:
    visit = visitor(width=width)
    visit.open("/")
    send_newsletter(visit.page)

    main = watch(visit, "succeeded")
    expect(main).to_contain_text(re.compile(r"2\s*(of|/)\s*2"))
    assert not visit.is_too_wide()


@both_widths
def test_a_picture_becomes_renditions(visitor: Visitor, width: int) -> None:
    visit = visitor(width=width)
    visit.open("/")
    send_picture(visit.page, "gradient.jpg", picture())

    watch(visit, "succeeded")
    expect_pictures(visit.page, "main img")
    with visit.page.expect_download() as download:
        visit.page.locator("main a[download]").first.click()
    assert download.value.path().stat().st_size
    assert not visit.is_too_wide()


@both_widths
def test_a_plan_says_how_many_workers_are_needed(visitor: Visitor, width: int) -> None:
    visit = visitor(width=width)
    visit.open("/")
    send_plan(visit.page)

    main = watch(visit, "succeeded")
    expect_pictures(visit.page, "main img[src*='plot.svg']")
    expect(main.get_by_role("table").first).to_be_visible()
    assert not visit.is_too_wide()


@both_widths
def test_a_job_is_stopped(visitor: Visitor, width: int) -> None:
    visit = visitor(width=width)
    visit.open("/")
    send_plan(visit.page, **LONG_PLAN)
    visit.page.get_by_role("button", name=STOP).click()

    watch(visit, "cancelled")
    expect(
        visit.page.get_by_role("button", name=re.compile("stop|cancel", re.IGNORECASE))
    ).to_have_count(0)


@both_widths
def test_mail_that_is_refused_is_explained(visitor: Visitor, width: int) -> None:
    visit = visitor(width=width)
    visit.open("/")
    send_newsletter(visit.page, "ada@example.com", "reject-550@example.com")

    main = watch(visit, "failed")
    expect(main.get_by_role("row", name="reject-550@example.com")).to_contain_text("550")
    assert not visit.is_too_wide()


@both_widths
def test_a_corrupt_picture_is_explained(visitor: Visitor, width: int) -> None:
    visit = visitor(width=width)
    visit.open("/")
    with visit.expected("422"):
        send_picture(visit.page, "half.jpg", corrupt_picture())
        explanation = visit.page.get_by_role("alert")
        expect(explanation).to_be_visible(timeout=END_SECONDS * 1000)

    expect(explanation).to_contain_text(re.compile("picture|image|file", re.IGNORECASE))
    assert not visit.is_too_wide()


def test_a_fault_in_a_form_is_explained_and_nothing_entered_is_gone(visit: Visit) -> None:
    visit.open("/")
    visit.page.get_by_label("Subject").fill("Kept")
    visit.page.get_by_label("Recipients").fill("nonsense")
    with visit.expected("422"):
        visit.page.locator("form", has=visit.page.get_by_label("Recipients")).get_by_role(
            "button"
        ).first.click()
        expect(visit.page.get_by_role("alert")).to_contain_text("mail address")

    expect(visit.page.get_by_label("Subject")).to_have_value("Kept")
    expect(visit.page.get_by_label("Recipients")).to_have_value("nonsense")

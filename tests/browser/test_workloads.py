"""Start each kind of work in a browser, watch it end, stop it, and see why it failed."""

from __future__ import annotations

import re

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import WIDTHS, Visitor
from tests.browser.forms import (
    LONG_PLAN,
    corrupt_picture,
    form_with,
    picture,
    send_newsletter,
    send_picture,
    send_plan,
)
from tests.browser.visit import END_SECONDS, Visit

pytestmark = pytest.mark.timeout(300)

#: The button that ends a job early.
STOP = re.compile("stop|cancel", re.IGNORECASE)
#: Recipients that take longer than a page takes to load.
SECONDS_OF_MAIL = 800
IS_DRAWN = "picture => picture.complete && picture.naturalWidth > 0"

both_widths = pytest.mark.parametrize("width", WIDTHS)


def watch(visit: Visit, state: str) -> Locator:
    """Wait on a job's page for its end, without loading it again; returns the main part."""
    visit.page.wait_for_url("**/jobs/*")
    visit.mark()
    visit.wait_for_state(state)
    assert visit.is_marked(), "the page was loaded again"
    assert visit.is_too_wide() == []
    return visit.page.locator("main")


def expect_pictures(page: Page, selector: str) -> None:
    """Wait until a picture of the page has been drawn."""
    pictures = page.locator(selector)
    expect(pictures.first).to_be_visible()
    for each in pictures.all():
        each.scroll_into_view_if_needed()
        page.wait_for_function(IS_DRAWN, arg=each.element_handle())


@both_widths
def test_a_newsletter_is_sent(visitor: Visitor, width: int) -> None:
    visit = visitor(width=width)
    visit.open("/")
    form_with(visit.page, "invented").locator("[name=invented]").fill(str(SECONDS_OF_MAIL))
    send_newsletter(visit.page)
    visit.page.wait_for_url("**/jobs/*")
    assert visit.page.locator("[data-live]").count(), "it ended before it could be watched"

    main = watch(visit, "succeeded")
    number = main.locator("[data-field=total]").inner_text()
    expect(main.locator("[data-field=done]")).to_have_text(number)
    progress = main.locator("progress")
    assert progress.get_attribute("value") == progress.get_attribute("max")


@pytest.mark.parametrize(("width", "file"), [(WIDTHS[0], "gradient.jpg"), (WIDTHS[1], "")])
def test_a_picture_becomes_renditions(visitor: Visitor, width: int, file: str) -> None:
    """A person's own one, or the sample."""
    visit = visitor(width=width)
    visit.open("/")
    send_picture(visit.page, file, picture())

    main = watch(visit, "succeeded")
    expect(main).to_contain_text(file or "sample")
    expect_pictures(visit.page, "main img")
    with visit.page.expect_download() as download:
        main.locator("a[download]").first.click()
    with Image.open(download.value.path()) as rendition:
        assert rendition.format in ("JPEG", "WEBP")


@both_widths
def test_a_plan_says_how_many_workers_are_needed(visitor: Visitor, width: int) -> None:
    visit = visitor(width=width)
    visit.open("/")
    send_plan(visit.page)

    main = watch(visit, "succeeded")
    expect_pictures(visit.page, "main img[src*='plot.svg']")
    expect(main.get_by_role("table").first).to_be_visible()


@both_widths
def test_a_job_is_stopped(visitor: Visitor, width: int) -> None:
    visit = visitor(width=width)
    visit.open("/")
    send_plan(visit.page, **LONG_PLAN)
    visit.page.wait_for_url("**/jobs/*")
    visit.page.get_by_role("button", name=STOP).click()

    watch(visit, "cancelled")
    expect(
        visit.page.get_by_role("button", name=re.compile("stop|cancel", re.IGNORECASE))
    ).to_have_count(0)


@pytest.mark.parametrize(
    ("width", "others", "state"),
    [(WIDTHS[0], [], "failed"), (WIDTHS[1], ["ada@example.com"], "succeeded")],
)
def test_mail_that_is_refused_is_explained(
    visitor: Visitor, width: int, others: list[str], state: str
) -> None:
    """A newsletter that reaches nobody has failed; who was not reached is said in any case."""
    visit = visitor(width=width)
    visit.open("/")
    send_newsletter(visit.page, "reject-550@example.com", *others)

    main = watch(visit, state)
    expect(main.get_by_role("row", name="reject-550@example.com")).to_contain_text("550")
    expect(main.get_by_role("alert")).to_have_count(0 if others else 1)


@both_widths
def test_a_corrupt_picture_is_explained(visitor: Visitor, width: int) -> None:
    visit = visitor(width=width)
    visit.open("/")
    with visit.expected("422"):
        send_picture(visit.page, "half.jpg", corrupt_picture())
        explanation = visit.page.get_by_role("alert")
        expect(explanation).to_be_visible(timeout=END_SECONDS * 1000)

    expect(explanation).to_contain_text(re.compile("picture|image|file", re.IGNORECASE))


def test_a_fault_in_a_form_is_explained_and_nothing_entered_is_gone(visit: Visit) -> None:
    page = visit.open("/")
    page.get_by_label("Subject").fill("Kept")
    with visit.expected("422"):
        send_newsletter(page, "nonsense")
        expect(page.get_by_role("alert")).to_contain_text("mail address")

    expect(page.get_by_label("Subject")).to_have_value("Kept")
    expect(page.get_by_label("Recipients")).to_have_value("nonsense")


@both_widths
def test_something_is_broken_on_purpose_and_mended(visitor: Visitor, width: int) -> None:
    visit = visitor(width=width)
    panel = visit.open("/").locator("#faults")
    visit.mark()
    panel.locator("#fault-refuse-mail").click()
    expect(panel.get_by_text(re.compile(r"\d+ s left"))).to_be_visible()

    panel.locator("#fault-stop-all").click()
    expect(panel.get_by_text(re.compile(r"\d+ s left"))).to_have_count(0)
    assert visit.is_marked()
    assert visit.is_too_wide() == []

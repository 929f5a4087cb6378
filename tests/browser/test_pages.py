"""What holds for each page: it fits, it can be used without a mouse and without eyes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, StorageState, expect

from tests.browser.conftest import WIDTHS, Visitor
from tests.browser.forms import picture, send_newsletter, send_picture, send_plan
from tests.browser.visit import Visit
from tests.support.embedded_stack import EmbeddedStack

pytestmark = pytest.mark.timeout(300)

ACCESSIBILITY = (Path(__file__).parent / "accessibility.js").read_text(encoding="utf-8")
#: Stops of the Tab key after which a page counts as a maze.
MOST_STOPS = 80
#: Brightness of the paper, of 255.
DARK, LIGHT = 64, 192


BAD_PAGE = """
<h1>Bad</h1><h3>Skips a level</h3>
<label for="nothing">Nobody's</label><input id="twice"><img id="twice" src="data:,">
<button style="height: 10px; padding: 0; border: 0"></button>
<table><tr><td>1</td></tr></table>
<p style="color: #ccc">Pale</p>
"""


@pytest.fixture(scope="package")
def jobs(browser: Browser, stack: EmbeddedStack, session: StorageState) -> dict[str, str]:
    """Run a job of each kind to its end; returns the paths of their pages."""
    context = browser.new_context(storage_state=session)
    visit = Visit(context, stack.url)
    starts: list[tuple[str, Callable[[Page], None], str]] = [
        ("newsletter", send_newsletter, "succeeded"),
        ("refused", lambda page: send_newsletter(page, "reject-550@example.com"), "failed"),
        ("images", lambda page: send_picture(page, "gradient.jpg", picture()), "succeeded"),
        ("capacity", send_plan, "succeeded"),
    ]
    paths = {}
    for name, start, state in starts:
        visit.open("/")
        start(visit.page)
        visit.page.wait_for_url("**/jobs/*")
        visit.wait_for_state(state)
        paths[name] = f"/jobs/{visit.job_id()}"
    context.close()
    return paths


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "name", ["sign-in", "console", "newsletter", "refused", "images", "capacity"]
)
def test_a_page_fits_and_can_be_read_by_everybody(
    visitor: Visitor, jobs: dict[str, str], name: str, width: int, scheme: str
) -> None:
    visit = visitor(width=width, dark=scheme == "dark", signed_in=name != "sign-in")
    page = visit.open({"sign-in": "/sign-in", "console": "/"}.get(name) or jobs[name])

    assert visit.is_too_wide() == []
    assert page.evaluate(ACCESSIBILITY) == []
    if name != "sign-in":
        assert page.locator("[aria-live]:not([aria-live=off]), [role=status]").count()


def test_the_check_sees_what_it_is_there_to_see(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content(BAD_PAGE)
    faults = "\n".join(page.evaluate(ACCESSIBILITY))
    page.close()

    for fault in (
        "does not say its language", "no title", "0 main elements", "without a name: <input",
        "without a name: <button", "without alt", "table without headers", "h3 after h1",
        "id is not unique", "for names nothing", "too small to hit: <button", "contrast 1.6",
    ):  # fmt: skip
        assert fault in faults


def test_dark_is_dark_and_light_is_light(visitor: Visitor) -> None:
    tones = {}
    for dark in (False, True):
        page = visitor(dark=dark, signed_in=False).open("/sign-in")
        pixel = page.screenshot(clip={"x": 2, "y": 890, "width": 1, "height": 1})
        tones[dark] = brightness(pixel)
    assert tones[True] < DARK
    assert tones[False] > LIGHT


def brightness(png: bytes) -> int:
    """Return how bright a pixel is, 0 to 255."""
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("L").tobytes()[0]


def focused(page: Page) -> dict[str, Any]:
    """Return what has the focus, and whether a person can see that it has."""
    answer: dict[str, Any] = page.evaluate(
        """() => {
          const at = document.activeElement, style = getComputedStyle(at);
          return {
            tag: at.tagName, name: at.getAttribute("name"), href: at.getAttribute("href"),
            text: at.textContent.trim(),
            in_newsletter: Boolean(at.closest("form")?.querySelector("[name=recipients]")),
            visible: style.outlineStyle !== "none" || style.boxShadow !== "none",
          };
        }"""
    )
    return answer


def tab_to(page: Page, **wanted: object) -> None:
    """Press Tab until something has the focus; each stop on the way must be visible."""
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        now = focused(page)
        assert now["visible"], f"nobody sees that this has the focus: {now}"
        if wanted.items() <= now.items():
            return
    raise AssertionError(f"{MOST_STOPS} stops, and none was {wanted}")


def test_a_newsletter_can_be_sent_with_the_keyboard_alone(visit: Visit) -> None:
    page = visit.open("/")
    page.keyboard.press("Tab")
    assert str(focused(page)["href"]).startswith("#"), "the first stop skips the top of the page"
    page.keyboard.press("Enter")

    tab_to(page, name="recipients")
    page.keyboard.press("Control+A")
    page.keyboard.type("keyboard@example.com")
    tab_to(page, tag="BUTTON", in_newsletter=True)
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/*")
    visit.wait_for_state("succeeded")


def test_the_documentation_of_the_api_opens(visit: Visit) -> None:
    page = visit.open("/api/docs")

    expect(page.get_by_role("heading", name="Celeriac").first).to_be_visible()
    expect(page.get_by_text("/api/jobs/newsletter").first).to_be_visible()


def test_the_pages_of_the_admin_open(visit: Visit, jobs: dict[str, str]) -> None:
    page = visit.open("/admin/")
    links = page.locator("#content-main th a[href]").evaluate_all(
        "links => links.map(link => link.getAttribute('href'))"
    )
    assert len(links) > 8
    for link in sorted(set(links)):
        visit.open(link)
        expect(page.locator("#content h1")).to_be_visible()

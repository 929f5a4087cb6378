"""Takes the pictures of the console that the documentation shows: `make screenshots`.

Runs a stack of its own, starts the same jobs each time, and photographs. What differs from run to
run (moments, ids) is small; compare two versions of a picture by eye.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, Page, StorageState, expect

from tests.browser.forms import LONG_PLAN, send_newsletter, send_picture, send_plan
from tests.browser.program import find_browser, running_browser
from tests.browser.visit import END_SECONDS, Visit
from tests.support import embedded_stack
from tests.support.embedded_stack import EmbeddedStack
from tests.support.roles import ROOT

Scheme = Literal["light", "dark"]

FOLDER = ROOT / "docs" / "pictures"
#: CSS pixels, and as many on the picture.
WIDE, NARROW = (1440, 900), (375, 812)
#: How much of a page is shown: the jobs of the first page too.
WIDE_HEIGHT, NARROW_HEIGHT = 1200, 1624
#: A page of documentation with six pictures should open fast, and a clone should stay small.
LARGEST_BYTES = 200_000
#: Tried in turn until a picture is small enough.
COLOURS = (256, 128, 64, 32)
ARE_DRAWN = "[...document.images].every(image => image.loading === 'lazy' || image.complete)"
#: Moments that differ each time.
SET_CLOCK = "document.querySelectorAll('time').forEach(time => { time.textContent = 'just now' })"


def small(png: bytes, height: int) -> bytes:
    """Return a picture with as many colours as fit into ``LARGEST_BYTES``, cut to a height.

    Raises:
        ValueError: It is too large with the fewest.
    """
    with Image.open(io.BytesIO(png)) as image:
        whole = image.convert("RGB").crop(
            (0, 0, image.width, min(image.height, height or image.height))
        )
    for colours in COLOURS:
        file = io.BytesIO()
        # Without dithering: even areas stay even, and so they are small.
        whole.quantize(colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if file.tell() <= LARGEST_BYTES:
            return file.getvalue()
    raise ValueError(f"{whole.width} x {whole.height} pixels are too many for a small file")


class Photographer:
    """Visits pages and writes their pictures into a folder."""

    def __init__(self, browser: Browser, site: str, folder: Path, session: StorageState) -> None:
        self._browser = browser
        self._site = site
        self._folder = folder
        self._session = session

    def visit(self, size: tuple[int, int] = WIDE, scheme: Scheme = "light") -> Visit:
        """Begin a visit."""
        context = self._browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            device_scale_factor=1,
            color_scheme=scheme,
            reduced_motion="reduce",
            storage_state=self._session,
        )
        return Visit(context, self._site)

    def take(self, name: str, visit: Visit, height: int) -> None:
        """Write the picture of the top of a page, so many pixels at most, and end the visit."""
        page = visit.page
        page.wait_for_function(ARE_DRAWN)
        page.evaluate(SET_CLOCK)
        picture = page.screenshot(full_page=True, animations="disabled", caret="hide")
        path = self._folder / f"{name}.png"
        path.write_bytes(small(picture, height))
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")  # noqa: T201 - a command
        visit.context.close()


def sign_in(browser: Browser, stack: EmbeddedStack) -> StorageState:
    """Return the cookies of somebody who has signed in."""
    visit = Visit(browser.new_context(), stack.url)
    visit.open("/sign-in?next=/")
    visit.sign_in(stack.password)
    visit.page.wait_for_url(f"{stack.url}/")
    state = visit.context.storage_state()
    visit.context.close()
    return state


def take_all(photographer: Photographer) -> None:
    """Start the jobs in turn and take every picture."""
    visit = photographer.visit()
    starts: list[tuple[str, Callable[[Page], None], str]] = [
        ("newsletter", lambda page: send_newsletter(page, *readers()), "succeeded"),
        ("images", send_picture, "succeeded"),
        ("capacity", send_plan, "succeeded"),
        ("long", lambda page: send_plan(page, **LONG_PLAN), "running"),
    ]
    paths = {}
    for name, start, state in starts:
        visit.open("/")
        start(visit.page)
        visit.page.wait_for_url("**/jobs/*")
        visit.wait_for_state(state)
        paths[name] = f"/jobs/{visit.job_id()}"

    first_pages: list[tuple[str, tuple[int, int], Scheme]] = [
        ("console-light", WIDE, "light"),
        ("console-dark", WIDE, "dark"),
        ("console-narrow", NARROW, "light"),
    ]
    for name, size, scheme in first_pages:
        console = photographer.visit(size, scheme)
        console.open("/")
        expect(console.page.locator("[data-live-status]").first).to_have_text("live")
        # Processes that have just started have not all said so yet.
        expect(console.page.locator("#headline.good")).to_be_visible(timeout=END_SECONDS * 1000)
        photographer.take(name, console, WIDE_HEIGHT if size is WIDE else NARROW_HEIGHT)
    visit.page.get_by_role("button", name=re.compile("cancel", re.IGNORECASE)).click()
    visit.wait_for_state("cancelled")
    visit.context.close()

    for name in ("newsletter", "images", "capacity"):
        job = photographer.visit()
        job.open(paths[name])
        photographer.take(f"job-{name}", job, WIDE_HEIGHT)


def readers() -> list[str]:
    """Return the recipients of the newsletter: some of them are refused."""
    names = ["ada", "grace", "katherine", "margaret", "radia", "barbara"]
    return [f"{name}@example.com" for name in names] + [
        f"reject-550-{number}@example.com" for number in range(2)
    ]


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="make screenshots", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the pictures go")
    folder: Path = parser.parse_args().folder.resolve()
    path, fault = find_browser()
    if fault:
        print(fault, file=sys.stderr)  # noqa: T201
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    with (
        running_browser(path) as browser,
        tempfile.TemporaryDirectory() as directory,
        embedded_stack.running(Path(directory)) as stack,
    ):
        take_all(Photographer(browser, stack.url, folder, sign_in(browser, stack)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

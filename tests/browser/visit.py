"""One person's visit to the console, in a browser that notes whatever is wrong with a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import (
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    WebError,
    WebSocket,
    expect,
)

#: Seconds in which a job of the tests ends, on a machine that does other things too.
END_SECONDS = 90.0
# Pages share two processors with the whole stack; the usual 5 s are for idle machines.
expect.set_options(timeout=END_SECONDS * 1000)
#: What the browser says of a request that it gave up because the person went to another page.
LEFT_THE_PAGE = "net::ERR_ABORTED"
#: A page that is loaded again, or another one, does not have it.
MARK = "window.sameVisit"


def origin_of(url: str) -> str:
    """Return host and port: pages and WebSockets of one site have the same."""
    return urlsplit(url).netloc


@dataclass
class Visit:
    """A page in a browser context of its own, and what went wrong in it.

    Attributes:
        faults: Messages of the browser's console that are errors or warnings, uncaught errors,
            requests that failed, and requests to other sites. Must be empty at the end.
    """

    context: BrowserContext
    site: str
    faults: list[str] = field(default_factory=list)
    page: Page = field(init=False)

    def __post_init__(self) -> None:
        """Listen before the first page is opened."""
        self.context.on("console", self._on_message)
        self.context.on("weberror", self._on_error)
        self.context.on("request", self._on_request)
        self.context.on("requestfailed", self._on_failed_request)
        self.context.on("page", lambda page: page.on("websocket", self._on_socket))
        self.page = self.context.new_page()

    def open(self, path: str) -> Page:
        """Go to a page of the console."""
        self.page.goto(f"{self.site}{path}")
        return self.page

    def sign_in(self, password: str) -> None:
        """Fill in the form of the sign-in page."""
        self.page.get_by_label("Name").fill("admin")
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()

    def mark(self) -> None:
        """Mark the page, to see later whether it is still the same."""
        self.page.evaluate(f"{MARK} = true")

    def is_marked(self) -> bool:
        """Whether the page has been neither loaded again nor left since it was marked."""
        return bool(self.page.evaluate(f"{MARK} === true"))

    def job_id(self) -> str:
        """Return which job the page shows."""
        return self.page.url.rsplit("/", 1)[1]

    def wait_for_state(self, state: str, within: Locator | None = None) -> None:
        """Wait until a state is shown: of the job on its page, or in a row of the list."""
        place = within or self.page.locator("main [data-job]")
        expect(place.locator(f".state.{state}")).to_be_visible(timeout=END_SECONDS * 1000)

    def is_too_wide(self) -> list[str]:
        """Return what sticks out of the window to the right; a page must not scroll sideways."""
        found: list[str] = self.page.evaluate(
            """() => document.documentElement.scrollWidth <= window.innerWidth ? [] :
            [...document.querySelectorAll('body *')]
              .filter(element => element.getBoundingClientRect().right > window.innerWidth)
              .map(element => element.outerHTML.slice(0, 120))"""
        )
        return found

    @contextmanager
    def expected(self, pattern: str) -> Iterator[None]:
        """Inside, faults of this kind are what the test is about: there must be one at least."""
        before = len(self.faults)
        yield
        self.page.evaluate("0")  # until here, so that everything before it has been reported
        new = self.faults[before:]
        self.faults[before:] = [fault for fault in new if not re.search(pattern, fault)]
        assert len(self.faults) < before + len(new), f"nothing like {pattern!r} in {new}"

    def save(self, directory: Path) -> list[Path]:
        """Write a picture and a trace of what happened; returns the files."""
        directory.mkdir(parents=True, exist_ok=True)
        picture, trace = directory / "page.png", directory / "trace.zip"
        self.page.screenshot(path=picture, full_page=True)
        self.context.tracing.stop(path=trace)
        return [picture, trace]

    def _on_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.faults.append(f"console {message.type}: {message.text} ({_place(message)})")

    def _on_error(self, error: WebError) -> None:
        self.faults.append(f"uncaught: {error.error}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith(("data:", "blob:")):
            self._check_site(request.url)

    def _on_failed_request(self, request: Request) -> None:
        if request.failure != LEFT_THE_PAGE:
            self.faults.append(f"request failed: {request.url}: {request.failure}")

    def _on_socket(self, socket: WebSocket) -> None:
        self._check_site(socket.url)

    def _check_site(self, url: str) -> None:
        if origin_of(url) != origin_of(self.site):
            self.faults.append(f"request to another site: {url}")


def _place(message: ConsoleMessage) -> str:
    location: Any = message.location
    return f"{location['url']}:{location['lineNumber']}"

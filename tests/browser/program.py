"""Which browser there is, and how it is started."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.support.roles import ROOT


def find_browser() -> tuple[str, str]:
    """Return the path of the browser and nothing, or nothing and the reason why there is none."""
    found = subprocess.run(
        [ROOT / ".ci" / "browser", "path"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip(), found.stderr.strip()


@contextmanager
def running_browser(path: str) -> Iterator[Browser]:
    """Run the browser without a window. Playwright drives it, and brings none of its own."""
    with sync_playwright() as playwright:
        # Containers have a small /dev/shm, in which pages crash.
        browser = playwright.chromium.launch(
            executable_path=path, args=["--disable-dev-shm-usage", "--font-render-hinting=none"]
        )
        try:
            yield browser
        finally:
            browser.close()

"""How a person starts each kind of work from the console, found by the names of the fields."""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page

#: A simulation that would take minutes: many workers, each candidate with many customers.
LONG_PLAN: Mapping[str, object] = {
    "arrival_rate": 200,
    "service_time_mean": 1,
    "service_time_p95": 3,
    "target_wait": 0.0001,
    "percentile": 99.9,
    "max_workers": 400,
}


def form_with(page: Page, field: str) -> Locator:
    """Return the form that has a field."""
    return page.locator("form", has=page.locator(f"[name={field}]"))


def press(form: Locator) -> None:
    """Press the button of a form."""
    form.locator("button").click()


def send_newsletter(page: Page, *recipients: str) -> None:
    """Send a newsletter to these people only; without any, to those that the form proposes."""
    form = form_with(page, "recipients")
    if recipients:
        form.get_by_label("Recipients").fill("\n".join(recipients))
        form.locator("[name=invented]").fill("0")
    press(form)


def send_picture(page: Page, name: str = "", content: bytes = b"") -> None:
    """Upload a picture; without one, take the sample."""
    form = form_with(page, "file")
    if name:
        file = FilePayload(name=name, mimeType="image/jpeg", buffer=content)
        form.locator("[name=file]").set_input_files(file)
    press(form)


def send_plan(page: Page, **fields: object) -> None:
    """Ask for a capacity plan; what is not given stays as the form proposes."""
    form = form_with(page, "arrival_rate")
    for name, value in fields.items():
        form.locator(f"[name={name}]").fill(str(value))
    press(form)


def picture(width: int = 640, height: int = 480) -> bytes:
    """Return a JPEG."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def corrupt_picture() -> bytes:
    """Return the first half of a JPEG: it begins well."""
    whole = picture()
    return whole[: len(whole) // 2]

"""The forms of pictures and plans: what is submitted, and what is said when it is refused."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from console.cards import CAPACITY, NEWSLETTER, Card, shown
from console.views import TOOLS
from jobs.models import Job
from tests.integration.conftest import TOKEN

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis")]

PLAN = {
    "arrival_rate": "20", "service_time_mean": "0.4", "service_time_p95": "1.2",
    "target_wait": "2", "percentile": "95", "max_workers": "16",
}  # fmt: skip


@pytest.fixture
def staff() -> Client:
    browser = Client()
    browser.force_login(get_user_model().objects.create_superuser("ann"))
    return browser


def test_without_a_file_the_sample_picture_is_processed(staff: Client) -> None:
    response = staff.post("/images", {})
    job = Job.objects.get()

    assert response["Location"] == f"/jobs/{job.id}"
    assert (job.kind, job.requested_by) == ("images", "ann")


def test_a_file_that_is_no_picture_is_refused_with_the_reason(staff: Client) -> None:
    response = staff.post("/images", {"file": SimpleUploadedFile("a.jpg", b"no picture")})
    page = response.content.decode()

    assert response.status_code in (415, 422)
    assert page.count('role="alert"') == 1 and page.count('aria-invalid="true"') == 1
    assert not Job.objects.exists()


def test_the_plan_that_the_form_suggests_is_accepted(staff: Client) -> None:
    response = staff.post("/capacity", PLAN)
    job = Job.objects.get()

    assert response["Location"] == f"/jobs/{job.id}"
    assert (job.kind, job.requested_by) == ("capacity", "ann")


@pytest.mark.parametrize("card", [NEWSLETTER, CAPACITY], ids=lambda card: card.kind)
def test_the_command_of_a_card_is_accepted_by_the_api(staff: Client, card: Card) -> None:
    command = shown(card, "http://testserver")["curl"]
    assert command in html.unescape(staff.get("/").content.decode())
    body = re.search(r"-d '(.*)'", command)
    assert body is not None
    response = Client().post(
        card.route, body[1], content_type="application/json",
        headers={"Authorization": f"Bearer {TOKEN}"},
    )  # fmt: skip
    assert response.status_code == 202, response.content


def test_the_page_links_to_all_tools(staff: Client, settings: Any) -> None:
    settings.TOOL_LINKS = {name: f"http://localhost/{name}" for name in TOOLS}
    page = staff.get("/").content.decode()
    for address in [*settings.TOOL_LINKS.values(), "/api/docs", "/admin/", "/health"]:
        assert f'href="{address}"' in page


@pytest.mark.parametrize(
    ("wrong", "label"),
    [
        ({"arrival_rate": "many"}, "Arrivals"),
        ({"arrival_rate": ""}, "Arrivals"),
        ({"percentile": "101"}, "Holds for"),
        ({"max_workers": "0"}, "Try up to"),
    ],
)
def test_a_plan_with_a_fault_is_shown_again_as_it_was_entered(
    staff: Client, wrong: dict[str, Any], label: str
) -> None:
    response = staff.post("/capacity", {**PLAN, "target_wait": "2.125", **wrong})
    page = response.content.decode()

    assert response.status_code == 422
    assert f"<li>{label}: " in page
    assert 'value="2.125"' in page
    assert not Job.objects.exists()

"""The pages: who sees them, what the form accepts, what a job looks like."""

from __future__ import annotations

import uuid

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from jobs.models import Job, State
from newsletters.models import Newsletter, Recipient

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis")]

FORM = {"subject": "Hello", "body": "Text", "recipients": "ada@example.com\r\ngrace@example.com"}


@pytest.fixture
def staff() -> Client:
    browser = Client()
    browser.force_login(get_user_model().objects.create_superuser("ann", password="ann"))
    return browser


def test_strangers_are_sent_to_the_sign_in_page_and_back(client: Client) -> None:
    get_user_model().objects.create_superuser("ann", password="a-long-password")
    response = client.get("/")
    assert response.status_code == 302
    assert response["Location"] == "/sign-in?next=/"

    wrong = client.post("/sign-in", {"username": "ann", "password": "wrong"})
    assert b"Please enter the correct username and password" in wrong.content
    right = client.post("/sign-in?next=/", {"username": "ann", "password": "a-long-password"})
    assert right["Location"] == "/"


@pytest.mark.parametrize("path", ["/", "/jobs", f"/jobs/{uuid.uuid4()}", "/admin/", "/newsletters"])
def test_nothing_is_shown_or_done_for_strangers(client: Client, path: str) -> None:
    for response in (client.get(path), client.post(path, FORM)):
        assert response.status_code in (302, 405)
    assert not Job.objects.exists()


def test_an_empty_console_says_what_to_do_first(staff: Client) -> None:
    page = staff.get("/").content.decode()

    assert "No jobs yet. Press <strong>Send</strong>" in page
    assert "script-src" not in page
    assert "<style" not in page and "onclick" not in page, "the content policy allows no inline"


def test_there_is_an_icon_for_pages_that_have_none(client: Client) -> None:
    assert client.get("/favicon.ico")["Location"].startswith("/static/console/icon.")


def test_a_newsletter_can_be_sent_from_the_form(staff: Client) -> None:
    response = staff.post("/newsletters", FORM)
    job = Job.objects.get()

    assert response["Location"] == f"/jobs/{job.id}"
    assert (job.total, job.requested_by) == (2, "ann")
    assert str(job.id)[:8] in staff.get("/jobs").content.decode()


def test_a_fault_in_the_form_is_shown_with_what_was_entered(staff: Client) -> None:
    response = staff.post("/newsletters", {**FORM, "recipients": "nonsense", "subject": "Kept <3"})
    page = response.content.decode()

    assert response.status_code == 422
    assert "recipients 0: Value error, not a valid mail address" in page
    assert "Kept &lt;3" in page
    assert not Job.objects.exists()


def test_a_job_page_explains_a_failure(staff: Client) -> None:
    job = Job.objects.create(kind="newsletter", state=State.FAILED, error="550 <no>", total=1)
    newsletter = Newsletter.objects.create(job=job, subject="s", body="b")
    Recipient.objects.create(
        newsletter=newsletter, position=0, address="a@b.de", state="failed", error="550 <no>"
    )
    page = staff.get(f"/jobs/{job.id}").content.decode()

    assert page.count("550 &lt;no&gt;") == 2
    assert "hx-trigger" not in page, "a job that has ended is not asked for again"
    assert staff.get(f"/jobs/{job.id}", headers={"HX-Request": "true"}).status_code == 286


def test_a_job_can_be_stopped_from_its_page(staff: Client) -> None:
    staff.post("/newsletters", FORM)
    job = Job.objects.get()
    assert "Stop this job" in staff.get(f"/jobs/{job.id}").content.decode()

    assert staff.post(f"/jobs/{job.id}/cancel").status_code == 302
    job.refresh_from_db()
    assert job.state == State.CANCELLED
    assert staff.post(f"/jobs/{uuid.uuid4()}/cancel").status_code == 404


@pytest.mark.parametrize(
    "page",
    [
        "jobs/job", "newsletters/newsletter", "newsletters/recipient",
        "django_celery_results/taskresult", "django_celery_beat/periodictask",
    ],
)  # fmt: skip
def test_the_admin_lists_what_there_is(staff: Client, page: str) -> None:
    staff.post("/newsletters", FORM)

    assert staff.get(f"/admin/{page}/?q=a").status_code == 200


def test_the_admin_cancels_jobs_and_edits_none(staff: Client) -> None:
    staff.post("/newsletters", FORM)
    job = Job.objects.get()

    assert staff.get("/admin/jobs/job/add/").status_code == 403
    assert staff.post(f"/admin/jobs/job/{job.id}/change/", {"state": "failed"}).status_code == 403
    staff.post("/admin/jobs/job/", {"action": "cancel", "_selected_action": [str(job.id)]})
    job.refresh_from_db()
    assert job.state == State.CANCELLED

"""The pages: who sees them, what the form accepts, what a job looks like."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.utils import timezone

from console import status
from console.templatetags.console_format import duration
from console.views import SAMPLE_PICTURE
from deploy.embedded.servers import free_port
from jobs.models import Job, State
from newsletters.models import Newsletter, Recipient

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis")]

FORM = {"subject": "Hello", "body": "Text", "recipients": "ada@example.com\r\ngrace@example.com"}
#: Enough readers for tasks of its own (NEWSLETTER_BUFFER_BELOW).
MANY = {**FORM, "recipients": "\r\n".join(f"r{number}@example.com" for number in range(10))}

HTMX = {"HX-Request": "true"}


@pytest.fixture(autouse=True)
def fresh_status() -> Iterator[None]:
    """Have each test see its own database."""
    status.forget()
    yield
    status.forget()


@pytest.fixture
def staff() -> Client:
    browser = Client()
    browser.force_login(get_user_model().objects.create_superuser("ann"))
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
    assert 'role="alert"' in page
    assert "Recipients, line 1: not a valid mail address" in page
    assert "Kept &lt;3" in page and "nonsense" in page
    assert page.count('aria-invalid="true"') == 1
    assert not Job.objects.exists()


def test_a_job_page_explains_a_failure(staff: Client) -> None:
    job = Job.objects.create(kind="newsletter", state=State.FAILED, error="550 <no>", total=1)
    newsletter = Newsletter.objects.create(job=job, subject="s", body="b")
    Recipient.objects.create(
        newsletter=newsletter, position=0, address="a@b.de", state="failed", error="550 <no>"
    )
    page = staff.get(f"/jobs/{job.id}").content.decode()

    assert page.count("550 &lt;no&gt;") == 2
    assert "data-live" not in page, "a job that has ended is not asked for again"
    assert staff.get(f"/jobs/{job.id}", headers={"HX-Request": "true"}).status_code == 286


def test_a_job_can_be_stopped_from_its_page(staff: Client) -> None:
    staff.post("/newsletters", FORM)
    job = Job.objects.get()
    assert "Cancel this job" in staff.get(f"/jobs/{job.id}").content.decode()

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


def text_of(page: str) -> str:
    """Return what people read of a page, with single blanks."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


# --- How it is -----------------------------------------------------------------------------------


def test_the_first_page_says_who_runs_and_what_waits(staff: Client) -> None:
    staff.post("/newsletters", MANY)
    page = text_of(staff.get("/").content.decode())

    assert "No worker takes tasks. No beat leads" in page, "nobody runs in this test"
    assert "0 running, 1 waiting." in page
    assert "mail 1" in page


def test_the_page_is_shown_while_the_broker_is_down(staff: Client, settings: Any) -> None:
    settings.CELERY_BROKER_URL = f"redis://127.0.0.1:{free_port()}/0"
    page = text_of(staff.get("/").content.decode())

    assert "The broker is down: jobs are accepted, and run when it is back." in page
    assert "Redis: unknown" in page


def test_the_page_is_shown_while_figures_cannot_be_read(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "OPEN", "SELECT pg_sleep(9)")
    monkeypatch.setattr(status, "STATEMENT_TIMEOUT", 50)
    response = staff.get("/")

    assert response.status_code == 200
    assert "The database does not answer in time." in response.content.decode()


def test_the_status_is_renewed_with_its_tables(staff: Client) -> None:
    page = staff.get("/status", headers=HTMX).content.decode()

    assert 'id="headline"' in page
    assert 'id="tables" class="tables" hx-swap-oob="true"' in page


def test_many_who_ask_cost_one_reading(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    readings: list[int] = []

    def read() -> status.Reading:
        readings.append(1)
        return status.Reading({}, {}, ())

    monkeypatch.setattr(status, "read", read)
    monkeypatch.setattr(status, "FRESH_SECONDS", 60)
    for _ in range(5):
        status.current()
    assert len(readings) == 1


@pytest.mark.parametrize("path", ["/status", "/jobs", f"/jobs/{uuid.uuid4()}/deliveries"])
def test_a_part_of_a_page_is_not_replaced_by_the_sign_in_page(client: Client, path: str) -> None:
    response = client.get(path, headers=HTMX)

    assert response["HX-Refresh"] == "true"
    assert not response.content


# --- Start something -----------------------------------------------------------------------------


def test_invented_readers_are_offered_where_mails_end_in_a_sink(
    staff: Client, settings: Any
) -> None:
    assert "Invented readers" not in staff.get("/").content.decode()
    settings.MAIL_SINK_URL = "http://localhost"
    assert "Invented readers" not in staff.get("/").content.decode(), "this may be production"
    settings.FAULT_INJECTION = True
    assert "Invented readers" in staff.get("/").content.decode()

    staff.post("/newsletters", {**FORM, "invented": "40"})
    assert Job.objects.get().total == 42
    refused = staff.post("/newsletters", {**FORM, "invented": "many"})
    assert refused.status_code == 422
    assert "a whole number from 0 to 9000" in refused.content.decode()


def test_commands_name_the_address_by_which_the_reader_came(staff: Client) -> None:
    page = staff.get("/", headers={"Host": "localhost:1234"}).content.decode()

    assert "curl -X POST http://localhost:1234/api/jobs/newsletter" in page
    assert "Bearer $TOKEN" in page


def test_the_sample_picture_is_small_and_is_one() -> None:
    assert SAMPLE_PICTURE.stat().st_size < 60_000
    assert SAMPLE_PICTURE.read_bytes()[:3] == b"\xff\xd8\xff"


# --- What became of it ---------------------------------------------------------------------------


def test_recipients_can_be_filtered_and_turned_over(staff: Client) -> None:
    many = "\n".join(f"r{number:03}@example.com" for number in range(250))
    staff.post("/newsletters", {**FORM, "recipients": many})
    job = Job.objects.get()
    Recipient.objects.filter(position=249).update(state="failed", error="550 no")

    def shown(query: str) -> str:
        return text_of(staff.get(f"/jobs/{job.id}{query}").content.decode())

    assert "1 to 100 of 250" in shown("")
    assert "201 to 250 of 250" in shown("?page=99")
    failed = shown("?state=failed&page=x")
    assert "1 to 1 of 1" in failed and "r249@example.com" in failed and "r000" not in failed
    assert "Nobody is sent." in shown("?state=sent")
    assert "of 250" in shown("?state=nonsense&page=-1")


IMAGES_RESULT = {
    "original": {"name": "a<b.jpg", "format": "JPEG", "width": 4, "height": 3, "bytes": 10},
    "files": [{"name": "4.webp", "format": "WebP", "width": 4, "height": 3, "bytes": 2048}],
    "contact_sheet": "contact-sheet.webp",
    "manifest": "manifest.json",
}
WAIT = {"value": 1.234, "low": 1.1, "high": 1.3}
CAPACITY_RESULT = {
    "recommended_workers": 9, "recommended_pods": 3, "slots_per_pod": 4, "target_wait": 2.0,
    "percentile": 95.0, "offered_load": 8.0, "stopped_early": True, "seed": 1,
    "candidates": [
        {"workers": 8, "utilisation": 1.0, "stable": False, "p50": None, "p95": None, "p99": None,
         "wait": None, "meets_target": False},
        {"workers": 9, "utilisation": 0.888, "stable": True, "p50": WAIT, "p95": WAIT, "p99": WAIT,
         "wait": WAIT, "meets_target": True},
    ],
}  # fmt: skip


def ended(kind: str, result: Any) -> Job:
    return Job.objects.create(
        kind=kind, state=State.SUCCEEDED, result=result, started_at=timezone.now(),
        finished_at=timezone.now(),
    )  # fmt: skip


def test_a_picture_job_shows_its_files(staff: Client) -> None:
    job = ended("images", IMAGES_RESULT)
    page = staff.get(f"/jobs/{job.id}").content.decode()

    files = f"/api/jobs/{job.id}/files"
    assert f'<img src="{files}/contact-sheet.webp"' in page
    assert f'href="{files}/4.webp" download' in page
    assert f'href="{files}/manifest.json"' in page
    assert "a&lt;b.jpg" in page and "2.0\xa0KB" in page
    assert f'href="{files}/contact-sheet.webp">Contact sheet' in staff.get("/jobs").content.decode()


def test_a_plan_says_how_many_workers_are_needed(staff: Client) -> None:
    job = ended("capacity", CAPACITY_RESULT)
    page = staff.get(f"/jobs/{job.id}").content.decode()
    text = text_of(page)

    assert "9 worker slots , that is 3 pods of 4: then 95 % of tasks wait less than 2.0 s." in text
    assert f'src="/api/jobs/{job.id}/plot.svg"' in page
    assert "8 100.0 %" in text and "never keeps up" in text
    assert "9 88.8 % 1.23" in text and "enough, fewest" in text


def test_a_plan_without_an_answer_says_so(staff: Client) -> None:
    none = {**CAPACITY_RESULT, "recommended_workers": None, "recommended_pods": None}
    page = staff.get(f"/jobs/{ended('capacity', none).id}").content.decode()

    assert "No number of workers that was tried keeps 95 % of waits below 2.0 s." in page


@pytest.mark.parametrize("kind", ["images", "capacity", "newsletter", "of another app"])
def test_a_job_without_a_result_has_a_page(staff: Client, kind: str) -> None:
    for state in State.values:
        job = Job.objects.create(kind=kind, state=state, error="<why>")
        page = staff.get(f"/jobs/{job.id}").content.decode()
        assert "&lt;why&gt;" in page
        assert ("data-live" in page) == job.is_open


def test_the_tasks_of_a_job_can_be_looked_at(staff: Client) -> None:
    staff.post("/newsletters", MANY)
    staff.post("/newsletters", {**MANY, "subject": "another"})
    job = Job.objects.first()
    assert job is not None
    page = text_of(staff.get(f"/jobs/{job.id}/deliveries").content.decode())

    assert page.count("newsletters.send_newsletter") == 1
    assert "dispatched" in page


def test_a_job_is_cancelled_from_the_list_without_leaving_it(staff: Client) -> None:
    staff.post("/newsletters", FORM)
    job = Job.objects.get()
    response = staff.post(f"/jobs/{job.id}/cancel", headers=HTMX)

    assert response.status_code == 200
    assert "cancelled" in response.content.decode()
    assert "<html" not in response.content.decode()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "\u2013"), (0, "0.0 s"), (4.24, "4.2 s"), (59.4, "59 s"), (59.7, "60 s"),
        (200, "3 min 20 s"), (3600, "1 h 0 min"), (90_000, "1 d 1 h"),
    ],
)  # fmt: skip
def test_durations_are_for_people(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


# --- When something is wrong ---------------------------------------------------------------------


def test_pages_that_are_not_there_look_like_ours(staff: Client) -> None:
    response = staff.get("/nothing")

    assert response.status_code == 404
    assert "Nothing here" in response.content.decode()


def test_a_form_that_is_out_of_date_says_what_to_do() -> None:
    response = Client(enforce_csrf_checks=True).post("/sign-in", {"username": "a"})

    assert response.status_code == 403
    assert "load the page again" in response.content.decode()


@pytest.mark.django_db(transaction=True)
def test_pages_say_that_the_database_is_away(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "PORT", str(free_port()))
    staff.raise_request_exception = False
    for path in ("/", "/admin/", f"/jobs/{uuid.uuid4()}"):
        response = staff.get(path)
        assert response.status_code == 503
        assert response["Retry-After"]
        assert "The database cannot be reached" in response.content.decode()
        assert 'http-equiv="refresh"' in response.content.decode()
    assert 'http-equiv="refresh"' not in staff.post("/newsletters", FORM).content.decode()


@pytest.mark.parametrize(
    "path", ["/", "/jobs/{job}", "/sign-in", "/nothing", "/api/docs", "/admin/", "/admin/jobs/job/"]
)
def test_no_page_needs_more_than_the_content_policy_allows(staff: Client, path: str) -> None:
    job = ended("images", IMAGES_RESULT)
    response = staff.get(path.format(job=job.id))
    page = response.content.decode()

    policy = response["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page)
    for script in re.findall(r"<script([^>]*)>", page):
        assert "src=" in script or "application/json" in script
    assert not re.search(r"(?:src|<link[^>]*href)=\"(?:https?:)?//", page)

"""The admin: every page opens with few queries, shows what matters, and refuses what is wrong."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
)
from django_celery_results.models import GroupResult, TaskResult

from delivery.models import Delivery, QuarantinedMessage
from delivery.models import State as DeliveryState
from housekeeping.tasks import delete_expired_sessions
from jobs.models import Job, State
from newsletters.models import Newsletter, Recipient, RecipientState
from newsletters.services import newsletter_submit
from newsletters.tasks import send_mixture, send_newsletter

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis")]

TASK = delete_expired_sessions.name
SCHEDULES = "/admin/django_celery_beat/periodictask/"
RESULTS = "/admin/django_celery_results/taskresult/"
#: Queries of a page: session, user, rights, filters and counts; not one for each row.
MANY_QUERIES = 20


@pytest.fixture
def admin_client() -> Client:
    """Return a browser of an administrator without a password: hashing one takes 0.3 s."""
    browser = Client()
    browser.force_login(User.objects.create_superuser("admin"))
    return browser


def newsletter(number: int = 0, recipients: int = settings.NEWSLETTER_BUFFER_BELOW) -> Job:
    return newsletter_submit(
        subject=f"Hello {number}",
        body="b",
        recipients=[f"r{position}@example.com" for position in range(recipients)],
        requested_by="ann",
    )


def failed_newsletter() -> Job:
    """Return a job that failed because its task is a dead letter."""
    job = newsletter()
    Delivery.objects.filter(args__0=str(job.id)).update(
        state=DeliveryState.DEAD, finished_at=timezone.now(), error="the server was on fire"
    )
    Job.objects.filter(id=job.id).update(
        state=State.FAILED, error="the server was on fire", finished_at=timezone.now()
    )
    Recipient.objects.filter(newsletter_id=job.id).update(state=RecipientState.CANCELLED)
    return job


def result(number: int = 0, **values: Any) -> TaskResult:
    return TaskResult.objects.create(
        task_id=str(uuid.uuid4()), task_name=TASK, status="SUCCESS", worker="worker@host",
        content_type="application/json", content_encoding="utf-8", result=str(number), **values,
    )  # fmt: skip


def schedule(name: str = "often", **values: Any) -> PeriodicTask:
    every, _ = IntervalSchedule.objects.get_or_create(every=5, period="minutes")
    return PeriodicTask.objects.create(**{"name": name, "task": TASK, "interval": every, **values})


#: What makes rows for each page, by "app/model".
ROWS: dict[str, Callable[[int], object]] = {
    "jobs/job": newsletter,
    "newsletters/newsletter": newsletter,
    "newsletters/recipient": newsletter,
    "delivery/delivery": newsletter,
    "delivery/quarantinedmessage": lambda number: QuarantinedMessage.objects.create(
        queue="mail", reason=f"odd {number}", size=1, content="x"
    ),
    "django_celery_results/taskresult": result,
    "django_celery_results/groupresult": lambda number: GroupResult.objects.create(
        group_id=f"group {number}", content_type="x", content_encoding="x", result="[]"
    ),
    "django_celery_beat/periodictask": lambda number: schedule(f"schedule {number}"),
    "django_celery_beat/intervalschedule": lambda number: IntervalSchedule.objects.create(
        every=number + 1, period="days"
    ),
    "django_celery_beat/crontabschedule": lambda number: CrontabSchedule.objects.create(
        minute=str(number)
    ),
    "django_celery_beat/clockedschedule": lambda number: ClockedSchedule.objects.create(
        clocked_time=timezone.now() + timedelta(days=number)
    ),
    "auth/user": lambda number: User.objects.create_user(f"user{number}"),
}


def nothing(number: int = 0) -> None:
    """Make no row: pages whose models have no good example here are opened empty."""


PAGES = sorted(
    f"{model._meta.app_label}/{model._meta.model_name}" for model in admin.site._registry
)


def queries_of(client: Client, address: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        response = client.get(address)
    assert response.status_code == 200, address
    return len(queries)


@pytest.mark.parametrize("page", PAGES)
def test_every_list_opens_with_few_queries_however_long_it_is(
    admin_client: Client, page: str
) -> None:
    address = f"/admin/{page}/"
    make = ROWS.get(page, nothing)
    make(0)
    few = queries_of(admin_client, address)
    for number in range(1, 15):
        make(number)
    assert queries_of(admin_client, address) <= few + 1
    assert few <= MANY_QUERIES


@pytest.mark.parametrize("page", PAGES)
def test_every_search_and_filter_answers(admin_client: Client, page: str) -> None:
    ROWS.get(page, nothing)(0)
    address = f"/admin/{page}/"
    for text in ("a", str(uuid.uuid4()), "%", "'", "\\", '"', "ä", "x" * 300, "a  b"):
        assert admin_client.get(address, {"q": text}).status_code == 200, text
    shown = admin_client.get(address).context["cl"]
    for found in shown.filter_specs:
        for choice in found.choices(shown):
            assert admin_client.get(address + choice["query_string"]).status_code == 200, choice


@pytest.mark.parametrize("page", sorted(ROWS))
def test_every_row_opens_with_few_queries(admin_client: Client, page: str) -> None:
    ROWS[page](0)
    first = admin_client.get(f"/admin/{page}/").context["cl"].result_list[0]
    address = f"/admin/{page}/{first.pk}/change/"
    assert queries_of(admin_client, address) <= MANY_QUERIES
    text = admin_client.get(address).content.decode()
    assert "<script>" not in text and "onclick" not in text, "the content policy allows no inline"


@pytest.mark.parametrize("page", [*PAGES])
def test_nobody_else_sees_anything(client: Client, page: str) -> None:
    visitor = User.objects.create_user("bob", is_staff=True)
    for stranger in (None, visitor):
        if stranger:
            client.force_login(stranger)
        assert client.get(f"/admin/{page}/").status_code in (302, 403)


def test_the_admin_has_a_name_and_a_way_back(admin_client: Client) -> None:
    page = admin_client.get("/admin/").content.decode()
    assert "Celeriac" in page
    assert "What runs, what waits, what failed" in page
    assert '<a href="/">View site</a>' in page


# --- jobs ----------------------------------------------------------------------------------------


def act(client: Client, page: str, action: str, *rows: Any) -> str:
    chosen = {"action": action, "_selected_action": [str(row.pk) for row in rows]}
    return client.post(f"/admin/{page}/", chosen, follow=True).content.decode()


def test_a_job_leads_to_its_page_and_its_deliveries(admin_client: Client) -> None:
    job, other = newsletter(), newsletter()
    page = admin_client.get(f"/admin/jobs/job/{job.id}/change/").content.decode()
    assert f'href="/jobs/{job.id}"' in page
    mine, others = (Delivery.objects.get(args__0=str(each.id)) for each in (job, other))
    assert f'href="/admin/delivery/delivery/{mine.id}/change/"' in page
    assert str(others.id) not in page


def test_retrying_replays_the_dead_letters_of_failed_jobs_only(admin_client: Client) -> None:
    failed, running = failed_newsletter(), newsletter()
    letter = Delivery.objects.get(args__0=str(failed.id))
    page = act(admin_client, "jobs/job", "retry", failed, running)

    assert "1 failed job(s) go on." in page
    failed.refresh_from_db()
    running.refresh_from_db()
    assert (failed.state, failed.error, failed.finished_at) == (State.RUNNING, "", None)
    assert running.state == State.QUEUED
    letter.refresh_from_db()
    assert letter.state == DeliveryState.PENDING
    assert set(
        Recipient.objects.filter(newsletter_id=failed.id).values_list("state", flat=True)
    ) == {RecipientState.PENDING}


def test_retrying_a_small_newsletter_replays_the_task_that_it_shares(admin_client: Client) -> None:
    small, other = newsletter(recipients=1), newsletter(recipients=1)
    keys = Recipient.objects.filter(newsletter_id=small.id).values_list("pk", flat=True)
    shared = send_mixture.delay_on_commit(list(keys))
    Delivery.objects.filter(id=shared).update(
        state=DeliveryState.DEAD, finished_at=timezone.now(), error="a bug"
    )
    Job.objects.all().update(state=State.FAILED, error="a bug", finished_at=timezone.now())

    assert shared in admin_client.get(f"/admin/jobs/job/{small.id}/change/").content.decode()
    assert shared not in admin_client.get(f"/admin/jobs/job/{other.id}/change/").content.decode()
    assert "1 failed job(s) go on." in act(admin_client, "jobs/job", "retry", small, other)
    assert Job.objects.get(id=small.id).state == State.RUNNING
    assert Job.objects.get(id=other.id).state == State.FAILED


def test_retrying_says_when_nothing_can_be_replayed(admin_client: Client) -> None:
    job = Job.objects.create(kind="newsletter", state=State.FAILED, finished_at=timezone.now())
    Newsletter.objects.create(job=job, subject="s", body="b")
    page = act(admin_client, "jobs/job", "retry", job)
    assert "has no dead letters: nothing can be replayed" in page
    assert "0 failed job(s) go on." in page
    job.refresh_from_db()
    assert job.state == State.FAILED


def test_cancelling_ends_open_jobs_only(admin_client: Client) -> None:
    job, failed = newsletter(), failed_newsletter()
    assert "1 job(s) cancelled." in act(admin_client, "jobs/job", "cancel", job, failed)
    assert Job.objects.get(id=job.id).state == State.CANCELLED
    assert Job.objects.get(id=failed.id).state == State.FAILED
    assert "0 job(s) cancelled." in act(admin_client, "jobs/job", "cancel", job)


@pytest.mark.parametrize("action", ["cancel", "retry"])
def test_who_may_only_look_at_jobs_decides_nothing(client: Client, action: str) -> None:
    reader = User.objects.create_user("reader", is_staff=True)
    reader.user_permissions.add(Permission.objects.get(codename="view_job"))
    client.force_login(reader)
    job, failed = newsletter(), failed_newsletter()
    act(client, "jobs/job", action, job, failed)
    assert Job.objects.get(id=job.id).state == State.QUEUED
    assert Job.objects.get(id=failed.id).state == State.FAILED


# --- results -------------------------------------------------------------------------------------


def test_results_can_be_read_and_deleted_but_not_written(admin_client: Client) -> None:
    row = result(date_started=timezone.now() - timedelta(seconds=5))
    listed = admin_client.get(RESULTS).content.decode()
    assert "worker@host" in listed and TASK in listed and "5.0" in listed
    assert admin_client.get(f"{RESULTS}add/").status_code == 403
    changed = admin_client.post(f"{RESULTS}{row.pk}/change/", {"status": "FAILURE"})
    assert changed.status_code == 403
    page = admin_client.get(f"{RESULTS}{row.pk}/change/").content.decode()
    assert f"/admin/delivery/delivery/{row.task_id}/change/" in page

    deleted = admin_client.post(f"{RESULTS}{row.pk}/delete/", {"post": "yes"})
    assert deleted.status_code == 302
    assert not TaskResult.objects.exists()


def test_results_are_found_by_id_name_state_and_task(admin_client: Client) -> None:
    row, other = result(), result(task_args=None)
    TaskResult.objects.filter(pk=other.pk).update(status="FAILURE", task_name="other")

    def found(**query: str) -> set[int]:
        return {each.pk for each in admin_client.get(RESULTS, query).context["cl"].result_list}

    assert found() == {row.pk, other.pk}
    assert found(q=row.task_id) == found(q=TASK) == {row.pk}
    assert found(state="FAILURE") == {other.pk}
    assert found(task=TASK) == {row.pk}


# --- schedules -----------------------------------------------------------------------------------


def form(row: PeriodicTask | None = None, **changes: Any) -> dict[str, Any]:
    every, _ = IntervalSchedule.objects.get_or_create(every=5, period="minutes")
    return {
        "name": "often", "task": TASK, "enabled": "on", "description": "", "interval": every.pk,
        "crontab": "", "clocked": "", "start_time_0": "", "start_time_1": "", "args": "[]",
        "kwargs": "{}", "queue": "", "headers": "{}", "expires_0": "", "expires_1": "",
        "expire_seconds": "", **changes,
    }  # fmt: skip


def test_a_schedule_can_be_added_and_edited(admin_client: Client) -> None:
    added = admin_client.post(f"{SCHEDULES}add/", form(queue="mail"))
    assert added.status_code == 302, added.context["adminform"].form.errors
    row = PeriodicTask.objects.get()
    assert (row.task, row.queue, row.enabled) == (TASK, "mail", True)

    changed = admin_client.post(f"{SCHEDULES}{row.pk}/change/", form(name="seldom", queue=""))
    assert changed.status_code == 302, changed.context["adminform"].form.errors
    row.refresh_from_db()
    assert (row.name, row.queue) == ("seldom", None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "no.such.task"}, "There is no task named no.such.task in this code."),
        ({"task": ""}, "This field is required."),
        ({"args": "[1,"}, "This is not JSON"),
        ({"args": "{}"}, "This must be a list"),
        ({"args": "[" * 100_000}, "This is not JSON"),
        ({"args": "[1, 2, 3]"}, "The arguments do not fit the task"),
        ({"kwargs": '{"odd": 1}'}, "The arguments do not fit the task"),
        ({"kwargs": "[]"}, "This must be an object"),
        ({"kwargs": "nonsense"}, "This is not JSON"),
        ({"headers": "[]"}, "This must be an object"),
        ({"queue": "nowhere"}, "Select a valid choice. nowhere is not one"),
        ({"interval": ""}, "One of clocked, interval, crontab, or solar must be set."),
        ({"expire_seconds": "5", "expires_0": "2030-01-01", "expires_1": "00:00"}, "Give either"),
        ({"expire_seconds": "-1"}, "Ensure this value is greater than or equal to 0."),
        ({"name": ""}, "This field is required."),
    ],
)
def test_what_beat_could_not_send_is_refused_with_a_reason(
    admin_client: Client, changes: dict[str, str], message: str
) -> None:
    response = admin_client.post(f"{SCHEDULES}add/", form(**changes))
    assert response.status_code == 200
    faults = json.dumps(response.context["adminform"].form.errors.get_json_data())
    assert message in faults
    assert not PeriodicTask.objects.exists()


def test_schedules_of_the_settings_can_only_be_switched(
    admin_client: Client, settings: Any
) -> None:
    name = next(iter(settings.CELERY_BEAT_SCHEDULE))
    row, own = schedule(name), schedule("own")
    listed = admin_client.get(SCHEDULES).content.decode()
    assert listed.count('<td class="field-origin">settings</td>') == 1
    assert listed.count('<td class="field-origin">admin</td>') == 1

    admin_client.post(f"{SCHEDULES}{row.pk}/change/", {"task": "no.such.task"})
    row.refresh_from_db()
    assert (row.task, row.enabled) == (TASK, False)
    assert admin_client.get(f"{SCHEDULES}{row.pk}/delete/").status_code == 403
    act(admin_client, "django_celery_beat/periodictask", "delete_selected", row)
    chosen = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
    admin_client.post(SCHEDULES, chosen)
    assert PeriodicTask.objects.filter(pk=row.pk).exists()
    assert admin_client.get(f"{SCHEDULES}{own.pk}/delete/").status_code == 200


def test_schedules_are_switched_on_and_off_and_beat_is_told(admin_client: Client) -> None:
    row = schedule()
    page = "django_celery_beat/periodictask"
    assert "1 schedule(s) disabled." in act(admin_client, page, "disable", row)
    row.refresh_from_db()
    assert not row.enabled
    assert "never: disabled" in admin_client.get(SCHEDULES).content.decode()
    assert "1 schedule(s) enabled." in act(admin_client, page, "enable", row)
    row.refresh_from_db()
    assert row.enabled


def test_when_a_schedule_is_due_next_is_told(admin_client: Client) -> None:
    crontab = CrontabSchedule.objects.create(minute="30", hour="4")
    moment = ClockedSchedule.objects.create(clocked_time=timezone.now() + timedelta(days=3))
    now = timezone.now()
    schedule("a", last_run_at=now)
    schedule("b", interval=None, crontab=crontab, last_run_at=now)
    schedule("c", interval=None, clocked=moment, one_off=True)
    schedule("d")
    schedule("e", last_run_at=now - timedelta(days=1))
    page = admin_client.get(SCHEDULES).content.decode()
    due = [part.partition("<")[0] for part in page.split('<td class="field-next_due">')[1:]]
    in_five_minutes = datetime.fromisoformat(f"{due[0]}+00:00")
    assert abs(in_five_minutes - now - timedelta(minutes=5)) < timedelta(seconds=2)
    assert due[1].endswith("04:30:00")
    assert due[2] == f"{moment.clocked_time:%Y-%m-%d %H:%M:%S}"
    assert due[3:] == ["soon", "now"]


def test_running_now_enters_a_delivery_and_says_what_is_wrong(admin_client: Client) -> None:
    good = schedule("good", queue="mail")
    unknown = schedule("unknown", task="no.such.task")
    broken = schedule("broken", args="{")
    unfit = schedule("unfit", task=send_newsletter.name)
    lost = schedule("lost", queue="nowhere")
    page = act(
        admin_client, "django_celery_beat/periodictask", "run_now",
        good, unknown, broken, unfit, lost,
    )  # fmt: skip

    delivery = Delivery.objects.get()
    assert (delivery.task, delivery.queue) == (TASK, "mail")
    assert delivery.options["headers"] == {"periodic_task_name": "good"}
    assert f"Schedule good runs as {delivery.id}." in page
    assert "Schedule unknown does not run: there is no durable task named no.such.task" in page
    for name in ("broken", "unfit", "lost"):
        assert f"Schedule {name} does not run: " in page


@pytest.mark.parametrize("action", ["enable", "disable", "run_now"])
def test_who_may_only_look_at_schedules_decides_nothing(client: Client, action: str) -> None:
    reader = User.objects.create_user("reader", is_staff=True)
    reader.user_permissions.add(Permission.objects.get(codename="view_periodictask"))
    client.force_login(reader)
    row = schedule(enabled=action != "enable")
    act(client, "django_celery_beat/periodictask", action, row)
    row.refresh_from_db()
    assert row.enabled == (action != "enable")
    assert not Delivery.objects.exists()

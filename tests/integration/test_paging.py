"""The list of jobs, page by page, while jobs come and go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.test import Client

from jobs.models import Job
from jobs.paging import CURSOR_LENGTH, Cursor
from tests.integration.conftest import TOKEN

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def job(minutes: int = 0, number: int = 0) -> Job:
    """Create a job at noon and so many minutes."""
    made = Job.objects.create(id=UUID(int=number or minutes + 1000), kind="newsletter")
    Job.objects.filter(pk=made.pk).update(created_at=NOON + timedelta(minutes=minutes))
    made.refresh_from_db()
    return made


def page(cursor: str | None = None, limit: int = 2, **query: str) -> tuple[list[UUID], str | None]:
    asked: dict[str, Any] = {"limit": limit, **query}
    if cursor:
        asked["cursor"] = cursor
    response = Client(headers={"Authorization": f"Bearer {TOKEN}"}).get("/api/jobs", asked)
    assert response.status_code == 200, response.content
    body = response.json()
    return [UUID(item["id"]) for item in body["items"]], body["next_cursor"]


def all_pages(limit: int = 2, **query: str) -> list[UUID]:
    seen, cursor = page(limit=limit, **query)
    while cursor:
        more, cursor = page(cursor, limit, **query)
        seen += more
    return seen


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_jobs_of_the_same_moment_are_all_listed_once(limit: int) -> None:
    jobs = [job(0, number) for number in (5, 3, 7, 1, 6, 2, 4)]
    assert all_pages(limit) == sorted((each.id for each in jobs), reverse=True)


def test_a_cursor_outlives_its_job_and_all_before_it() -> None:
    jobs = [job(minutes) for minutes in range(6)]
    seen, cursor = page()
    assert seen == [jobs[5].id, jobs[4].id]
    Job.objects.filter(id__in=seen).delete()
    assert page(cursor)[0] == [jobs[3].id, jobs[2].id]
    Job.objects.all().delete()
    assert page(cursor) == ([], None)


def test_new_jobs_do_not_move_the_pages_that_follow() -> None:
    jobs = [job(minutes) for minutes in range(4)]
    _, cursor = page()
    for minutes in range(10, 15):
        job(minutes)
    seen, cursor = page(cursor)
    assert seen == [jobs[1].id, jobs[0].id]
    assert cursor is None


def test_filters_hold_on_each_page() -> None:
    jobs = [job(minutes) for minutes in range(6)]
    Job.objects.filter(id__in=[each.id for each in jobs[::2]]).update(kind="other")
    assert all_pages(kind="other", limit=1) == [jobs[4].id, jobs[2].id, jobs[0].id]


def test_the_last_page_has_no_cursor() -> None:
    job(1), job(2)
    assert page(limit=2)[1] is None
    assert page(limit=1)[1] is not None


def test_a_cursor_comes_back_as_it_was() -> None:
    one = Cursor(datetime(2026, 1, 31, 12, 0, 0, 123_457, tzinfo=UTC), UUID(int=2**128 - 1))
    assert Cursor.from_text(str(one)) == one
    assert len(str(one)) == CURSOR_LENGTH


@pytest.mark.parametrize("text", ["", "x", "A" * 31, "A" * 33, "=" * 32, "_" * 32, "/" * 32, "é"])
def test_what_nobody_wrote_is_no_cursor(text: str) -> None:
    with pytest.raises(ValueError, match="not a cursor of this list"):
        Cursor.from_text(text)

"""Repeating a submission is harmless: one key, one caller, one job."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from jobs import kinds
from jobs.models import Job
from jobs.services import IdempotencyKeyReusedError, job_submit
from newsletters.models import Newsletter, Recipient
from tests.integration.conftest import TOKEN
from tests.support.roles import Web

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis")]

GOOD = {"subject": "Hello", "body": "Text", "recipients": ["ada@example.com"]}
ADDRESS = "/api/jobs/newsletter"


def submit(client: Client, key: str, **changes: Any) -> Any:
    return client.post(
        ADDRESS, {**GOOD, **changes}, content_type="application/json",
        headers={"Idempotency-Key": key},
    )  # fmt: skip


@pytest.fixture
def script() -> Client:
    return Client(headers={"Authorization": f"Bearer {TOKEN}"})


@pytest.mark.parametrize("key", ["!", "~" * 200, "00", '"quoted"', "a,b;c=d"])
def test_visible_ascii_of_up_to_200_characters_is_a_key(script: Client, key: str) -> None:
    first = submit(script, key)
    assert first.status_code == 202
    assert submit(script, key).json()["id"] == first.json()["id"]
    assert Job.objects.count() == 1


@pytest.mark.parametrize("key", ["", "~" * 201, "a b", "a\tb", "a\x00b", "ä", "\x7f"])
def test_anything_else_is_none(script: Client, key: str) -> None:
    assert submit(script, key).status_code == 422
    assert not Job.objects.exists()


def test_a_user_and_a_token_of_the_same_name_have_keys_of_their_own(script: Client) -> None:
    browser = Client()
    browser.force_login(get_user_model().objects.create_user("tester", is_staff=True))

    assert submit(script, "key").status_code == 202
    other = submit(browser, "key", subject="Another")
    assert other.status_code == 202, "or it would learn of, or be refused for, another's job"
    assert set(Job.objects.values_list("requested_by", flat=True)) == {"tester", "token:tester"}


def test_another_body_is_refused_and_leaves_the_first_alone(script: Client) -> None:
    first = submit(script, "key").json()
    assert submit(script, "key", subject="Another").status_code == 409
    assert submit(script, "key").json()["id"] == first["id"]
    assert Newsletter.objects.get().subject == "Hello"


def test_another_kind_is_refused(script: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Job.objects.get(id=submit(script, "key").json()["id"])
    other = kinds.Kind(
        "other", enqueue=lambda _: None, release=lambda _: None, reopen=lambda _: None
    )
    monkeypatch.setitem(kinds._kinds, "other", other)
    with pytest.raises(IdempotencyKeyReusedError):
        job_submit(
            kind="other", total=1, requested_by=first.requested_by, idempotency_key="key",
            fingerprint=first.request_fingerprint, create_details=lambda _: None,
        )  # fmt: skip
    assert Job.objects.get() == first


def test_a_key_is_free_again_when_its_job_is_deleted(script: Client) -> None:
    first = submit(script, "key").json()["id"]
    Job.objects.all().delete()
    again = submit(script, "key", subject="Another")
    assert again.status_code == 202
    assert again.json()["id"] != first


@pytest.mark.django_db(transaction=True)
def test_twenty_at_the_same_moment_create_one_job(web: Web) -> None:
    def post(_: int) -> tuple[int, str]:
        client = HTTPConnection(urlsplit(web.url).netloc, timeout=60)
        client.request(
            "POST", ADDRESS, json.dumps(GOOD),
            {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json",
             "Idempotency-Key": "together"},
        )  # fmt: skip
        response = client.getresponse()
        answer = response.status, json.load(response).get("id", "")
        client.close()
        return answer

    with ThreadPoolExecutor(20) as pool:
        answers = Counter(pool.map(post, range(20)))
    assert len(answers) == 1
    job = Job.objects.get()
    assert answers == {(202, str(job.id)): 20}
    assert Newsletter.objects.count() == 1
    assert Recipient.objects.filter(waiting=True).count() == len(GOOD["recipients"])

"""The HTTP API: who may call it, what it accepts, and how it says no."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from jobs.models import Job, State
from newsletters.models import Recipient
from tests.integration.conftest import TOKEN, assert_error
from tests.support.roles import ROOT

pytestmark = pytest.mark.django_db

GOOD = {"subject": "Hello", "body": "Text", "recipients": ["ada@example.com"]}


@pytest.fixture
def api(redis: object) -> Client:
    return Client(headers={"Authorization": f"Bearer {TOKEN}"})


def submit(client: Client, body: Any, **headers: str) -> Any:
    content = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return client.post(
        "/api/jobs/newsletter", content, content_type="application/json", headers=headers
    )


def test_submission_is_stored_and_answered_with_its_address(api: Client) -> None:
    response = submit(api, GOOD)

    assert response.status_code == 202
    body = response.json()
    assert response["Location"] == f"/api/jobs/{body['id']}"
    assert body["state"] == "queued" and body["total"] == 1
    assert Job.objects.get(id=body["id"]).requested_by == "token:tester"
    assert api.get(response["Location"]).json() == body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "/api/jobs"),
        ("get", f"/api/jobs/{uuid.uuid4()}"),
        ("post", "/api/jobs/newsletter"),
        ("post", f"/api/jobs/{uuid.uuid4()}/cancel"),
    ],
)
@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic dTpw"}]
)
def test_callers_without_a_valid_token_get_401(
    method: str, path: str, headers: dict[str, str]
) -> None:
    response = getattr(Client(enforce_csrf_checks=True), method)(path, headers=headers)

    assert_error(response, 401, "unauthenticated")
    assert response["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param("{", 400, id="not JSON"),
        pytest.param("[" * 100_000, 400, id="nested too deeply"),
        pytest.param(b"\xff\xfe", 400, id="not UTF-8"),
        pytest.param("null", 422, id="null"),
        pytest.param([], 422, id="a list"),
        pytest.param({}, 422, id="nothing in it"),
        pytest.param({**GOOD, "subject": 5}, 422, id="subject is a number"),
        pytest.param({**GOOD, "subject": ""}, 422, id="subject is empty"),
        pytest.param({**GOOD, "subject": "   "}, 422, id="subject is blank"),
        pytest.param({**GOOD, "subject": "a" * 201}, 422, id="subject is too long"),
        pytest.param({**GOOD, "subject": "a\nBcc: b@c.de"}, 422, id="subject with a header"),
        pytest.param({**GOOD, "body": "a\x00b"}, 422, id="text with U+0000"),
        pytest.param({**GOOD, "body": "\ud800"}, 422, id="text with a lone surrogate"),
        pytest.param({**GOOD, "recipients": "ada@example.com"}, 422, id="recipients are text"),
        pytest.param({**GOOD, "recipients": []}, 422, id="no recipients"),
        pytest.param({**GOOD, "recipients": [None]}, 422, id="a recipient is null"),
        pytest.param({**GOOD, "recipients": ["ada"]}, 422, id="an address without a domain"),
        pytest.param({**GOOD, "recipients": ["a@b.de\n"] * 2}, 202, id="blanks are stripped"),
        pytest.param({**GOOD, "recipients": ["a\x00@b.de"]}, 422, id="an address with U+0000"),
        pytest.param({**GOOD, "recipients": [f"{'a' * 250}@b.de"]}, 422, id="too long an address"),
        pytest.param({**GOOD, "surprise": 1}, 422, id="an unknown field"),
        pytest.param({**GOOD, "subject": "a\u2028b"}, 422, id="subject with a line separator"),
        pytest.param({**GOOD, "subject": "👩\u200d💻 5\u00a0€"}, 202, id="subject with emoji"),
        pytest.param({**GOOD, "recipients": ["a@faß.de"]}, 422, id="a domain that is mapped"),
        pytest.param({**GOOD, "recipients": ["a@xn--fa-hia.de"]}, 202, id="the same in ASCII"),
        pytest.param({**GOOD, "recipients": [f"a@{'ä' * 62}.de"]}, 422, id="a label too long"),
        pytest.param(
            {**GOOD, "recipients": ["=?utf-8?q?victim?=@example.com"]}, 422, id="an encoded name"
        ),
        pytest.param(
            {**GOOD, "recipients": ['"x\x01y"@example.com']}, 422, id="a hidden character"
        ),
        pytest.param(
            {**GOOD, "recipients": [f"r{i}@b.de" for i in range(10_001)]}, 422, id="10,001 of them"
        ),
    ],
)
def test_bad_bodies_are_refused_and_nothing_is_stored(api: Client, body: Any, status: int) -> None:
    response = submit(api, body)

    assert response.status_code == status
    if status != 202:
        assert_error(response, status, "bad_request" if status == 400 else "invalid")
        assert not Job.objects.exists()


def test_faults_are_counted_but_not_all_listed(api: Client) -> None:
    response = submit(api, {**GOOD, "recipients": ["nonsense"] * 500})

    detail = response.json()["detail"]
    assert detail["number_of_faults"] == 500
    assert len(detail["faults"]) == 20
    assert detail["faults"][0]["where"][-2:] == ["recipients", "0"]


def test_10_000_recipients_are_accepted_and_repeated_addresses_count_once(api: Client) -> None:
    addresses = [f"r{number}@example.com" for number in range(9_998)]
    response = submit(api, {**GOOD, "recipients": [*addresses, "R0@example.com", addresses[1]]})

    assert response.status_code == 202
    assert response.json()["total"] == 9_998
    assert Recipient.objects.count() == 9_998


def test_a_body_over_the_limit_for_json_gets_413(api: Client) -> None:
    response = submit(api, {**GOOD, "body": "a" * 5_000_000})

    assert_error(response, 413, "too_large")


def test_unknown_addresses_methods_and_ids_are_refused_in_the_same_shape(api: Client) -> None:
    assert_error(api.get("/api/nothing"), 404, "not_found")
    assert_error(api.get(f"/api/jobs/{uuid.uuid4()}"), 404, "not_found")
    assert_error(api.post(f"/api/jobs/{uuid.uuid4()}/cancel"), 404, "not_found")
    assert_error(api.get("/api/jobs/not-an-id"), 404, "not_found")
    response = api.delete("/api/jobs")
    assert_error(response, 405, "method_not_allowed")
    assert response["Allow"] == "GET"


def test_the_same_idempotency_key_returns_the_first_job(api: Client) -> None:
    first = submit(api, GOOD, **{"Idempotency-Key": "once"})
    second = submit(api, GOOD, **{"Idempotency-Key": "once"})
    different = submit(api, {**GOOD, "subject": "Other"}, **{"Idempotency-Key": "once"})

    assert first.json()["id"] == second.json()["id"]
    assert first["Location"] == second["Location"]
    assert Job.objects.count() == 1
    assert_error(different, 409, "conflict")
    assert_error(submit(api, GOOD, **{"Idempotency-Key": "k" * 201}), 422, "invalid")


def test_the_list_goes_from_newest_to_oldest_page_by_page(api: Client) -> None:
    ids = [submit(api, GOOD).json()["id"] for _ in range(5)]

    seen: list[str] = []
    query: dict[str, str] | None = {"limit": "2"}
    while query:
        page = api.get("/api/jobs", query).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        query = {"limit": "2", "cursor": cursor} if cursor else None

    assert seen == ids[::-1]
    for bad in ("cursor=x", "limit=0", "limit=201", "limit=x", "state=odd", "kind=%00"):
        assert_error(api.get(f"/api/jobs?{bad}"), 422, "invalid")


def test_the_list_can_be_filtered(api: Client) -> None:
    wanted = submit(api, GOOD).json()["id"]
    other = submit(api, GOOD).json()["id"]
    api.post(f"/api/jobs/{other}/cancel")

    assert [job["id"] for job in api.get("/api/jobs?state=queued").json()["items"]] == [wanted]
    assert api.get("/api/jobs?kind=unknown").json()["items"] == []


def test_cancelling_stops_an_open_job_and_is_repeatable(api: Client) -> None:
    job_id = submit(api, {**GOOD, "recipients": ["a@b.de", "c@d.de"]}).json()["id"]

    for _ in range(2):
        response = api.post(f"/api/jobs/{job_id}/cancel")
        assert response.status_code == 200
        assert response.json()["state"] == "cancelled"
    assert set(Recipient.objects.values_list("state", flat=True)) == {"cancelled"}


def test_cancelling_leaves_a_finished_job_alone(api: Client) -> None:
    job_id = submit(api, GOOD).json()["id"]
    Job.objects.filter(id=job_id).update(state=State.SUCCEEDED)

    assert api.post(f"/api/jobs/{job_id}/cancel").json()["state"] == "succeeded"


def test_staff_may_use_their_session_but_need_the_csrf_token_to_change_something() -> None:
    get_user_model().objects.create_user("ann", password="ann", is_staff=True)
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(get_user_model().objects.get(username="ann"))

    assert browser.get("/api/jobs").status_code == 200
    assert_error(submit(browser, GOOD), 403, "forbidden")


def test_users_who_are_not_staff_get_401() -> None:
    visitor = Client()
    visitor.force_login(get_user_model().objects.create_user("bob", password="bob"))

    assert_error(visitor.get("/api/jobs"), 401, "unauthenticated")
    assert visitor.get("/").status_code == 302


@pytest.mark.parametrize("key", ["\x00aaaaaaaaaaaa", "'; --", "ä" * 32, "a" * 5000])
def test_a_cookie_that_is_no_session_key_is_no_error(key: str) -> None:
    browser = Client()
    browser.cookies["sessionid"] = key

    assert_error(browser.get("/api/jobs"), 401, "unauthenticated")


def test_every_answer_names_its_request(api: Client) -> None:
    response = api.get("/api/jobs")

    assert uuid.UUID(response["X-Request-ID"])


def test_the_document_that_is_served_is_the_committed_one(client: Client) -> None:
    committed = (ROOT / "docs" / "openapi.json").read_text(encoding="utf-8")
    assert client.get("/api/openapi.json").json() == json.loads(committed)

"""Who has to wait, how long, and that the count is right with many processes at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client, RequestFactory

from console.rate_limits import client_network
from housekeeping.tasks import delete_full_rate_buckets
from jobs.models import RateBucket
from jobs.rate_limit import Rate, RateLimitedError, give_back, take
from tests.integration.conftest import TOKEN
from tests.support.roles import Web, running_web

#: A rate at which nothing comes back while a test runs: one token in a minute.
BURST = 20
SLOW = Rate(per_minute=1, burst=BURST)


def taken(_: object = None) -> bool:
    """Take a token as another process would: with a connection of its own."""
    try:
        take("bucket", SLOW)
    except RateLimitedError:
        return False
    finally:
        connection.close()
    return True


# --- the bucket ----------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_full_bucket_gives_its_burst_and_no_more_however_many_ask_at_once() -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = Counter(pool.map(taken, range(200)))
    assert answers == {True: BURST, False: 200 - BURST}


@pytest.mark.django_db
def test_tokens_come_back_with_time_and_not_beyond_the_burst() -> None:
    rate = Rate(per_minute=6, burst=2)
    take("bucket", rate)
    take("bucket", rate)
    with pytest.raises(RateLimitedError) as caught:
        take("bucket", rate)
    assert 1 <= caught.value.seconds <= 10

    # An hour later.
    with connection.cursor() as cursor:
        cursor.execute("UPDATE jobs_ratebucket SET full_at = full_at - interval '1 hour'")
    take("bucket", rate)
    take("bucket", rate)
    with pytest.raises(RateLimitedError):
        take("bucket", rate)


@pytest.mark.django_db
def test_the_time_to_wait_is_that_until_the_next_token_and_asking_adds_nothing_to_it() -> None:
    rate = Rate(per_minute=1, burst=1)
    take("bucket", rate)
    waits = []
    for _ in range(50):
        with pytest.raises(RateLimitedError) as caught:
            take("bucket", rate)
        waits.append(caught.value.seconds)
    assert max(waits) <= 60 and min(waits) >= 30
    assert all(isinstance(wait, int) for wait in waits)


@pytest.mark.django_db
def test_callers_have_buckets_of_their_own_and_zero_means_no_limit() -> None:
    rate = Rate(per_minute=1, burst=1)
    for name in ("one", "two"):
        take(name, rate)
    for _ in range(100):
        take("one", Rate(per_minute=0, burst=1))


@pytest.mark.django_db
def test_what_is_given_back_can_be_taken_again() -> None:
    rate = Rate(per_minute=1, burst=1)
    for _ in range(5):
        take("bucket", rate)
        give_back("bucket", rate)
    take("bucket", rate)
    with pytest.raises(RateLimitedError):
        take("bucket", rate)


@pytest.mark.django_db
def test_housekeeping_deletes_full_buckets_and_leaves_the_others() -> None:
    take("empty", Rate(per_minute=1, burst=1))
    take("full", Rate(per_minute=1, burst=1))
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE jobs_ratebucket SET full_at = full_at - interval '1 hour' WHERE name = 'full'"
        )
    assert delete_full_rate_buckets() == 1
    assert RateBucket.objects.get().name == "empty"


@pytest.mark.django_db
def test_the_table_is_not_written_to_the_log_of_the_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT relpersistence FROM pg_class WHERE relname = 'jobs_ratebucket'")
        assert cursor.fetchone() == ("u",)


# --- the API -------------------------------------------------------------------------------------


@pytest.fixture
def limited(settings: Any) -> None:
    settings.API_RATE_LIMIT_PER_MINUTE = 1
    settings.API_RATE_LIMIT_BURST = 3
    settings.SIGN_IN_FAILURES_PER_MINUTE = 4


@pytest.mark.django_db
def test_a_token_and_a_user_of_the_same_name_are_limited_apart(limited: None) -> None:
    script = Client(headers={"Authorization": f"Bearer {TOKEN}"})
    browser = Client()
    browser.force_login(get_user_model().objects.create_user("tester", is_staff=True))

    for client in (script, browser):
        assert [client.get("/api/jobs").status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = script.get("/api/jobs")
    assert set(refused.json()) == {"code", "message", "detail", "request_id"}
    assert refused.json()["code"] == "too_many_requests"
    assert 1 <= int(refused["Retry-After"]) <= 60
    # Pages are not the API.
    assert browser.get("/jobs").status_code == 200


@pytest.mark.django_db
def test_wrong_tokens_are_limited_and_right_ones_still_work(limited: None) -> None:
    guesser = Client(headers={"Authorization": "Bearer wrong"})
    assert [guesser.get("/api/jobs").status_code for _ in range(6)] == [401] * 4 + [429] * 2
    assert int(guesser.get("/api/jobs")["Retry-After"]) >= 1
    assert guesser.get("/api/jobs", REMOTE_ADDR="192.0.2.9").status_code == 401
    assert Client().get("/api/jobs").status_code == 401, "no token is no guess"
    right = Client(headers={"Authorization": f"Bearer {TOKEN}"})
    assert right.get("/api/jobs").status_code == 200


@pytest.fixture(scope="module")
def limited_web(
    role_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """Run two web processes behind one port, with low limits that do not refill meanwhile."""
    with running_web(
        tmp_path_factory.mktemp("limited"), WEB_CONCURRENCY="2", DATABASE_POOL_SIZE="4",
        API_RATE_LIMIT_PER_MINUTE="1", API_RATE_LIMIT_BURST="25", SIGN_IN_FAILURES_PER_MINUTE="1",
        **role_settings,
    ) as web:  # fmt: skip
        yield web


def status_of(web: Web, method: str, path: str, body: str = "", **headers: str) -> int:
    client = HTTPConnection(urlsplit(web.url).netloc, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    client.request(method, path, body or None, named)
    response = client.getresponse()
    response.read()
    client.close()
    return response.status


@pytest.mark.django_db(transaction=True)
def test_the_limit_holds_over_all_web_processes(limited_web: Web) -> None:
    def ask(_: int) -> int:
        return status_of(limited_web, "GET", "/api/jobs", Authorization=f"Bearer {TOKEN}")

    RateBucket.objects.all().delete()
    with ThreadPoolExecutor(10) as pool:
        answers = Counter(pool.map(ask, range(100)))
    # One token a minute comes back, and the machine may be slow.
    assert set(answers) == {200, 429}
    assert 25 <= answers[200] <= 27


@pytest.mark.django_db(transaction=True)
def test_guesses_are_counted_by_the_address_that_the_proxy_tells(limited_web: Web) -> None:
    RateBucket.objects.all().delete()

    def guess(address: str) -> int:
        return status_of(
            limited_web, "GET", "/api/jobs", Authorization="Bearer wrong", X_Forwarded_For=address
        )

    # The tests are at 127.0.0.1, which is trusted.
    assert guess("192.0.2.1") == 401
    assert guess("192.0.2.1") == 429
    assert guess("192.0.2.2") == 401


# --- signing in ----------------------------------------------------------------------------------


@pytest.fixture
def ann(settings: Any, limited: None) -> User:
    # Hashing as slow as in production would let the bucket refill meanwhile.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    return get_user_model().objects.create_superuser("ann", password="right")


@pytest.mark.django_db
@pytest.mark.parametrize("page", ["/sign-in", "/admin/login/"])
def test_failed_sign_ins_are_limited_and_the_password_is_not_looked_at(
    ann: User, page: str
) -> None:
    wrong, right = ({"username": "ann", "password": word} for word in ("wrong", "right"))
    browser = Client()
    assert [browser.post(page, wrong).status_code for _ in range(6)] == [200] * 4 + [429] * 2
    refused = browser.post(page, right)
    assert refused.status_code == 429, "or the limit would be none for who guesses on"
    assert math.isfinite(int(refused["Retry-After"]))
    assert "try again in" in refused.content.decode()
    elsewhere = Client(REMOTE_ADDR="192.0.2.9")
    assert elsewhere.post(page, right).status_code == 302


@pytest.mark.django_db
def test_who_signs_in_rightly_is_not_counted(ann: User) -> None:
    for _ in range(10):
        answer = Client().post("/sign-in", {"username": "ann", "password": "right"})
        assert answer.status_code == 302


@pytest.mark.django_db(transaction=True)
def test_many_guesses_at_the_same_moment_are_no_more_than_one_after_another(
    limited_web: Web,
) -> None:
    RateBucket.objects.all().delete()
    first = HTTPConnection(urlsplit(limited_web.url).netloc, timeout=60)
    first.request("GET", "/sign-in")
    page = first.getresponse()
    page.read()
    first.close()
    cookie = (page.headers["Set-Cookie"] or "").partition(";")[0]
    form = urlencode(
        {"username": "x", "password": "y", "csrfmiddlewaretoken": cookie.partition("=")[2]}
    )

    def guess(_: int) -> int:
        return status_of(
            limited_web, "POST", "/sign-in", form, Cookie=cookie,
            Content_Type="application/x-www-form-urlencoded",
        )  # fmt: skip

    with ThreadPoolExecutor(8) as pool:
        answers = Counter(pool.map(guess, range(16)))
    assert set(answers) == {200, 429}
    assert 1 <= answers[200] <= 3, "one, and one more for each minute that a slow machine needs"


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("", "unknown"),
        ("/run/socket", "unknown"),
    ],
)
def test_an_ipv6_client_is_its_network(address: str, network: str, tmp_path: Path) -> None:
    request = RequestFactory(REMOTE_ADDR=address).get("/")
    assert client_network(request) == network

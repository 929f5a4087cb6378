"""Every bad input against every route of the real web process: 4xx, the one shape, nothing stored.

Routes are those of the committed document, so that new ones are tried as well.
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_django
from django.apps import apps
from django.db import connection

from tests.integration.conftest import TOKEN
from tests.support.roles import ROOT, Web

AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
JSON_TYPE = {"Content-Type": "application/json"}
PATHS: dict[str, dict[str, Any]] = json.loads(
    (ROOT / "docs" / "openapi.json").read_text(encoding="utf-8")
)["paths"]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
OPERATIONS = [(method.upper(), path) for path, methods in PATHS.items() for method in methods]
UPLOADS = [
    (path, next(iter(operation["post"]["requestBody"]["content"])))
    for path, operation in PATHS.items()
    if "requestBody" in operation.get("post", {})
]
JSON_UPLOADS = [path for path, content_type in UPLOADS if content_type == "application/json"]
GOOD = {"subject": "Hello", "body": "Text", "recipients": ["ada@example.com"]}


def send(
    web: Web,
    method: str,
    path: str,
    body: str | bytes | None = None,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """Make one request and return its status, headers and body."""
    client = HTTPConnection(urlsplit(web.url).netloc, timeout=30)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    client.request(method, path, content, {**AUTHORIZATION, **given})
    response = client.getresponse()
    answer = response.status, {k.lower(): v for k, v in response.headers.items()}, response.read()
    client.close()
    return answer


def assert_refused(answer: tuple[int, dict[str, str], bytes], *statuses: int) -> None:
    status, headers, body = answer
    assert status in statuses, (status, body)
    assert headers["content-type"].startswith("application/json")
    shape = json.loads(body)
    assert set(shape) == {"code", "message", "detail", "request_id"}
    assert headers["x-request-id"] == shape["request_id"]
    assert uuid.UUID(shape["request_id"])


def rows() -> dict[str, int]:
    """Count what requests could leave behind, in every table of ours."""
    ours = ("jobs", "delivery", "newsletters", "images", "capacity")
    return {
        model._meta.label: model._default_manager.count()
        for app in ours
        for model in apps.get_app_config(app).get_models()
    }


@pytest.fixture(autouse=True)
def nothing_is_stored(
    django_db_setup: None, django_db_blocker: pytest_django.DjangoDbBlocker
) -> Iterator[None]:
    """Compare the tables, without emptying them after each test: that would take half a second."""
    with django_db_blocker.unblock():
        before = rows()
    yield
    with django_db_blocker.unblock():
        after = rows()
        connection.close()
    assert after == before


def address(path: str, job_id: object = "00000000-0000-4000-8000-000000000000") -> str:
    return path.replace("{job_id}", str(job_id)).replace("{name}", "contact-sheet.webp")


def json_if(method: str) -> dict[str, str]:
    return {"Content_Type": "application/json"} if method == "POST" else {}


@pytest.mark.parametrize("path", PATHS)
def test_wrong_methods_get_405_and_are_told_the_right_ones(web: Web, path: str) -> None:
    right = {method.upper() for method in PATHS[path]}
    # Those of files answer HEAD as they answer GET; the document need not say so.
    right |= {"HEAD"} if path.endswith("{name}") else set()
    for method in set(METHODS) - right:
        status, headers, body = send(web, method, address(path))
        assert status == 405, (method, body)
        assert set(headers["allow"].split(", ")) == right
        if method != "HEAD":
            assert_refused((status, headers, body), 405)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_addresses_that_are_not_quite_right_get_404(web: Web, method: str, path: str) -> None:
    assert_refused(send(web, method, address(path) + "/"), 404)
    assert_refused(send(web, method, address(path) + "/more"), 404, 405)
    assert_refused(send(web, method, "/api" + address(path)), 404)
    if "{job_id}" not in path:
        return
    for odd in (
        "1", "newsletters", "%00", "%ff", "..%2f..", "00000000-0000-4000-8000-00000000000",
        "%7B%7D", "0" * 4000, "'; DROP TABLE jobs_job; --".replace(" ", "%20"),
    ):  # fmt: skip
        assert_refused(send(web, method, address(path, odd)), 404, 405)
    assert_refused(send(web, method, address(path), **json_if(method)), 404)


@pytest.mark.parametrize(
    "path", ["/api/jobs/newsletter/x", "/api/nothing", "/api//jobs", "/api/%00", "/api/jobs%2f"]
)
def test_where_nothing_is_there_is_404(web: Web, path: str) -> None:
    for method in METHODS:
        status, headers, body = send(web, method, path)
        assert status == 404
        if method != "HEAD":
            assert_refused((status, headers, body), 404)


def test_what_is_no_http_is_refused_by_the_server_itself(web: Web) -> None:
    assert send(web, "BREW", "/api/jobs")[0] == 400
    assert send(web, "GET", "/api/jobs", X_Odd="\x7f")[0] == 400


@pytest.mark.parametrize(("path", "content_type"), UPLOADS)
def test_other_content_is_refused_as_such(web: Web, path: str, content_type: str) -> None:
    for odd in (
        "text/plain", "application/xml", "application/x-www-form-urlencoded", "nonsense", "",
        "application/json", "multipart/form-data; boundary=x", "application/jsonx", "*/*",
    ):  # fmt: skip
        if odd.partition(";")[0] != content_type:
            assert_refused(send(web, "POST", path, json.dumps(GOOD), Content_Type=odd), 415)


@pytest.mark.parametrize("path", JSON_UPLOADS)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param("{", id="not closed"),
        pytest.param("", id="nothing"),
        pytest.param("{'subject': 1}", id="not JSON"),
        pytest.param("[" * 500_000, id="nested deeply"),
        pytest.param("[" * 100_000 + "]" * 100_000, id="nested deeply, closed"),
        pytest.param(b"\xff\xfe\x00", id="not UTF-8"),
        pytest.param(json.dumps(GOOD).encode("utf-16"), id="UTF-16"),
        pytest.param(json.dumps(GOOD)[:-1] + ', "subject": "x"}', id="a name twice"),
        pytest.param('{"subject": NaN}', id="NaN"),
        pytest.param('{"subject": -Infinity}', id="Infinity"),
        pytest.param(f'{{"subject": {"9" * 100_000}}}', id="a number of 100,000 digits"),
        pytest.param('{"subject": 1e999}', id="a number that is infinite"),
        pytest.param(json.dumps({**GOOD, "subject": "a\x00"}), id="U+0000"),
        pytest.param(json.dumps({**GOOD, "subject": "\ud800"}), id="a lone surrogate, escaped"),
        pytest.param('{"subject": "\ud800"}', id="a lone surrogate, as bytes"),
        pytest.param(json.dumps({**GOOD, "\x00": 1}), id="U+0000 as a name"),
        pytest.param(json.dumps({**GOOD, "\ud800": 1}), id="a lone surrogate as a name"),
        pytest.param("null", id="null"),
        pytest.param("[]", id="a list"),
        pytest.param('"text"', id="text"),
        pytest.param("1", id="a number"),
        pytest.param("{}", id="an empty object"),
        pytest.param('{"__proto__": {}, "constructor": 1}', id="unknown names"),
    ],
)
def test_bodies_that_are_no_request_are_refused(web: Web, path: str, body: Any) -> None:
    assert_refused(send(web, "POST", path, body, Content_Type="application/json"), 400, 422)


@pytest.mark.parametrize("path", [path for path, _ in UPLOADS])
@pytest.mark.parametrize("key", ["k" * 201, "with space", "tab\tkey", "ümlaut", " "])
def test_keys_that_are_none_are_refused(web: Web, path: str, key: str) -> None:
    content_type = dict(UPLOADS)[path]
    answer = send(
        web, "POST", path, json.dumps(GOOD),
        Idempotency_Key=key, Content_Type=f"{content_type}; boundary=x",
    )  # fmt: skip
    assert_refused(answer, 422)
    assert b"Idempotency-Key" in answer[2], "whatever else is wrong, the key is named"


@pytest.mark.parametrize(
    "query",
    [
        "cursor=x", "cursor=" + "A" * 32 + "%00", "cursor=" + "_" * 32, "cursor=", "cursor=%ff",
        "limit=0", "limit=-1", "limit=201", "limit=1e2", "limit=" + "9" * 5000, "limit=NaN",
        "limit=", "limit=%00", "state=odd", "state=", "kind=%00", "kind=A", "kind=%ed%a0%80",
        "kind=" + "a" * 41, f"cursor={uuid.uuid4()}",
    ],
)  # fmt: skip
def test_questions_that_are_none_are_refused(web: Web, query: str) -> None:
    assert_refused(send(web, "GET", f"/api/jobs?{query}"), 422)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_is_too_long_is_refused(web: Web, method: str, path: str) -> None:
    assert_refused(send(web, method, f"{address(path)}?{'a' * 9000}"), 414)
    assert_refused(send(web, method, address(path), X_Odd="a" * 40_000), 431)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "},
        {"Authorization": "Bearer \xff"}, {"Authorization": "Basic dTpw"},
        {"Authorization": f"Bearer  {TOKEN}"}, {"Authorization": TOKEN},
        {"Authorization": "Bearer x", "Cookie": "sessionid=%00"},
        {"Authorization": "", "Cookie": f"sessionid={'a' * 32}"},
        {"Authorization": "", "Cookie": "sessionid=" + "ä" * 10},
    ],
)  # fmt: skip
def test_who_is_nobody_gets_401(web: Web, method: str, path: str, headers: dict[str, str]) -> None:
    answer = send(web, method, address(path), "{}" if method == "POST" else None, **headers)
    assert_refused(answer, 401)
    assert answer[1]["www-authenticate"] == "Bearer"


def test_an_unknown_host_gets_400(web: Web) -> None:
    assert_refused(send(web, "GET", "/api/jobs", Host="elsewhere.example"), 400)


def slowly(web: Web, headers: str) -> tuple[float, bytes]:
    """Announce a body of 10 MB and send nothing of it; returns seconds to the answer, and it."""
    parts = urlsplit(web.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60) as sender:
        began = time.monotonic()
        sender.sendall(
            f"POST /api/jobs/newsletter HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: 10000000\r\n{headers}\r\n".encode()
        )
        answer = sender.recv(65_536)
        return time.monotonic() - began, answer


@pytest.mark.parametrize("headers", ["", "Authorization: Bearer wrong\r\n"])
def test_strangers_get_their_answer_before_they_send_a_body(web: Web, headers: str) -> None:
    seconds, answer = slowly(web, headers)
    assert answer.startswith(b"HTTP/1.1 401")
    assert seconds < 30, "it did not wait for the body"


def test_a_stranger_may_finish_and_go_on_over_the_same_connection(web: Web) -> None:
    client = HTTPConnection(urlsplit(web.url).netloc, timeout=30)
    for _ in range(2):
        client.request("POST", "/api/jobs/newsletter", b"x" * 8_000_000, JSON_TYPE)
        response = client.getresponse()
        assert response.status == 401
        response.read()
    client.close()


def test_strangers_send_no_large_bodies_to_pages(web: Web) -> None:
    answer = send(web, "POST", "/sign-in", b"x" * 70_000, Authorization="")
    assert_refused(answer, 413)

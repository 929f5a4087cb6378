"""The contract of the API: committed, complete, and as good names for generated clients."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from console.api import api
from console.openapi import as_text
from tests.support.roles import ROOT

TEXT = (ROOT / "docs" / "openapi.json").read_text(encoding="utf-8")
DOCUMENT: dict[str, Any] = json.loads(TEXT)
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
ERROR = {"$ref": "#/components/schemas/ErrorOut"}


def test_the_committed_document_is_that_of_the_routes() -> None:
    assert as_text(api.get_openapi_schema()) == TEXT, "write it with: make openapi"


def test_nothing_in_it_depends_on_the_place() -> None:
    assert "servers" not in DOCUMENT
    assert DOCUMENT["info"]["version"] == "1"
    assert "localhost" not in TEXT


def test_names_are_unique_and_good_for_functions() -> None:
    number = sum(len(methods) for methods in DOCUMENT["paths"].values())
    assert len(OPERATIONS) == number
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in OPERATIONS), OPERATIONS


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_says_all_that_may_happen(name: str) -> None:
    method, path, operation = OPERATIONS[name]
    responses = operation["responses"]
    assert {"401", "429", "503"} <= set(responses)
    assert ("404" in responses) == ("{" in path)
    assert ("403" in responses) == (method == "post")
    assert ("415" in responses) == ("requestBody" in operation)
    keys = [each for each in operation["parameters"] if each["name"] == "Idempotency-Key"]
    assert ("409" in responses) == bool(keys)
    if "202" in responses:
        assert "Location" in responses["202"]["headers"]
    for status in ("429", "503"):
        assert "Retry-After" in responses[status]["headers"]
    assert "WWW-Authenticate" in responses["401"]["headers"]
    for status, response in responses.items():
        assert response["description"]
        assert "X-Request-ID" in response["headers"]
        if int(status) >= 400:
            content = response["content"]["application/json"]
            assert content["schema"] == ERROR
            assert set(content["example"]) == {"code", "message", "detail", "request_id"}
    assert operation["summary"] and operation["security"]

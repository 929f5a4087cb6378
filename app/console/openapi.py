"""The API's description of itself: what ninja derives from the routes, completed in one place.

Routes say what is special about them. What follows from how the API as a whole works (sign-in,
limits, errors, headers) is added here to all of them, also to those that are yet to be written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final, cast

from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError
from ninja.openapi.schema import BODY_CONTENT_TYPES, OpenAPISchema
from ninja.operation import Operation

from console.errors import CODES, UNAVAILABLE_RETRY_SECONDS
from jobs.api import ErrorOut

#: Version of the contract, not of the software: it changes when callers have to.
API_VERSION: Final = "1"

METHODS_WITH_CSRF: Final = ("post", "put", "patch", "delete")
EXAMPLE_REQUEST_ID: Final = "7f3c9c1e-0b52-4d0b-9c0e-3f6d2f7e6a10"
EXAMPLE_JOB: Final = "/api/jobs/0b0f6c0e-5a3c-4f0e-8a57-0c2f3c1d9b11"

WHEN: Final = {
    400: "The body cannot be read.",
    401: "No valid token and no session of a staff member.",
    403: "A session without its CSRF token (`X-CSRFToken`).",
    404: "There is nothing at this address.",
    409: "The `Idempotency-Key` was used for a different request.",
    412: "A condition of the request (`If-Match`, ...) does not hold.",
    413: "The body is too large.",
    415: "The body has a type of content that is not taken here.",
    422: "Values are not valid; `detail` lists the first faults with their places.",
    429: "The caller asks too often; `Retry-After` says how many seconds to wait.",
    503: "The database is away; nothing was stored.",
}

DETAILS: Final[dict[int, Any]] = {
    422: {
        "faults": [{"where": ["query", "limit"], "what": "Input should be less than 201"}],
        "number_of_faults": 1,
    }
}


def _header(description: str, example: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": {**schema, "examples": [example]}}


REQUEST_ID: Final = _header(
    "Names this request in our log.", EXAMPLE_REQUEST_ID, type="string", format="uuid"
)
LOCATION: Final = _header("Address of the job.", EXAMPLE_JOB, type="string")
CHALLENGE: Final = _header("How to sign in.", "Bearer", type="string")
RETRY_AFTER: Final = _header(
    "Seconds to wait.", str(UNAVAILABLE_RETRY_SECONDS), type="string", pattern="^[0-9]+$"
)
HEADERS: Final = {
    202: {"Location": LOCATION},
    401: {"WWW-Authenticate": CHALLENGE},
    429: {"Retry-After": RETRY_AFTER},
    503: {"Retry-After": RETRY_AFTER},
}


class DocumentedAPI(NinjaAPI):
    """An API whose document is complete, and which takes only the content that it names."""

    def get_openapi_operation_id(self, operation: Operation) -> str:
        """Return the name of the function: short, and good as a name in generated clients."""
        return operation.view_func.__name__

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        """Return the document."""
        document = super().get_openapi_schema(**options)
        complete(document)
        return document

    def create_temporal_response(self, request: HttpRequest) -> HttpResponse:
        """Refuse content of another type than the route takes.

        Ninja would read it all the same. It calls this for each request that is let in, before it
        reads the body and where it handles errors.

        Raises:
            HttpError: 415.
        """
        taken = self._content_type_taken(request)
        if taken is not None and request.content_type != taken:
            raise HttpError(415, f"Send {taken}.")
        return super().create_temporal_response(request)

    def _content_type_taken(self, request: HttpRequest) -> str | None:
        match = request.resolver_match
        if match is None:
            return None
        for bound in self._get_bound_routers():
            for path in bound.path_operations.values():
                for operation in path.operations:
                    named = getattr(operation, "url_name", operation.view_func.__name__)
                    if named == match.url_name and request.method in operation.methods:
                        return content_type_of(operation)
        return None


def content_type_of(operation: Operation) -> str | None:
    """Return the type of the body that an operation takes, or None without a body."""
    sources = {
        source
        for model in operation.models
        if (source := model.__ninja_param_source__) in BODY_CONTENT_TYPES
    }
    if not sources:
        return None
    return BODY_CONTENT_TYPES["file" if len(sources) > 1 else sources.pop()]


def complete(document: dict[str, Any]) -> None:
    """Add to a document of ninja's what holds for the whole API."""
    document.pop("servers", None)  # clients know where they got it
    schemas = document["components"]["schemas"]
    schemas["ErrorOut"] = ErrorOut.model_json_schema(mode="serialization")
    for method, operation in _operations(document):
        operation["parameters"] = [_without_null(each) for each in operation["parameters"]]
        responses = {int(status): each for status, each in operation["responses"].items()}
        for status in _possible_errors(method, operation):
            responses.setdefault(status, {})
        for status, response in responses.items():
            if status >= 400:
                response.update(_error(status))
            elif "description" not in response:
                response["description"] = HTTPStatus(status).phrase
            headers = {"X-Request-ID": REQUEST_ID, **HEADERS.get(status, {})}
            response["headers"] = {**headers, **response.get("headers", {})}
        operation["responses"] = {str(status): responses[status] for status in sorted(responses)}
    _drop_unused(document)


def _drop_unused(document: dict[str, Any]) -> None:
    """Leave out schemas that nothing refers to: those of parameters, which stand in place."""
    schemas = document["components"]["schemas"]
    while True:
        text = json.dumps(document)
        unused = [name for name in schemas if f'"#/components/schemas/{name}"' not in text]
        if not unused:
            return
        for name in unused:
            del schemas[name]


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for methods in document["paths"].values():
        yield from methods.items()


def _possible_errors(method: str, operation: dict[str, Any]) -> Iterator[int]:
    yield from (401, 429, 503)
    places = {parameter["in"] for parameter in operation["parameters"]}
    names = {parameter["name"] for parameter in operation["parameters"]}
    if method in METHODS_WITH_CSRF:
        yield from (403, 413)
    if "path" in places:
        yield 404
    if "Idempotency-Key" in names:
        yield 409
    if "requestBody" in operation:
        yield from (400, 415)
    if "requestBody" in operation or places & {"query", "header"}:
        yield 422


def _error(status: int) -> dict[str, Any]:
    code, message = CODES[status]
    example = {
        "code": code,
        "message": message,
        "detail": DETAILS.get(status),
        "request_id": EXAMPLE_REQUEST_ID,
    }
    content = {"schema": {"$ref": "#/components/schemas/ErrorOut"}, "example": example}
    return {"description": WHEN[status], "content": {"application/json": content}}


def _without_null(parameter: dict[str, Any]) -> dict[str, Any]:
    """Leave out that a parameter may be null: in an address or a header it is there, or it is not.

    A description stands beside the schema already, and titles repeat names.
    """
    schema = dict(parameter["schema"])
    choices = [each for each in schema.pop("anyOf", []) if each != {"type": "null"}]
    if len(choices) == 1:
        schema.update(choices[0])
    elif choices:
        schema["anyOf"] = choices
    schema.pop("title", None)
    schema.pop("description", None)
    if schema.get("default", ...) is None:
        del schema["default"]
    return {**parameter, "schema": schema}


def as_text(document: dict[str, Any]) -> str:
    """Return the document as it is committed: sorted, indented, with a line break at its end."""
    plain = cast("dict[str, Any]", json.loads(json.dumps(document)))
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

"""One shape for every error of the API, ``{code, message, detail, request_id}``, and one page."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import structlog
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from jobs.rate_limit import RateLimitedError
from jobs.services import IdempotencyKeyReusedError

logger = structlog.get_logger(__name__)

#: Errors of a request's fields that are listed; the rest is only counted.
LISTED_FAULTS: Final = 20
#: Seconds after which a database that was away is worth another try.
UNAVAILABLE_RETRY_SECONDS: Final = 5

#: What Django raises when PostgreSQL does not answer, or no connection is free in time.
DATABASE_AWAY: Final = (OperationalError, InterfaceError)

CODES: Final = {
    400: ("bad_request", "The request cannot be understood."),
    401: ("unauthenticated", "Send a token (Authorization: Bearer ...) or sign in."),
    403: ("forbidden", "You may not do this."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not support the method."),
    408: ("timeout", "The request took too long to arrive."),
    409: ("conflict", "The request contradicts an earlier one."),
    412: ("precondition_failed", "It is not as If-Match or another condition asks."),
    413: ("too_large", "The request is too large."),
    414: ("address_too_long", "The address is too long."),
    415: ("unsupported_media_type", "This address does not take that type of content."),
    422: ("invalid", "Some values are not valid."),
    429: ("too_many_requests", "Try again later; Retry-After says when."),
    431: ("headers_too_large", "The headers are too large."),
    500: ("server_error", "An error of ours; it has been logged under this request_id."),
    503: ("unavailable", "The service is not available for the moment; try again."),
}


def error_body(
    status: int, message: str | None = None, detail: Any = None, request_id: str | None = None
) -> dict[str, Any]:
    """Return the body of an error response; the request id is that of the log, unless given."""
    code, usual_message = CODES.get(status, (f"http_{status}", "The request was refused."))
    return {
        "code": code,
        "message": message or usual_message,
        "detail": detail,
        "request_id": request_id
        or str(structlog.contextvars.get_contextvars().get("request_id", "")),
    }


def install(api: NinjaAPI) -> None:  # noqa: C901 - a list of handlers, each of one line
    """Make an API answer every error in the one shape."""

    def answer(
        request: HttpRequest, status: int, message: str | None = None, detail: Any = None
    ) -> HttpResponse:
        response = api.create_response(request, error_body(status, message, detail), status=status)
        if status == 401:
            response["WWW-Authenticate"] = "Bearer"
        if status == 503:
            response["Retry-After"] = str(UNAVAILABLE_RETRY_SECONDS)
        return response

    @api.exception_handler(ValidationError)
    def invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
        faults = [
            {"where": [str(part) for part in fault["loc"]], "what": fault["msg"]}
            for fault in error.errors[:LISTED_FAULTS]
        ]
        return answer(
            request, 422, detail={"faults": faults, "number_of_faults": len(error.errors)}
        )

    @api.exception_handler(AuthenticationError)
    def unauthenticated(request: HttpRequest, _error: AuthenticationError) -> HttpResponse:
        return answer(request, 401)

    @api.exception_handler(HttpError)
    def refused(request: HttpRequest, error: HttpError) -> HttpResponse:
        return answer(request, error.status_code, str(error))

    @api.exception_handler(Http404)
    def not_found(request: HttpRequest, _error: Http404) -> HttpResponse:
        return answer(request, 404)

    @api.exception_handler(RequestDataTooBig)
    def too_large(request: HttpRequest, _error: RequestDataTooBig) -> HttpResponse:
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        return answer(request, 413, f"A body without files may have {limit} bytes.")

    @api.exception_handler(IdempotencyKeyReusedError)
    def key_reused(request: HttpRequest, _error: IdempotencyKeyReusedError) -> HttpResponse:
        return answer(request, 409, "This Idempotency-Key was used for a different request.")

    @api.exception_handler(RateLimitedError)
    def too_many(request: HttpRequest, error: RateLimitedError) -> HttpResponse:
        response = answer(request, 429, str(error))
        response["Retry-After"] = str(error.seconds)
        return response

    def unavailable(request: HttpRequest, error: Any) -> HttpResponse:
        logger.error("database_unavailable", error=repr(error))
        _forget_user(request)
        return answer(request, 503, "The database cannot be reached; nothing was stored.")

    api.add_exception_handler(OperationalError, unavailable)
    api.add_exception_handler(InterfaceError, unavailable)


def _forget_user(request: HttpRequest) -> None:
    """Have nobody look for the user: the log of requests would wait for the database once more."""
    request.user = AnonymousUser()


class ApiErrorMiddleware:
    """Gives the one shape to errors that Django answers itself, and every answer its request id."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        """Take the rest of the chain."""
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a request."""
        response = self._get_response(request)
        if (
            request.path.startswith("/api/")
            and response.status_code >= 400
            and not response.get("Content-Type", "").startswith("application/json")
        ):
            status = response.status_code
            allowed = response.get("Allow")
            response = JsonResponse(error_body(status), status=status)
            if allowed:
                response["Allow"] = allowed
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        if request_id:
            response["X-Request-ID"] = str(request_id)
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer a view that found the database away."""
        if not isinstance(exception, DATABASE_AWAY):
            return None
        _forget_user(request)
        return page_503(request, exception)


# --- Pages ---------------------------------------------------------------------------------------

#: Seconds after which a page that has to wait for the database asks again.
ASK_AGAIN_SECONDS: Final = 5


def error_page(status: int, title: str, explanation: str, *, again: bool = False) -> HttpResponse:
    """Return a page that says what went wrong. It needs no session: that is in the database."""
    context = {
        "title": title,
        "explanation": explanation,
        "again": ASK_AGAIN_SECONDS if again else None,
        "request_id": str(structlog.contextvars.get_contextvars().get("request_id", "")),
    }
    return HttpResponse(render_to_string("console/error.html", context), status=status)


def page_400(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer a request that cannot be understood (``handler400``)."""
    if isinstance(exception, RequestDataTooBig):
        return error_page(413, "Too large", "The form has more text than is accepted (4 MB).")
    return error_page(400, "Not understood", CODES[400][1])


def page_403(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Answer what is not allowed (``handler403``)."""
    return error_page(403, "Not allowed", CODES[403][1])


def csrf_failed(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answer a form that does not prove where it comes from (``CSRF_FAILURE_VIEW``)."""
    return error_page(
        403,
        "The form is out of date",
        "Go back, load the page again, and send it once more. Cookies must be allowed.",
    )


def page_404(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer for an address at which nothing is (``handler404``)."""
    return error_page(404, "Nothing here", "It may have been deleted; finished jobs are not kept.")


def page_500(request: HttpRequest) -> HttpResponse:
    """Answer after an error of ours, or while the database is away (``handler500``)."""
    error = sys.exc_info()[1]
    if isinstance(error, DATABASE_AWAY):
        return page_503(request, error)
    return error_page(500, "An error of ours", "It has been logged with the number below.")


def page_503(request: HttpRequest, error: Exception) -> HttpResponse:
    """Answer while the database is away: nobody can be signed in."""
    logger.error("database_unavailable", error=repr(error))
    response = error_page(
        503,
        "The database cannot be reached",
        "Nothing is lost, and nothing was stored. Pages and sign-in work when it is back.",
        again=request.method == "GET",
    )
    response["Retry-After"] = str(ASK_AGAIN_SECONDS)
    return response

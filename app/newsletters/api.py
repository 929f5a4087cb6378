"""HTTP route of newsletters: submit."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any

from django.core.exceptions import ValidationError
from django.core.mail.message import sanitize_address
from django.core.validators import validate_email
from django.http import HttpRequest, HttpResponse
from ninja import Router, Schema, Status
from pydantic import AfterValidator, ConfigDict, Field

from jobs.api import SUBMISSION_RESPONSES, IdempotencyKey, accepted, caller_of
from jobs.models import Job
from newsletters.services import MAXIMUM_RECIPIENTS, newsletter_submit

router = Router(tags=["newsletters"])


def _address(value: str) -> str:
    """Accept an address that Django would write into the mail just as it is.

    Others would reach a different mailbox: Django decodes ``=?utf-8?q?...``, drops control
    characters and maps international domains (``sanitize_address``).
    """
    try:
        validate_email(value)
        if value.isascii() and sanitize_address(value, "utf-8") == value:
            return value
    except (ValidationError, ValueError):
        pass
    if not value.isascii():
        raise ValueError("not ASCII; write an international domain as xn--...")
    raise ValueError("not a valid mail address")


def _no_control_characters(value: str) -> str:
    # Control characters, lone surrogates, line and paragraph separators (Unicode categories).
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in value):
        raise ValueError("must not contain line breaks or control characters")
    return value


def _text(value: str) -> str:
    # PostgreSQL cannot store U+0000, UTF-8 has no lone surrogates.
    if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("must not contain U+0000 or lone surrogates")
    return value


Address = Annotated[
    str, Field(max_length=254, json_schema_extra={"format": "email"}), AfterValidator(_address)
]


class NewsletterIn(Schema):
    """A newsletter to be sent."""

    model_config = ConfigDict(
        extra="forbid",
        str_strip_whitespace=True,
        json_schema_extra={
            "examples": [
                {
                    "subject": "Hello",
                    "body": "Good morning!",
                    "recipients": ["ada@example.com", "grace@example.com"],
                }
            ]
        },
    )

    subject: Annotated[
        str, Field(min_length=1, max_length=200), AfterValidator(_no_control_characters)
    ]
    body: Annotated[str, Field(min_length=1, max_length=100_000), AfterValidator(_text)]
    recipients: Annotated[
        list[Address],
        Field(
            min_length=1,
            max_length=MAXIMUM_RECIPIENTS,
            description="Addresses; one that is repeated gets one mail.",
        ),
    ]


@router.post(
    "/newsletter",
    response=SUBMISSION_RESPONSES,
    summary="Send one mail to many people",
)
def submit_newsletter(
    request: HttpRequest,
    response: HttpResponse,
    newsletter: NewsletterIn,
    idempotency_key: IdempotencyKey = None,
) -> Status[Job]:
    """Store the newsletter and answer; it is sent in the background."""
    details: dict[str, Any] = newsletter.dict()
    job = newsletter_submit(
        **details, requested_by=caller_of(request), idempotency_key=idempotency_key
    )
    return accepted(response, job)

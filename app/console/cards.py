"""The cards of the first page: for each workload what it shows, its inputs, and the same by API."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from django.conf import settings
from django.urls import reverse
from pydantic import ValidationError

from images.inspection import MAXIMUM_BYTES

#: Faults that are listed on a card; people mend the first ones first.
LISTED_FAULTS: Final = 5


@dataclass(frozen=True, slots=True)
class Field:
    """One input of a card.

    Attributes:
        name: As in the request of the API.
        kind: ``text``, ``lines``, ``number`` or ``file``.
        default: What is in it at first: a job that is done in seconds.
        attributes: More HTML attributes.
    """

    name: str
    label: str
    kind: str = "text"
    default: str = ""
    hint: str = ""
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Card:
    """One workload on the first page.

    Attributes:
        kind: As in ``Job.kind``.
        technique: What of Celery it shows.
        button: What the button says.
        action: Name of the URL that takes the form.
        route: Path of the API's route.
        curl: What follows ``curl``'s usual arguments, one a line.
    """

    kind: str
    title: str
    technique: str
    button: str
    action: str
    route: str
    fields: Sequence[Field]
    curl: Sequence[str]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with what was entered."""

    field: str
    sentence: str


NEWSLETTER: Final = Card(
    kind="newsletter",
    title="Send a newsletter",
    technique="One job, many small tasks: batches of recipients, retries with growing pauses, "
    "nobody mailed twice.",
    button="Send",
    action="newsletter-form",
    route="/api/jobs/newsletter",
    fields=(
        Field(
            "subject", "Subject", default="Hello from Celeriac",
            attributes={"maxlength": 200, "required": "required"},
        ),
        Field(
            "body", "Text", kind="lines", default="The first mail of this stack.",
            attributes={"rows": 2, "required": "required"},
        ),
        Field(
            "recipients", "Recipients", kind="lines",
            default="ada@example.com\ngrace@example.com", hint="one a line, at most 10,000",
            attributes={"rows": 3, "spellcheck": "false"},
        ),
    ),
    curl=(
        "-H 'Content-Type: application/json'",
        "-d '"
        + json.dumps(
            {
                "subject": "Hello from Celeriac",
                "body": "The first mail of this stack.",
                "recipients": ["ada@example.com", "grace@example.com"],
            }
        )
        + "'",
    ),
)  # fmt: skip
#: Only where mails go to a sink: nobody else has asked for them.
INVENTED: Final = Field(
    "invented", "Invented readers besides", kind="number", default="200",
    hint="their mails end in the mail sink",
    attributes={"min": 0, "max": 9000, "step": 1},
)  # fmt: skip
IMAGES: Final = Card(
    kind="images",
    title="Process a picture",
    technique="Fan out and merge: a group makes ten renditions side by side, a chord joins them "
    "into a contact sheet.",
    button="Process",
    action="images-form",
    route="/api/jobs/images",
    fields=(
        Field(
            "file", "Picture", kind="file",
            hint="JPEG, PNG, WebP or GIF, at most 10 MB; none chosen: the sample below",
            attributes={
                "accept": "image/jpeg,image/png,image/webp,image/gif",
                "data-largest": MAXIMUM_BYTES,
            },
        ),
    ),
    curl=("-F 'file=@picture.jpg'",),
)  # fmt: skip
_PLAN: Final = {
    "arrival_rate": 20,
    "service_time_mean": 0.4,
    "service_time_p95": 1.2,
    "target_wait": 2,
    "percentile": 95,
    "max_workers": 16,
}
CAPACITY: Final = Card(
    kind="capacity",
    title="Plan capacity",
    technique="A long computation in chunks: progress, cancel within two seconds, and a killed "
    "worker repeats only its own chunk.",
    button="Plan",
    action="capacity-form",
    route="/api/jobs/capacity",
    fields=tuple(
        Field(
            name, label, kind="number", default=f"{_PLAN[name]:g}", hint=hint,
            attributes={"min": least, "step": step, "required": "required"},
        )
        for name, label, hint, least, step in (
            ("arrival_rate", "Arrivals", "per second", 0, "any"),
            ("service_time_mean", "Task time", "seconds, mean", 0, "any"),
            ("service_time_p95", "Slow tasks", "95 % take less", 0, "any"),
            ("target_wait", "May wait", "seconds", 0, "any"),
            ("percentile", "Holds for", "% of tasks", 50, "any"),
            ("max_workers", "Try up to", "worker slots", 1, "1"),
        )
    ),
    curl=("-H 'Content-Type: application/json'", f"-d '{json.dumps(_PLAN)}'"),
)  # fmt: skip


def cards() -> list[Card]:
    """Return the cards in their order."""
    return [NEWSLETTER, IMAGES, CAPACITY]


def fields_of(card: Card) -> Sequence[Field]:
    """Return the inputs of a card on this stack."""
    if card is NEWSLETTER and settings.FAULT_INJECTION and settings.MAIL_SINK_URL:
        return (*card.fields, INVENTED)
    return card.fields


def shown(
    card: Card, origin: str, entered: Mapping[str, str] | None = None, faults: Iterable[Fault] = ()
) -> dict[str, Any]:
    """Return what the template of a card needs.

    Args:
        card: Which one.
        origin: Scheme and host by which the reader reaches this service.
        entered: What was entered before, to be kept.
        faults: What was wrong with it.
    """
    faults = list(faults)
    wrong = {fault.field for fault in faults}
    return {
        "card": card,
        "url": reverse(card.action),
        "fields": [
            {
                "field": one,
                "id": f"{card.kind}-{one.name}",
                "value": (entered or {}).get(one.name, one.default),
                "is_wrong": one.name in wrong,
            }
            for one in fields_of(card)
        ],
        "faults": [fault.sentence for fault in faults[:LISTED_FAULTS]],
        "more_faults": max(len(faults) - LISTED_FAULTS, 0),
        "curl": " \\\n  ".join(
            [
                f"curl -X POST {origin}{card.route}",
                '-H "Authorization: Bearer $TOKEN"',
                *card.curl,
            ]
        ),
    }


def faults_of(card: Card, error: ValidationError) -> list[Fault]:
    """Return what a schema says of what was entered, in the words of the card."""
    labels = {one.name: one.label for one in fields_of(card)}
    found = []
    for fault in error.errors(include_url=False, include_context=False):
        place = [str(part) for part in fault["loc"]]
        name = place[0] if place else ""
        where = labels.get(name, name.replace("_", " ").capitalize() or "These values")
        if len(place) > 1 and place[1].isdigit():
            where = f"{where}, line {int(place[1]) + 1}"
        found.append(Fault(name, f"{where}: {fault['msg'].removeprefix('Value error, ')}"))
    return found

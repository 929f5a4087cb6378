"""What a message from the broker must be before anything in it is believed.

Each function takes the raw bytes and returns the message for kombu, built from verified parts
only, or raises ``RefusedError``. Anybody who can write to Redis can put anything there: no input
may make these functions fail in another way, take long, or need much memory.

Tasks, control commands and answers to them must be signed. Events are not: they are shown to
people (Flower) and decide nothing, so only their shape is checked.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from kombu.matcher import match
from kombu.utils import json as kombu_json
from kombu.utils.uuid import uuid

from delivery import signing
from delivery.signing import Envelope, Purpose, RefusedError

#: A message is the envelope in base64 and headers: twice the largest payload is enough.
LARGEST_MESSAGE_BYTES: Final = 2 * signing.LARGEST_PAYLOAD_BYTES

_PARTS: Final = {"body", "content-encoding", "content-type", "headers", "properties"}
_LONGEST_NAME: Final = 255

_control_messages = signing.ControlMemory()
#: Broadcasts are not stored: one that was signed before is a replay that no memory knows.
_PROCESS_BEGAN: Final = time.time()


def task(raw: bytes, queue: str) -> dict[str, Any]:
    """Return the message of a task that was popped from a queue.

    Raises:
        RefusedError: It is not signed for exactly this, or would harm the worker that takes it.
    """
    message = _parsed(raw)
    headers, properties = message["headers"], message["properties"]
    envelope = _envelope(message)
    envelope.require(Purpose.TASK, settings.TASK_SIGNING_MAX_AGE_SECONDS)
    place = properties["delivery_info"]
    if place.get("exchange") != "" or place.get("routing_key") != queue:
        raise RefusedError("names another queue than the one it was in")
    correlation_id, reply_to = properties.get("correlation_id"), properties.get("reply_to")
    try:
        binding = signing.binding_of(queue, headers, correlation_id, reply_to)
    except RecursionError:
        raise RefusedError("headers are nested too deeply") from None
    if envelope.binding != binding:
        raise RefusedError("queue or headers are not those that were signed")
    _require(headers, _TASK_HEADERS, "header")
    if not _is_body(_json(envelope.payload)):
        raise RefusedError("the body is not [arguments, keywords, options]")
    accepted = _rebuilt(message, _typed(headers), exchange="", routing_key=queue)
    accepted["properties"] |= {"correlation_id": correlation_id, "reply_to": reply_to}
    if headers.get("redelivered") is True:
        accepted["properties"]["delivery_info"]["redelivered"] = True
    return accepted


def command(raw: bytes, exchange: str, receiver: str) -> dict[str, Any]:
    """Return a control command that was broadcast; ``receiver`` is the mailbox it came to.

    Raises:
        RefusedError: It is not signed, too old, was here before, or is malformed.
    """
    message = _parsed(raw)
    envelope = _fresh(message, Purpose.COMMAND, receiver)
    if envelope.issued_at < _PROCESS_BEGAN:
        raise RefusedError("replayed: signed before this process began")
    content = _json(envelope.payload)
    _require(content, _COMMAND_FIELDS, "command field")
    if content.get("pattern") and content.get("matcher"):
        try:
            match("", content["pattern"], content["matcher"])  # type: ignore[arg-type]  # stubs
        except Exception:  # noqa: BLE001 - whatever is raised makes the worker reset its mailbox
            raise RefusedError("command field pattern or matcher is malformed") from None
    return _rebuilt(message, _control_headers(message), exchange=exchange, routing_key="")


def reply(raw: bytes, queue: str) -> dict[str, Any]:
    """Return an answer to a control command that was popped from its list.

    Raises:
        RefusedError: It is not signed, too old, or was here before.
    """
    message = _parsed(raw)
    _fresh(message, Purpose.REPLY, queue)
    return _rebuilt(message, _control_headers(message), exchange="", routing_key=queue)


def event(raw: bytes, exchange: str) -> dict[str, Any]:
    """Return an event, or a list of events, that a process has published about itself.

    Raises:
        RefusedError: It does not have the shape of events.
    """
    message = _parsed(raw)
    if message["content-type"] != "application/json":
        raise RefusedError("an event that is not JSON")
    content = _typed(_json(_decoded(message)))
    for one in content if isinstance(content, list) else [content]:
        _require(one, _EVENT_FIELDS, "event field")
        if one["type"].startswith("task-") and not _is_name(one.get("uuid")):
            raise RefusedError("an event of a task without its id")
    return _rebuilt(message, {}, exchange=exchange, routing_key="")


def check_publishable(headers: Mapping[str, Any]) -> None:
    """Have the caller see what every worker would refuse.

    Raises:
        ValueError: A header is malformed, or says that the body is compressed: to find out what is
            signed, one would have to unpack something that nobody vouches for.
    """
    try:
        _require(headers, _TASK_HEADERS, "header")
    except RefusedError as error:
        raise ValueError(str(error)) from None
    if "compression" in headers:
        raise ValueError("signed messages cannot be compressed")


def _parsed(raw: bytes) -> dict[str, Any]:
    """Return kombu's outer message with every part of the right type."""
    if len(raw) > LARGEST_MESSAGE_BYTES:
        raise RefusedError(f"larger than {LARGEST_MESSAGE_BYTES} bytes")
    message = _json(raw)
    if not isinstance(message, dict) or message.keys() != _PARTS:
        raise RefusedError("not a message: other parts than kombu's")
    if not isinstance(message["headers"], dict):
        raise RefusedError("headers are not an object")
    if not isinstance(message["body"], str):
        raise RefusedError("the body is not text")
    if message["content-encoding"] != signing.CONTENT_ENCODING:
        raise RefusedError("the content encoding is not utf-8")
    _require(message["properties"], _PROPERTIES, "property")
    return message


def _json(text: bytes) -> Any:
    """Return plain JSON: no types of kombu's, whose decoders have faults of their own."""
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError):
        raise RefusedError("not JSON") from None


def _decoded(message: Mapping[str, Any]) -> bytes:
    try:
        return base64.b64decode(message["body"], validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError("the body is not base64") from None


def _envelope(message: Mapping[str, Any]) -> Envelope:
    if message["content-type"] != signing.CONTENT_TYPE:
        raise RefusedError("not signed: another content type")
    return signing.ring().open(_decoded(message))


def _fresh(message: Mapping[str, Any], purpose: Purpose, receiver: str) -> Envelope:
    """Verify a control message; the headers beside it say nothing that decides what happens."""
    envelope = _envelope(message)
    envelope.require(purpose, signing.CONTROL_MAXIMUM_AGE_SECONDS)
    _require(message["headers"], _CONTROL_HEADERS, "header")
    _control_messages.admit(receiver, envelope.nonce)
    return envelope


def _control_headers(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: message["headers"].get(name) for name in _CONTROL_HEADERS}


def _typed(plain: Any) -> Any:
    """Return JSON with kombu's types: dates, UUIDs and such are objects with a mark in it."""
    try:
        return kombu_json.loads(signing.canonical(plain))
    except Exception:  # noqa: BLE001 - the types' decoders raise what they like
        raise RefusedError("holds a value of an unknown type") from None


def _rebuilt(
    message: Mapping[str, Any], headers: dict[str, Any], *, exchange: str, routing_key: str
) -> dict[str, Any]:
    """Return what kombu may have.

    The delivery tag is new: a copy has the tag of its original, and would be acknowledged with it.
    """
    return {
        "body": message["body"],
        "content-encoding": message["content-encoding"],
        "content-type": message["content-type"],
        "headers": headers,
        "properties": {
            "body_encoding": "base64",
            "delivery_info": {"exchange": exchange, "routing_key": routing_key},
            "delivery_mode": 2,
            "delivery_tag": uuid(),
            "priority": message["properties"]["priority"],
        },
    }


def _require(value: Any, shapes: Mapping[str, Callable[[Any], bool]], what: str) -> None:
    """Check the fields that kombu and Celery read without looking."""
    if not isinstance(value, dict):
        raise RefusedError(f"no {what} at all: not an object")
    for name, fits in shapes.items():
        if not fits(value.get(name)):
            raise RefusedError(f"{what} {name} is missing or malformed")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _is_number(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, float) and abs(value) < float("inf"))


def _is_moment(value: Any) -> bool:
    """Say whether Celery can read an ``eta``; kombu's JSON writes dates as objects elsewhere."""
    try:
        return bool(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return False


def _optional(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (list, tuple)) and all(map(fits, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_time_limit(value: Any) -> bool:
    """Say whether a value is [hard, soft], in seconds."""
    return _list_of(_optional(_is_number))(value) and len(value) == 2


def _is_body(value: Any) -> bool:
    match value:
        case [list(), dict(), dict()]:
            return True
    return False


def _is_address(value: Any) -> bool:
    return (
        _is_object(value) and _is_text(value.get("exchange")) and _is_text(value.get("routing_key"))
    )


_PROPERTIES: Final = {
    "body_encoding": lambda value: value == "base64",
    "correlation_id": _optional(_is_text),
    "delivery_info": _is_object,
    "delivery_mode": lambda value: _is_integer(value) and value in (1, 2),
    "delivery_tag": _is_text,
    "priority": lambda value: _is_integer(value) and 0 <= value <= 9,
    "reply_to": _optional(_is_text),
}
#: Signed like all headers, so only a mistake of our own programs gets this far: it must not end
#: the workers one after the other either (celery/worker/request.py, strategy.py).
_TASK_HEADERS: Final = {
    "task": _is_name,
    "id": _is_name,
    "root_id": _optional(_is_text),
    "parent_id": _optional(_is_text),
    "group": _optional(_is_text),
    "group_index": _optional(_is_integer),
    "shadow": _optional(_is_text),
    "eta": _optional(_is_moment),
    "expires": _optional(_is_moment),
    "retries": _optional(_is_integer),
    "timelimit": _optional(_is_time_limit),
    "argsrepr": _optional(_is_text),
    "kwargsrepr": _optional(_is_text),
    "origin": _optional(_is_text),
    "stamps": _optional(_is_object),
    "stamped_headers": _optional(_list_of(_is_text)),
    "enqueued_at": _is_number,
    "redelivered": _optional(lambda value: isinstance(value, bool)),
    "replaced_task_nesting": _optional(_is_integer),
}
_CONTROL_HEADERS: Final = {
    "clock": _optional(_is_integer),
    "expires": _optional(_is_number),
    "ticket": _optional(_is_text),
}
_COMMAND_FIELDS: Final = {
    "method": _is_name,
    "arguments": _optional(_is_object),
    "destination": _optional(_list_of(_is_text)),
    "pattern": _optional(_is_text),
    "matcher": _optional(_is_text),
    "reply_to": _optional(_is_address),
    "ticket": _optional(_is_text),
}
_EVENT_FIELDS: Final = {
    "type": _is_name,
    "clock": _optional(_is_integer),
    "timestamp": _optional(_is_number),
    "utcoffset": _optional(_is_number),
    "hostname": _optional(_is_text),
}

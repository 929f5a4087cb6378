"""Messages that no worker may believe, made from a real one that was taken from the broker.

The envelope is put together here once more, by hand: these functions are also what notices when
its format changes by accident.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
import pickle
import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from delivery.signing import KeyRing

#: A value for each type, and some that are too much. The text of ``DEEP`` is put in afterwards.
DEEP = "deeply nested"
DEEP_JSON = "[" * 100_000 + "]" * 100_000
WRONG_VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "an integer": 7,
    "a huge integer": 10**400,
    "not a number": float("nan"),
    "a text": "xx",
    "an empty text": "",
    "a huge text": "x" * 20_000,
    "half a character": "\ud800",
    "a NUL": "a\0b",
    "a list": [1, "x", None],
    "an object": {"a": 1},
    "an unknown type of kombu": {"__type__": "decimal", "__value__": "xx"},
    "deep nesting": DEEP,
}
#: Time limit, names, times and so on: what Celery reads in the worker's main process.
CELERY_HEADERS = (
    "task", "id", "root_id", "parent_id", "group", "group_index", "shadow", "eta", "expires",
    "retries", "timelimit", "argsrepr", "kwargsrepr", "origin", "ignore_result", "stamps",
    "stamped_headers", "replaced_task_nesting", "enqueued_at", "lang",
)  # fmt: skip


def encoded(message: Any) -> bytes:
    """Return a message as it lies in Redis."""
    return json.dumps(message).replace(f'"{DEEP}"', DEEP_JSON).encode()


def with_body(message: dict[str, Any], body: bytes) -> dict[str, Any]:
    """Return a copy with another body."""
    return {**copy.deepcopy(message), "body": base64.b64encode(body).decode()}


def changed(message: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return a copy in which the value at a path is another one."""
    copied = copy.deepcopy(message)
    parent = copied
    for name in path[:-1]:
        parent = parent[name]
    parent[path[-1]] = value
    return copied


def without(message: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Return a copy without the value at a path."""
    copied = copy.deepcopy(message)
    parent = copied
    for name in path[:-1]:
        parent = parent[name]
    parent.pop(path[-1], None)
    return copied


def envelope_of(message: dict[str, Any]) -> list[bytes]:
    """Return the eight parts of a message's body."""
    return base64.b64decode(message["body"]).split(b".", 7)


def signed(
    message: dict[str, Any],
    key: str,
    *,
    payload: bytes | None = None,
    purpose: str = "task",
    age: float = 0,
) -> dict[str, Any]:
    """Return a copy with a body that is signed with ``id:key``, for all that the message says."""
    name, _, secret = key.partition(":")
    properties = message["properties"]
    bound = [
        properties["delivery_info"]["routing_key"], message["headers"],
        properties["correlation_id"], properties["reply_to"],
    ]  # fmt: skip
    binding = hashlib.sha256(
        json.dumps(bound, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
    issued = int((time.time() - age) * 1000)
    front = f"v1.{purpose}.{name}.{issued}.{secrets.token_hex(8)}.{binding}".encode()
    payload = envelope_of(message)[7] if payload is None else payload
    signature = hmac.digest(secret.encode(), front + b"." + payload, "sha256").hex().encode()
    return with_body(message, b".".join((front, signature, payload)))


def unsigned(message: dict[str, Any], body: Any) -> dict[str, Any]:
    """Return a message as a stock Celery sends it."""
    stock = with_body(message, json.dumps(body).encode())
    stock["content-type"] = "application/json"
    return stock


def command(content: Any, ring: KeyRing, **headers: Any) -> bytes:
    """Return a control command, or an answer to one, as kombu publishes it."""
    return encoded({
        "body": base64.b64encode(ring.encode(content).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/x-signed-message",
        "headers": {"clock": 1, "expires": 0, **headers},
        "properties": {
            "delivery_mode": 1,
            "delivery_info": {"exchange": "celery.pidbox", "routing_key": ""},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "x",
        },
    })  # fmt: skip


def malformed(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield names and messages: each differs from the real one in one place, at every level."""
    message = json.loads(raw)
    yield from _not_a_message(raw)
    yield from _wrong_parts(message)
    yield from _wrong_envelopes(message)
    yield from _unsigned_shapes(message)


def _not_a_message(raw: bytes) -> Iterator[tuple[str, bytes]]:
    texts = {
        "nothing": b" ",
        "no JSON": b"not json",
        "half of it": raw[: len(raw) // 2],
        "two of them": raw + raw,
        "a comma too many": raw[:-1] + b",}",
        "bytes": bytes(range(256)),
        "UTF-16": raw.decode().encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf" + raw,
        "a NUL": b"\0",
        "zlib": zlib.compress(raw),
        "a pickle": pickle.dumps({"body": "x"}),
        "deep lists": b"[" * 200_000,
        "deep objects": b'{"a":' * 100_000,
        "a long number": b"1" * 100_000,
        "five megabytes": b'"' + b"x" * 5_000_000 + b'"',
    }
    for name, text in texts.items():
        yield f"the text is {name}", text
    for name, value in WRONG_VALUES.items():
        yield f"the message is {name}", encoded(value)


def _wrong_parts(message: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    paths = [
        *((part,) for part in message),
        *(("headers", name) for name in message["headers"]),
        *(("properties", name) for name in message["properties"]),
        *(("properties", "delivery_info", name) for name in ("exchange", "routing_key")),
    ]
    # Any text is a tag and any digit a priority; both are only about the place in the queue.
    free: dict[tuple[str, ...], Callable[[Any], bool]] = {
        ("properties", "delivery_tag"): lambda value: isinstance(value, str) and value != DEEP,
        ("properties", "priority"): lambda value: value == 7,
    }
    for path in paths:
        where = ".".join(path)
        original = message
        for name in path:
            original = original[name]
        yield f"{where} is missing", encoded(without(message, path))
        for name, value in WRONG_VALUES.items():
            same = type(value) is type(original) and value == original
            if not same and not free.get(path, lambda _: False)(value):
                yield f"{where} is {name}", encoded(changed(message, path, value))
    for path in [(), ("headers",), ("properties",)]:
        if path != ("properties",):
            where = ".".join((*path, "unknown"))
            yield f"{where} is there", encoded(changed(message, (*path, "unknown"), 1))
    yield "priority is negative", encoded(changed(message, ("properties", "priority"), -1))
    yield "priority is ten", encoded(changed(message, ("properties", "priority"), 10))


def _wrong_envelopes(message: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    parts = envelope_of(message)
    names = ("version", "purpose", "key", "time", "nonce", "binding", "signature", "payload")
    others = {
        "empty": b"",
        "zero": b"0",
        "text": b"xx",
        "no text": b"\xff\xfe\0",
        "huge": b"9" * 9999,
    }
    for index, part in enumerate(names):
        yield (
            f"an envelope without {part}",
            encoded(with_body(message, b".".join(parts[:index] + parts[index + 1 :]))),
        )
        for name, value in others.items():
            replaced = [*parts[:index], value, *parts[index + 1 :]]
            if replaced != parts:
                yield f"{part} is {name}", encoded(with_body(message, b".".join(replaced)))
    body = message["body"]
    for name, text in {
        "not base64": "!" + body,
        "cut": body[:-5],
        "with spaces": f"{body[:10]} {body[10:]}",
        "base64 of base64": base64.b64encode(body.encode()).decode(),
        "not encoded": base64.b64decode(body).decode(),
    }.items():
        yield f"the body is {name}", encoded({**message, "body": text})


def _unsigned_shapes(message: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield what ended stock workers (celery#7975), and its relatives."""
    options: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    stock = unsigned(message, [[], {}, options])
    bodies = {
        "two items": [[], {}], "one item": [[]], "four items": [[], {}, {}, {}], "a text": "x",
        "a number": 1, "null": None, "an object": {"args": []},
        "arguments null": [None, {}, options], "arguments an object": [{}, {}, options],
        "arguments a text": ["x", {}, options],
        "keywords null": [[], None, options], "keywords a list": [[], [], options],
        "options null": [[], {}, None], "options a list": [[], {}, []],
        "callbacks a text": [[], {}, {**options, "callbacks": "x"}],
        "chain a number": [[], {}, {**options, "chain": 1}],
        "chord a text": [[], {}, {**options, "chord": "x"}],
        "the old protocol": {"task": "images.note", "id": "1", "args": [], "kwargs": {}},
        "the old protocol, half": {"task": "images.note"},
    }  # fmt: skip
    for name, body in bodies.items():
        yield f"unsigned: {name}", encoded(unsigned(message, body))
    yield "unsigned: an empty body", encoded({**stock, "body": ""})
    yield "unsigned: no body", encoded(without(stock, ("body",)))
    yield "unsigned: application/data", encoded({**stock, "content-type": "application/data"})
    yield "unsigned: text", encoded({**stock, "content-type": "application/text"})
    yield "unsigned: no content type", encoded({**stock, "content-type": None})
    yield "unsigned: the body not base64", encoded({**stock, "body": "%%%"})
    yield (
        "unsigned: bogus body_encoding",
        encoded(changed(stock, ("properties", "body_encoding"), "rot13")),
    )
    headers = {"task": ["x"], "timelimit": "xx", "stamps": "xx", "eta": "tomorrow"}
    for name, value in headers.items():
        yield f"unsigned: {name} is {value}", encoded(changed(stock, ("headers", name), value))
    yield "unsigned: no id", encoded(without(stock, ("headers", "id")))
    yield "unsigned: no task", encoded(without(stock, ("headers", "task")))


def forged(raw: bytes, *, other_queue: str, trap: Path) -> Iterator[tuple[str, bytes]]:
    """Yield names and messages that would make a believing worker do something.

    Args:
        raw: A real message, whose task appends its first argument to a file (``tests.note``).
        other_queue: A queue that the message was not sent to.
        trap: A file that exists if one of them did something.
    """
    message = json.loads(raw)
    arguments = [["forged", str(trap)], {}, {}]
    options = json.dumps(arguments).encode()
    parts = envelope_of(message)
    command = f"touch {trap}"

    class Exploit:
        def __reduce__(self) -> Any:
            return (__import__("os").system, (command,))

    def header(name: str, value: Any) -> bytes:
        return encoded(changed(message, ("headers", name), value))

    yield "unsigned", encoded(unsigned(message, arguments))
    exploit = with_body(message, pickle.dumps(Exploit()))
    yield "pickle", encoded({**exploit, "content-type": "application/x-python-serialize"})
    yield "pickle, said to be signed", encoded(exploit)
    yield "yaml", encoded({**exploit, "content-type": "application/x-yaml"})
    yield "body changed", encoded(with_body(message, b".".join((*parts[:7], options))))
    yield "body appended", encoded(with_body(message, b".".join(parts) + b" "))
    yield "task changed", header("task", "celery.backend_cleanup")
    yield "id changed", header("id", "00000000-0000-0000-0000-000000000000")
    yield "time limit changed", header("timelimit", [1, None])
    yield "eta changed", header("eta", "2099-01-01T00:00:00+00:00")
    yield "expiry changed", header("expires", "2000-01-01T00:00:00+00:00")
    yield "retries changed", header("retries", True)
    yield "log context added", header("request_id", "forged")
    yield "compressed", header("compression", "zlib")
    yield "answers to another", encoded(changed(message, ("properties", "reply_to"), "stranger"))
    place = ("properties", "delivery_info", "routing_key")
    yield "queue changed", encoded(changed(message, place, other_queue))
    yield "unknown key", encoded(signed(message, "stranger:" + "k" * 40, payload=options))
    name = parts[2].decode()
    yield "known id, other key", encoded(signed(message, f"{name}:{'k' * 40}", payload=options))
    yield "known id, empty key", encoded(signed(message, f"{name}:", payload=options))


def outdated(raw: bytes, key: str, maximum_age: float) -> Iterator[tuple[str, bytes]]:
    """Yield messages that are signed with a key of the ring, for another time or purpose."""
    message = json.loads(raw)
    yield "too old", encoded(signed(message, key, age=maximum_age + 60))
    yield "from the future", encoded(signed(message, key, age=-3600))
    yield "signed as a command", encoded(signed(message, key, purpose="command"))
    yield "signed as a reply", encoded(signed(message, key, purpose="reply"))


def mistaken(raw: bytes, key: str) -> Iterator[tuple[str, bytes]]:
    """Yield messages that one of our own programs has signed although they make no sense."""
    message = json.loads(raw)
    for name in CELERY_HEADERS:
        yield f"{name} is missing", encoded(signed(without(message, ("headers", name)), key))
        for what, value in WRONG_VALUES.items():
            if value != DEEP:
                wrong = changed(message, ("headers", name), value)
                yield f"{name} is {what}", encoded(signed(wrong, key))
    for moment in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-02-30", "1"):
        for name in ("eta", "expires"):
            wrong = changed(message, ("headers", name), moment)
            yield f"{name} is {moment}", encoded(signed(wrong, key))
    for limits in ([1], [1, 2, 3], ["1", None], [True, None], [-1, -1], [1e308, 0.0]):
        wrong = changed(message, ("headers", "timelimit"), limits)
        yield f"time limits are {limits}", encoded(signed(wrong, key))
    payloads: dict[str, Any] = {
        "two items": [[], {}], "a text": "x", "null": None, "an object": {"args": []},
        "arguments null": [None, {}, {}], "keywords a list": [[], [], {}],
        "options null": [[], {}, None], "options a list": [[], {}, []],
        "an unknown type": [[{"__type__": "zzz", "__value__": 1}], {}, {}],
    }  # fmt: skip
    for what, value in payloads.items():
        yield (
            f"the payload is {what}",
            encoded(signed(message, key, payload=json.dumps(value).encode())),
        )

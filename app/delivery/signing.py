"""Signed envelopes: who may put work into the queues, and what exactly was put there.

The body of every message is an envelope, one line of text::

    v1.<purpose>.<key id>.<issued, ms>.<nonce>.<binding>.<signature>.<payload>

The signature is HMAC-SHA256 over all other parts. The binding is a digest of what stands beside
the body in the broker and decides what runs: the queue and *all* headers, so a signed body cannot
be given another task name, id, time limit or queue. Purposes keep a task from being taken for a
control command. A worker verifies before it looks at anything (``delivery.acceptance``); the pool
process verifies the signature again when it unpacks the arguments.

Keys come from ``TASK_SIGNING_KEYS``: the first signs, all verify (docs/operations.md, rotation).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Final

from celery import signals
from django.conf import settings
from kombu import serialization
from kombu.utils import json as kombu_json

#: Name of the serializer, for ``CELERY_TASK_SERIALIZER`` and ``CELERY_ACCEPT_CONTENT``.
SERIALIZER: Final = "signed"
CONTENT_TYPE: Final = "application/x-signed-message"
CONTENT_ENCODING: Final = "utf-8"

#: Bytes of arguments that one message may carry. Larger ones belong into the database: a worker
#: parses each message in its main process, and memory is several times the text.
LARGEST_PAYLOAD_BYTES: Final = 2 * 1024 * 1024
#: Seconds that the clocks of two machines may differ. Synchronised ones differ by milliseconds.
CLOCK_TOLERANCE_SECONDS: Final = 30.0
#: Seconds for which control commands and their answers count. Celery itself waits for one second.
CONTROL_MAXIMUM_AGE_SECONDS: Final = 60.0
#: Control messages that are remembered against replays. Only signed ones are.
REMEMBERED_CONTROL_MESSAGES: Final = 10_000

#: Where the binding travels from the signal to the serializer: in the third part of a task's body.
_BOUND_KEY: Final = "delivery.signing.bound"
#: kombu sets it on a message that it puts back; nothing that runs depends on it.
_UNBOUND_HEADER: Final = "redelivered"


class RefusedError(Exception):
    """A message must not be believed. The text says why, in words for the quarantine."""


class Purpose(StrEnum):
    """What an envelope may be used for."""

    TASK = "task"
    COMMAND = "command"
    REPLY = "reply"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A verified envelope.

    Attributes:
        issued_at: When it was signed, in seconds of the Unix epoch, by the sender's clock.
        nonce: Random, different in each envelope.
        binding: Digest of what the message says beside its body; empty if nothing is bound.
        payload: JSON.
    """

    purpose: str
    issued_at: float
    nonce: str
    binding: str
    payload: bytes

    def require(self, purpose: Purpose, maximum_age: float) -> None:
        """Check what it was signed for, and when.

        Raises:
            RefusedError: It is for something else, older than so many seconds, or from the future.
        """
        if self.purpose != purpose:
            raise RefusedError(f"signed as a {self.purpose}, used as a {purpose}")
        age = time.time() - self.issued_at
        if age > maximum_age + CLOCK_TOLERANCE_SECONDS:
            raise RefusedError(f"signed {age:.0f} s ago; allowed are {maximum_age:.0f} s")
        if age < -CLOCK_TOLERANCE_SECONDS:
            raise RefusedError(f"signed {-age:.0f} s in the future: do the clocks agree?")


class KeyRing:
    """Keys by id: the first one signs, all of them verify."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """Take the keys.

        Raises:
            ValueError: There is none.
        """
        if not keys:
            raise ValueError("a key ring needs at least one key")
        self._keys = {name.encode(): secret.encode() for name, secret in keys.items()}
        self._signer = next(iter(self._keys))

    def seal(self, purpose: Purpose, payload: str, binding: str = "") -> str:
        """Return the envelope of a payload."""
        issued = int(time.time() * 1000)
        nonce = secrets.token_hex(8)
        front = f"v1.{purpose}.{self._signer.decode()}.{issued}.{nonce}.{binding}"
        signature = self._sign(self._signer, front.encode(), payload.encode()).decode()
        return f"{front}.{signature}.{payload}"

    def open(self, text: bytes) -> Envelope:
        """Verify an envelope.

        Raises:
            RefusedError: It is malformed, or not signed with a key of this ring.
        """
        match text.split(b".", 7):
            case [b"v1", purpose, key, issued, nonce, binding, signature, payload]:
                front = b".".join((b"v1", purpose, key, issued, nonce, binding))
            case _:
                raise RefusedError("not a signed envelope")
        if key not in self._keys:
            raise RefusedError("signed with an unknown key")
        if not hmac.compare_digest(self._sign(key, front, payload), signature):
            raise RefusedError("the signature is wrong")
        # From here on it was written by a holder of the key.
        return Envelope(
            purpose.decode(), int(issued) / 1000, nonce.decode(), binding.decode(), payload
        )

    def encode(self, content: Any) -> str:
        """Sign a task's body, a control command or its answer (the serializer's encoder).

        Raises:
            ValueError: The content is larger than ``LARGEST_PAYLOAD_BYTES``.
        """
        purpose, binding = Purpose.REPLY, ""
        match content:
            case (arguments, keywords, {**embedded}) if _BOUND_KEY in embedded:
                bound: Any = embedded.pop(_BOUND_KEY)
                content = (arguments, keywords, embedded)
                purpose, binding = Purpose.TASK, bound.digest()
            case {"method": _}:
                purpose = Purpose.COMMAND
        payload = kombu_json.dumps(content)
        if len(payload) > LARGEST_PAYLOAD_BYTES:
            raise ValueError(
                f"a message of {len(payload)} bytes; allowed are {LARGEST_PAYLOAD_BYTES}: store "
                "the data and send its id"
            )
        return self.seal(purpose, payload, binding)

    def decode(self, text: bytes | str) -> Any:
        """Return the content of an envelope (the serializer's decoder).

        Age, purpose and binding were checked when the message arrived; only its arrival has the
        message beside the body, and a task may wait in the worker after it.

        Raises:
            RefusedError: See ``open``.
        """
        text = text.encode() if isinstance(text, str) else bytes(text)
        return kombu_json.loads(self.open(text).payload)

    def _sign(self, key: bytes, front: bytes, payload: bytes) -> bytes:
        digest = hmac.new(self._keys[key], front, hashlib.sha256)
        digest.update(b".")
        digest.update(payload)
        return digest.hexdigest().encode()


@cache
def ring() -> KeyRing:
    """Return the keys of this process."""
    return KeyRing(settings.TASK_SIGNING_KEYS)


class ControlMemory:
    """Remembers control messages for as long as they count, so that none counts twice."""

    def __init__(self, size: int = REMEMBERED_CONTROL_MESSAGES) -> None:
        """Remember at most so many."""
        self._size = size
        self._forget_at: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def admit(self, receiver: str, nonce: str) -> None:
        """Note that a receiver gets an envelope.

        Raises:
            RefusedError: It has got that one before, or there are too many to remember.
        """
        now = time.monotonic()
        with self._lock:
            # In the order of insertion, which is that of their ends.
            while self._forget_at:
                oldest = next(iter(self._forget_at))
                if self._forget_at[oldest] > now:
                    break
                del self._forget_at[oldest]
            if (receiver, nonce) in self._forget_at:
                raise RefusedError("replayed: this control message came before")
            if len(self._forget_at) >= self._size:
                raise RefusedError(f"more than {self._size} control messages at a time")
            self._forget_at[receiver, nonce] = (
                now + CONTROL_MAXIMUM_AGE_SECONDS + 2 * CLOCK_TOLERANCE_SECONDS
            )


@dataclass(frozen=True, slots=True)
class Bound:
    """What a task's message says beside its body; references, so later additions count.

    JSON cannot encode it: a caller who asks for another serializer than the signed one gets an
    error at once, instead of a message that every worker refuses.
    """

    exchange: str
    queue: str
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]

    def digest(self) -> str:
        """Return the digest as it is when the message is encoded.

        Raises:
            ValueError: It goes to an exchange: which queues that reaches would not be signed.
        """
        if self.exchange:
            raise ValueError(f"signed tasks go to a queue, not to an exchange ({self.exchange})")
        headers = json.loads(kombu_json.dumps(self.headers))
        return binding_of(
            self.queue,
            headers,
            self.properties.get("correlation_id"),
            self.properties.get("reply_to"),
        )


def binding_of(
    queue: str, headers: Mapping[str, Any], correlation_id: str | None, reply_to: str | None
) -> str:
    """Return the digest that binds a body to its place; ``headers`` as plain JSON has them.

    A digest, not a copy of the headers that is compared: the message stays half as long, and
    ``1``, ``1.0`` and ``true`` stay different.
    """
    return hashlib.sha256(
        canonical([queue, bound_headers(headers), correlation_id, reply_to]).encode()
    ).hexdigest()


def bound_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers that the sender has signed."""
    return {name: value for name, value in headers.items() if name != _UNBOUND_HEADER}


def canonical(value: Any) -> str:
    """Return the one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _bind(
    body: Any,
    headers: dict[str, Any],
    exchange: str,
    routing_key: str,
    properties: dict[str, Any],
    **_: Any,
) -> None:
    """Stamp a task's message, and note what its signature must cover (before_task_publish).

    Celery logs what a receiver raises and goes on, so refusing anything is left to ``digest`` and
    to ``acceptance.check_publishable``, which also notices when this did not run.
    """
    headers.setdefault("enqueued_at", time.time())
    _arguments, _keywords, embedded = body
    embedded[_BOUND_KEY] = Bound(exchange, routing_key, headers, properties)


def install() -> None:
    """Make this process sign what it publishes and verify what it unpacks."""
    keys = ring()
    serialization.register(
        SERIALIZER, keys.encode, keys.decode, CONTENT_TYPE, content_encoding=CONTENT_ENCODING
    )
    signals.before_task_publish.connect(_bind, weak=False, dispatch_uid="delivery-signing")

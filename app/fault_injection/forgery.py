"""Messages that look like ours and are not: what somebody who can write to Redis would try."""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import time
import uuid
from typing import Any, Final

from django.conf import settings

from delivery import broker, signing
from delivery.signing import KeyRing, Purpose

#: A task of ours, which would run if the message were believed.
FORGED_TASK: Final = "fault_injection.brief"


def messages_forge(queue: str) -> list[str]:
    """Put forged messages into a queue of the broker; returns the task ids they claim.

    Raises:
        redis.exceptions.RedisError: The broker is away.
    """
    forgeries = [_unsigned(queue), _with_wrong_key(queue)]
    with broker.client() as redis:
        redis.lpush(queue, *(json.dumps(forgery) for forgery in forgeries))
    return [forgery["headers"]["id"] for forgery in forgeries]


def _unsigned(queue: str) -> dict[str, Any]:
    """Return what any Celery program without our settings would send."""
    return _message(queue, _BODY.encode(), "application/json")


def _with_wrong_key(queue: str) -> dict[str, Any]:
    """Return a message in our own format that names our key, and was signed with another one."""
    key = next(iter(settings.TASK_SIGNING_KEYS))
    message = _message(queue, b"", signing.CONTENT_TYPE)
    binding = signing.binding_of(
        queue, message["headers"], message["properties"]["correlation_id"], None
    )
    envelope = KeyRing({key: secrets.token_hex(32)}).seal(Purpose.TASK, _BODY, binding)
    message["body"] = base64.b64encode(envelope.encode()).decode()
    return message


_BODY: Final = json.dumps(
    [["forged"], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
)


def _message(queue: str, body: bytes, content_type: str) -> dict[str, Any]:
    """Return a message as kombu puts it into a list of Redis."""
    task_id = str(uuid.uuid4())
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": content_type,
        "headers": {
            "lang": "py",
            "task": FORGED_TASK,
            "id": task_id,
            "root_id": task_id,
            "parent_id": None,
            "group": None,
            "retries": 0,
            "timelimit": [None, None],
            "eta": None,
            "expires": None,
            "origin": f"forger@{socket.gethostname()}:{os.getpid()}",
            "enqueued_at": time.time(),
        },
        "properties": {
            "correlation_id": task_id,
            "reply_to": None,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }

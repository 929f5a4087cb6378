"""What a worker believes: real messages from a real broker, and a thousand that are almost real."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import signals
from environs import ValidationError
from kombu.exceptions import EncodeError
from kombu.utils import json as kombu_json
from redis import Redis

from config.celery import app
from config.environment import signing_keys
from delivery import acceptance, signing
from delivery.signing import ControlMemory, KeyRing, Purpose, RefusedError
from deploy.embedded.servers import RedisServer
from tests.support import forgeries
from tests.support.forgeries import changed, encoded, signed

#: The key of tests/test.env.
KEY = "tests:tests-only-key-tests-only-key-tests-only-00"
SECRET = "s" * 32
QUEUE = "mail"


@pytest.fixture
def private(redis: RedisServer) -> Iterator[Redis]:
    """Return a database of the broker that no worker reads."""
    with Redis.from_url(f"{redis.url}/8") as client:
        yield client
        client.flushdb()


def publish(database: Redis, **options: Any) -> bytes:
    """Send a task through Celery; returns what lies in Redis then."""
    server = database.get_connection_kwargs()
    url = f"redis://:{server['password']}@{server['host']}:{server['port']}/{server['db']}"
    with app.connection_for_write(url) as connection:
        arguments = (uuid4(), "file")
        app.send_task("images.note", arguments, queue=QUEUE, connection=connection, **options)
    raw = database.rpop(QUEUE)
    assert isinstance(raw, bytes)
    return raw


@pytest.fixture
def raw(private: Redis) -> bytes:
    return publish(private, headers={"tenant": {"id": uuid4(), "since": [1, 1.5, None]}})


def refusal(message: bytes, queue: str = QUEUE) -> str:
    """Return why a task's message is refused."""
    with pytest.raises(RefusedError) as refused:
        acceptance.task(message, queue)
    return str(refused.value)


# --- What is real ------------------------------------------------------------------------------


def test_a_real_message_is_accepted_with_everything_it_says(raw: bytes) -> None:
    message, accepted = json.loads(raw), acceptance.task(raw, QUEUE)

    assert accepted["body"] == message["body"]
    assert accepted["headers"]["task"] == "images.note"
    assert accepted["headers"].keys() == message["headers"].keys()
    assert accepted["headers"]["tenant"]["id"].version == 4, "types of kombu come back"
    assert abs(accepted["headers"]["enqueued_at"] - time.time()) < 30
    assert accepted["properties"].keys() == message["properties"].keys()
    assert accepted["properties"]["delivery_tag"] != message["properties"]["delivery_tag"]


def test_arguments_come_out_as_they_went_in(raw: bytes) -> None:
    body = base64.b64decode(json.loads(raw)["body"])
    (argument, _), keywords, embedded = signing.ring().decode(body)

    assert argument.version == 4 and keywords == {}
    assert embedded.keys() == {"callbacks", "errbacks", "chain", "chord"}, "nothing of ours is left"


def test_a_message_that_kombu_has_put_back_is_accepted(raw: bytes) -> None:
    restored = json.loads(raw)
    restored["headers"]["redelivered"] = True
    restored["properties"]["delivery_info"]["redelivered"] = True
    accepted = acceptance.task(encoded(restored), QUEUE)

    again = acceptance.task(kombu_json.dumps(accepted).encode(), QUEUE)
    assert again["properties"]["delivery_info"]["redelivered"] is True


def test_a_header_that_a_later_receiver_adds_is_bound(private: Redis) -> None:
    def add(headers: dict[str, Any], **_: Any) -> None:
        headers["late"] = 1

    signals.before_task_publish.connect(add)
    try:
        message = json.loads(publish(private))
    finally:
        signals.before_task_publish.disconnect(add)

    assert acceptance.task(encoded(message), QUEUE)["headers"]["late"] == 1
    assert "signed" in refusal(encoded(changed(message, ("headers", "late"), 2)))


def test_each_publication_has_a_signature_and_a_time_of_its_own(private: Redis) -> None:
    nonces = {forgeries.envelope_of(json.loads(publish(private, task_id="1")))[4] for _ in range(3)}
    assert len(nonces) == 3


def test_the_time_of_the_caller_is_kept(private: Redis) -> None:
    raw = publish(private, headers={"enqueued_at": 1.5})
    assert acceptance.task(raw, QUEUE)["headers"]["enqueued_at"] == 1.5


# --- What is not -------------------------------------------------------------------------------


def test_every_malformed_message_is_refused_and_quickly(raw: bytes) -> None:
    shapes = dict(forgeries.malformed(raw))
    assert len(shapes) > 500
    for name, message in shapes.items():
        began = time.perf_counter()
        with pytest.raises(RefusedError):
            pytest.fail(f"accepted: {name}: {acceptance.task(message, QUEUE)}")
        assert time.perf_counter() - began < 1, name


def test_a_message_that_is_too_large_is_not_even_parsed() -> None:
    assert refusal(b" " * (acceptance.LARGEST_MESSAGE_BYTES + 1)) == "larger than 4194304 bytes"


def test_headers_may_be_nested_however_deep(raw: bytes) -> None:
    """There are depths that Python reads and cannot write again."""
    nested = encoded(changed(json.loads(raw), ("headers", "tenant"), "deep"))
    for depth in [*range(700, 1000), 2_000, 100_000]:
        refusal(nested.replace(b'"deep"', b"[" * depth + b"]" * depth))


def test_every_forgery_is_refused(raw: bytes, tmp_path: Path) -> None:
    for name, message in forgeries.forged(raw, other_queue="bulk", trap=tmp_path / "trap"):
        with pytest.raises(RefusedError):
            pytest.fail(f"accepted: {name}: {acceptance.task(message, QUEUE)}")
    assert not (tmp_path / "trap").exists()


def test_time_and_purpose_are_part_of_the_signature(raw: bytes, settings: Any) -> None:
    reasons = {
        name: refusal(message)
        for name, message in forgeries.outdated(raw, KEY, settings.TASK_SIGNING_MAX_AGE_SECONDS)
    }
    assert reasons["too old"] == "signed 604860 s ago; allowed are 604800 s"
    assert "in the future" in reasons["from the future"]
    assert reasons["signed as a command"] == "signed as a command, used as a task"
    assert reasons["signed as a reply"] == "signed as a reply, used as a task"
    assert acceptance.task(encoded(signed(json.loads(raw), KEY, age=600_000)), QUEUE)


def test_a_message_counts_only_in_its_own_queue(raw: bytes) -> None:
    assert "another queue" in refusal(raw, "bulk")
    moved = changed(json.loads(raw), ("properties", "delivery_info", "routing_key"), "bulk")
    assert refusal(encoded(moved), "bulk") == "queue or headers are not those that were signed"


def test_numbers_that_python_takes_for_equal_are_different(raw: bytes) -> None:
    message = json.loads(raw)
    for value in (False, 0.0):
        assert "signed" in refusal(encoded(changed(message, ("headers", "retries"), value)))


def test_our_own_mistakes_are_refused_before_they_reach_celery(raw: bytes) -> None:
    harmless = {
        *(f"{name} is missing" for name in forgeries.CELERY_HEADERS),
        *(f"{name} is null" for name in forgeries.CELERY_HEADERS),
    } - {"task is missing", "task is null", "id is missing", "id is null", "enqueued_at is missing",
         "enqueued_at is null"}  # fmt: skip
    refused = set()
    for name, message in forgeries.mistaken(raw, KEY):
        try:
            acceptance.task(message, QUEUE)
        except RefusedError:
            refused.add(name)
    assert refused & harmless == set()
    assert {
        "id is missing", "task is a list", "task is an object", "timelimit is a text",
        "stamps is a text", "stamped_headers is an object", "retries is a text",
        "shadow is a list", "eta is a text", "time limits are [1]", "the payload is null",
        "the payload is two items", "enqueued_at is a text", "root_id is an unknown type of kombu",
    } <= refused  # fmt: skip


# --- Publishing --------------------------------------------------------------------------------


def test_another_serializer_fails_at_the_caller(private: Redis) -> None:
    with pytest.raises(EncodeError, match="not JSON serializable"):
        publish(private, serializer="json")


def test_compression_fails_at_the_caller(private: Redis) -> None:
    with pytest.raises(ValueError, match="cannot be compressed"):
        publish(private, compression="zlib")


@pytest.mark.parametrize(
    "options",
    [{"task_id": "x" * 256}, {"headers": {"timelimit": "xx"}}, {"headers": {"stamps": []}}],
)
def test_headers_that_workers_would_refuse_fail_at_the_caller(
    private: Redis, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"header (id|timelimit|stamps) is missing or malformed"):
        publish(private, **options)


def test_a_signature_that_was_not_prepared_fails_at_the_caller(private: Redis) -> None:
    signals.before_task_publish.disconnect(dispatch_uid="delivery-signing")
    try:
        with pytest.raises(ValueError, match="header enqueued_at is missing"):
            publish(private)
    finally:
        signing.install()


def test_a_task_cannot_be_sent_to_an_exchange(private: Redis) -> None:
    with pytest.raises(EncodeError, match="not to an exchange"):
        publish(private, exchange="celery.pidbox", routing_key="mail")


def test_arguments_that_are_too_large_fail_at_the_caller(private: Redis) -> None:
    with pytest.raises(EncodeError, match="store the data and send its id"):
        publish(private, kwargs={"blob": "x" * signing.LARGEST_PAYLOAD_BYTES})
    assert acceptance.task(publish(private, kwargs={"blob": "x" * 1_900_000}), QUEUE)


# --- Keys --------------------------------------------------------------------------------------


def test_the_first_key_signs_and_all_verify() -> None:
    old, new = KeyRing({"old": SECRET}), KeyRing({"new": "n" * 32})
    both, turned = (
        KeyRing({"old": SECRET, "new": "n" * 32}), KeyRing({"new": "n" * 32, "old": SECRET})
    )  # fmt: skip
    by_old, by_new = (ring.seal(Purpose.TASK, "[]").encode() for ring in (old, new))

    assert both.seal(Purpose.TASK, "[]").startswith("v1.task.old.")
    assert turned.seal(Purpose.TASK, "[]").startswith("v1.task.new.")
    for ring in (both, turned):
        assert ring.open(by_old).payload == ring.open(by_new).payload == b"[]"
    with pytest.raises(RefusedError, match="unknown key"):
        new.open(by_old)


def test_a_ring_needs_a_key() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        KeyRing({})


def test_keys_are_read_in_their_order() -> None:
    assert list(signing_keys(f"b:{'1' * 32}, a-2_x:{'2' * 32}").items()) == [
        ("b", "1" * 32), ("a-2_x", "2" * 32),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "faults"),
    [
        ("", ["Key 1 has no id", "Key 1 has less than 32"]),
        (SECRET, ["Key 1 has no id", "Key 1 has less than 32"]),
        (f"Upper:{SECRET}", ["Key 1 has no id"]),
        (f"a:{SECRET},{'b' * 33}:{'t' * 32}", ["Key 2 has no id"]),
        ("a:hunter2", ["Key 1 has less than 32"]),
        (f"a:{SECRET},a:{'t' * 32}", ["Key 2 has the id of an earlier one"]),
        (f"a:{SECRET},b:{SECRET}", ["Key 2 is the same as an earlier one"]),
        (f"a:{SECRET},", ["Key 2 has no id", "Key 2 has less than 32"]),
        ("A:hunter2,b:hunter2", ["Key 1 has no id", "Key 1 has less", "Key 2 has less"]),
    ],
)
def test_faulty_keys_are_named_without_being_told(value: str, faults: list[str]) -> None:
    with pytest.raises(ValidationError) as refused:
        signing_keys(value)
    for fault in faults:
        assert fault in str(refused.value)
    assert "hunter2" not in str(refused.value) and SECRET not in str(refused.value)


# --- Control commands --------------------------------------------------------------------------


def broadcast(content: Any, **headers: Any) -> bytes:
    """Return a control message that this process signs."""
    return forgeries.command(content, signing.ring(), **headers)


PING: dict[str, Any] = {
    "method": "ping",
    "arguments": {},
    "destination": None,
    "pattern": None,
    "matcher": None,
}


def command(raw: bytes, receiver: str = "") -> dict[str, Any]:
    return acceptance.command(raw, "celery.pidbox", receiver or str(uuid4()))


def test_a_command_counts_once_for_each_receiver() -> None:
    raw = broadcast(PING)

    assert command(raw, "one")["headers"] == {"clock": 1, "expires": 0, "ticket": None}
    assert command(raw, "other")
    with pytest.raises(RefusedError, match="replayed"):
        command(raw, "one")


def test_a_command_counts_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, now = broadcast(PING), time.time()

    monkeypatch.setattr(time, "time", lambda: now + 85)
    assert command(raw)
    monkeypatch.setattr(time, "time", lambda: now + 95)
    with pytest.raises(RefusedError, match="signed 95 s ago"):
        command(raw)


def test_a_command_from_before_the_process_began_is_a_replay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = broadcast(PING)
    monkeypatch.setattr(acceptance, "_PROCESS_BEGAN", time.time() + 0.01)
    with pytest.raises(RefusedError, match="before this process began"):
        command(raw)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": None}, {"method": ["ping"]}, {"method": {}}, {"arguments": 5},
        {"arguments": [1]}, {"destination": 5}, {"destination": [None]}, {"pattern": 1},
        {"matcher": []}, {"reply_to": "x"}, {"reply_to": {"exchange": 1}}, {"ticket": {}},
        {"pattern": "[", "matcher": "pcre"}, {"pattern": "x", "matcher": "unknown"},
    ],
)  # fmt: skip
def test_a_command_with_broken_fields_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="command field"):
        command(broadcast({**PING, **changes}))


@pytest.mark.parametrize("headers", [{"clock": "x"}, {"clock": 10**400}, {"expires": []}])
def test_a_command_with_broken_headers_is_refused(headers: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="header"):
        command(broadcast(PING, **headers))


def test_purposes_are_kept_apart(raw: bytes) -> None:
    with pytest.raises(RefusedError, match="signed as a task, used as a command"):
        command(raw)
    with pytest.raises(RefusedError, match="signed as a command, used as a reply"):
        acceptance.reply(broadcast(PING), "x.reply.celery.pidbox")
    with pytest.raises(RefusedError, match="signed as a reply, used as a command"):
        command(broadcast({"worker@host": {"ok": "pong"}}))
    assert acceptance.reply(broadcast({"worker@host": {"ok": "pong"}}), "x.reply.celery.pidbox")


def test_malformed_commands_are_refused() -> None:
    for name, message in forgeries.malformed(broadcast(PING)):
        try:
            command(message)
        except RefusedError:
            continue
        # What stands beside a command decides nothing, and may be left out.
        assert name.startswith(("headers", "properties.delivery_info")), name


def test_the_memory_of_commands_is_bounded_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, now = ControlMemory(size=3), time.monotonic()
    for number in range(3):
        memory.admit("worker", str(number))
    with pytest.raises(RefusedError, match="more than 3"):
        memory.admit("worker", "another")

    monkeypatch.setattr(time, "monotonic", lambda: now + 119)
    with pytest.raises(RefusedError, match="replayed"):
        memory.admit("worker", "0")
    monkeypatch.setattr(time, "monotonic", lambda: now + 125)
    memory.admit("worker", "another")


# --- Events ------------------------------------------------------------------------------------


def event(content: Any) -> bytes:
    message = json.loads(broadcast(PING))
    return encoded(forgeries.unsigned(message, content))


def test_events_of_workers_are_accepted() -> None:
    heartbeat = {"type": "worker-online", "hostname": "w", "timestamp": 1.5, "clock": 3}
    task = {"type": "task-sent", "uuid": "1", "timestamp": 1.5, "utcoffset": 0}

    assert acceptance.event(event([heartbeat, task]), "celeryev")["headers"] == {}
    assert acceptance.event(event(heartbeat), "celeryev")


@pytest.mark.parametrize(
    "content",
    [
        None, 1, "x", [1], [[]], {}, {"type": 1}, {"type": "worker-online", "clock": "x"},
        {"type": "worker-online", "timestamp": "now"}, {"type": "task-sent"},
        {"type": "x", "more": {"__type__": "decimal", "__value__": "xx"}},
    ],
)  # fmt: skip
def test_events_of_another_shape_are_refused(content: Any) -> None:
    with pytest.raises(RefusedError):
        acceptance.event(event(content), "celeryev")

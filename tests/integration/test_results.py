"""Results in PostgreSQL: one statement, the first SUCCESS, the ledger's rows, and chords."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from celery import chord, current_app, states
from celery.app.task import Context
from celery.exceptions import Reject, TaskRevokedError
from celery.result import AsyncResult
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_celery_results.models import (  # type: ignore[attr-defined]
    ChordCounter,
    TaskResult,
)
from redis import Redis

from delivery.models import Delivery, State
from delivery.results import STORE_RESULT, DatabaseBackend, DeadDeliveryError
from deploy.embedded.servers import free_port
from tests.support import plain_tasks
from tests.support.other_broker import publish_to
from tests.support.roles import running_role, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def backend() -> DatabaseBackend:
    """Return the backend of this process's app, with nothing in its cache."""
    found = current_app.backend
    assert isinstance(found, DatabaseBackend)
    found._cache.clear()
    return found


def identifier() -> str:
    return str(uuid.uuid4())


def result(task_id: object) -> Any:
    """Return what a caller asks; the stubs know less of it than it has."""
    return AsyncResult(str(task_id))


# --- one task ------------------------------------------------------------------------------------


def test_a_result_is_one_statement_and_keeps_what_is_known_of_the_task(
    backend: DatabaseBackend,
) -> None:
    task_id = identifier()
    request = Context(
        {
            "id": task_id,
            "task": "images.double",
            "argsrepr": "(2,)",
            "kwargsrepr": "{}",
            "hostname": "worker@here",
            "periodic_task_name": "often",
        }
    )
    for state in (states.STARTED, states.SUCCESS):
        with CaptureQueriesContext(connection) as queries:
            backend.store_result(task_id, 4, state, request=request)
        assert len(queries) == 1, queries.captured_queries

    row: Any = TaskResult.objects.get(task_id=task_id)
    assert (row.status, row.task_name, row.worker, row.periodic_task_name) == (
        "SUCCESS", "images.double", "worker@here", "often",
    )  # fmt: skip
    assert row.date_started is not None, "SUCCESS does not erase the start"
    assert result(task_id).get(timeout=1) == 4
    assert result(task_id).args == "(2,)"


def test_the_statement_names_every_column_of_the_model() -> None:
    columns = STORE_RESULT.split("(")[1].split(")")[0].replace("\n", " ").split(",")
    expected = {field.column for field in TaskResult._meta.concrete_fields} - {"id"}
    assert {column.strip() for column in columns} == expected


def test_the_first_success_stays_whatever_a_repetition_says(backend: DatabaseBackend) -> None:
    task_id = identifier()
    backend.store_result(task_id, ValueError("first try"), states.FAILURE)
    backend.store_result(task_id, 1, states.SUCCESS)
    backend.store_result(task_id, ValueError("repetition"), states.FAILURE)
    backend.store_result(task_id, 2, states.SUCCESS)

    assert result(task_id).get(timeout=1) == 1


def test_a_result_is_stored_though_the_server_closed_the_connection(
    backend: DatabaseBackend,
) -> None:
    task_id = identifier()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (process,) = cursor.fetchone()

    def terminate() -> None:
        with connection.cursor() as other:  # connections belong to threads
            other.execute("SELECT pg_terminate_backend(%s)", [process])
        connection.close()

    thread = threading.Thread(target=terminate)
    thread.start()
    thread.join()

    backend.store_result(task_id, 1, states.SUCCESS)

    assert TaskResult.objects.get(task_id=task_id).status == "SUCCESS"


# --- durable tasks -------------------------------------------------------------------------------


def delivery(state: State, **fields: Any) -> Delivery:
    """Enter a ledger row in a state."""
    now = datetime.now(UTC)
    final = state in {State.SUCCEEDED, State.DEAD, State.CANCELLED}
    return Delivery.objects.create(
        task="tests.durable", args=[1], queue="default", state=state, max_failures=8, due_at=now,
        created_at=now, finished_at=now if final else None, **fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "fields", "expected"),
    [
        (State.PENDING, {}, "PENDING"),
        (State.DISPATCHED, {}, "PENDING"),
        (State.PENDING, {"attempts": 1, "error": "ValueError: no"}, "RETRY"),
        (State.RUNNING, {"attempts": 1}, "STARTED"),
        (State.SUCCEEDED, {"attempts": 1, "result": {"a": [1]}}, "SUCCESS"),
        (State.DEAD, {"attempts": 8, "error": "ValueError: no"}, "FAILURE"),
        (State.CANCELLED, {}, "REVOKED"),
    ],
)
def test_the_state_of_a_durable_task_is_that_of_its_row(
    state: State, fields: dict[str, Any], expected: str
) -> None:
    found = result(delivery(state, **fields).id)

    assert found.state == expected
    assert (found.name, found.args, found.queue) == ("tests.durable", [1], "default")


def test_get_returns_the_value_of_a_durable_task_or_raises_its_error() -> None:
    succeeded = delivery(State.SUCCEEDED, attempts=1, result={"a": [1]})
    dead = delivery(State.DEAD, attempts=8, error="ValueError: no")
    cancelled = delivery(State.CANCELLED)

    assert result(succeeded.id).get(timeout=1) == {"a": [1]}
    with pytest.raises(DeadDeliveryError, match="ValueError: no"):
        result(dead.id).get(timeout=1)
    with pytest.raises(TaskRevokedError):
        result(cancelled.id).get(timeout=1)


def test_get_waits_until_the_row_of_a_durable_task_is_final() -> None:
    row = delivery(State.RUNNING, attempts=1)

    def succeed() -> None:
        Delivery.objects.filter(id=row.id).update(
            state=State.SUCCEEDED, finished_at=datetime.now(UTC), result=7
        )
        connection.close()

    timer = threading.Timer(0.5, succeed)
    timer.start()
    assert result(row.id).get(timeout=10, interval=0.1) == 7
    timer.join()


def test_nothing_is_stored_for_a_durable_task(backend: DatabaseBackend) -> None:
    request = Context({"id": identifier(), "durable": True})
    with CaptureQueriesContext(connection) as queries:
        backend.mark_as_done(request.id, 1, request)
        backend.mark_as_failure(request.id, ValueError("no"), request=request)
        backend.mark_as_retry(request.id, ValueError("no"), request=request)

    assert not queries.captured_queries


def test_an_id_that_is_no_uuid_is_a_plain_task(backend: DatabaseBackend) -> None:
    backend.store_result("nightly", 1, states.SUCCESS)

    assert result("nightly").get(timeout=1) == 1
    assert result("never seen").state == "PENDING"


# --- chords of plain tasks -----------------------------------------------------------------------


class Chord:
    """A chord whose messages stay in the broker; its members end when a test says so."""

    def __init__(self, backend: DatabaseBackend, broker: Redis, notes: Path) -> None:
        self.backend = backend
        self.broker = broker
        self.notes = notes
        self.body = plain_tasks.note.s(file=str(notes))
        self.body.link_error(plain_tasks.note_failure.s(file=str(notes)))
        self.result = cast(
            "Any", chord([plain_tasks.double.s(number) for number in range(2)])(self.body)
        )
        self.body.options["task_id"] = self.result.id
        self.members = [member.id for member in self.result.parent.results]
        broker.delete("bulk")

    def request(self, position: int) -> Context:
        return Context(
            {
                "id": self.members[position],
                "task": "images.double",
                "group": self.result.parent.id,
                "chord": self.body,
            }
        )

    def succeed(self, position: int, value: Any = None, *, stored: bool = True) -> None:
        """Report a member as Celery's tracer does."""
        request = self.request(position)
        self.backend.mark_as_done(request.id, value, request, store_result=stored)

    def fail(self, position: int, *, stored: bool = True) -> None:
        request = self.request(position)
        self.backend.mark_as_failure(
            request.id, ValueError("no"), request=request, store_result=stored
        )

    @property
    def sent(self) -> list[str]:
        """Return the ids of the messages that were published after the header's."""
        found = [json.loads(message) for message in self.broker.lrange("bulk", 0, -1)]
        return [message["headers"]["id"] for message in found]

    @property
    def is_counted(self) -> bool:
        return bool(ChordCounter.objects.filter(group_id=self.result.parent.id).exists())


@pytest.fixture
def pair(backend: DatabaseBackend, broker: Redis, tmp_path: Path) -> Iterator[Chord]:
    """Return a chord of two members that nobody runs."""
    broker.delete("bulk")
    yield Chord(backend, broker, tmp_path / "notes")
    broker.delete("bulk")


def test_a_member_that_returns_twice_is_one_member(pair: Chord) -> None:
    pair.succeed(0, 10)
    pair.succeed(0, 10)
    assert not pair.sent, "one of two has ended"

    pair.succeed(1, 11)
    pair.succeed(1, 11)
    pair.succeed(0, 10)
    assert pair.sent == [pair.result.id]
    assert not pair.is_counted


def test_members_that_ignore_their_result_count_and_give_none(pair: Chord) -> None:
    pair.succeed(0, 10)
    pair.succeed(1, 11, stored=False)

    assert pair.sent == [pair.result.id]
    assert result(pair.members[1]).get(timeout=1) is None


@pytest.mark.parametrize("stored", [True, False])
def test_a_failure_reaches_the_error_callback_once_and_no_body_is_sent(
    pair: Chord, *, stored: bool
) -> None:
    pair.fail(0, stored=stored)
    pair.fail(0, stored=stored)
    pair.succeed(1, 11)
    pair.succeed(1, 11)

    assert not pair.sent
    (callback,) = pair.notes.read_text().splitlines()
    assert "ChordError" in callback and "ValueError('no')" in callback
    assert result(pair.result.id).state == "FAILURE"


def test_the_last_two_members_at_the_same_time_send_one_body(pair: Chord) -> None:
    start = threading.Barrier(2)

    def end(position: int) -> None:
        start.wait()
        pair.succeed(position, position)
        connection.close()

    threads = [threading.Thread(target=end, args=[position]) for position in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert pair.sent == [pair.result.id]


def test_a_crash_after_the_body_was_sent_sends_it_again_with_the_same_id(
    pair: Chord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(counter: ChordCounter) -> None:
        raise SystemExit

    pair.succeed(0, 10)
    with monkeypatch.context() as patch:
        patch.setattr(ChordCounter, "delete", crash)
        with pytest.raises(SystemExit):
            pair.succeed(1, 11)
    pair.succeed(1, 11)

    assert pair.sent == [pair.result.id] * 2
    assert not pair.is_counted


def test_without_a_broker_the_last_member_goes_back_and_sends_the_body_later(
    pair: Chord, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.succeed(0, 10)
    with monkeypatch.context() as patch:
        publish_to(f"redis://127.0.0.1:{free_port()}/0", patch)
        with pytest.raises(Reject) as rejected:
            pair.succeed(1, 11)
    assert vars(rejected.value)["requeue"] is True
    assert pair.is_counted
    pair.succeed(1, 11)

    assert pair.sent == [pair.result.id]


def test_a_worker_runs_the_body_once_though_a_member_was_delivered_twice(
    broker: Redis, role_settings: dict[str, str], tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    broker.delete("bulk")
    header = [plain_tasks.double.s(1), plain_tasks.double.s(2), plain_tasks.silent.s(3)]
    ending = chord(header)(plain_tasks.note.s(file=str(notes)))
    for message in broker.lrange("bulk", 0, 2):
        broker.lpush("bulk", message)

    settings = {
        "WORKER_SERVICE": "worker-bulk",
        "WORKER_CONCURRENCY": "2",
        **role_settings,
    }
    with running_role(tmp_path, "worker", tasks="tests.support.plain_tasks", **settings) as worker:
        assert ending.get(timeout=60) == [2, 4, None], worker.log
        wait_until(lambda: not broker.llen("bulk") and not broker.hlen("unacked"))
        assert worker.stop(timeout=60) == 0

    assert notes.read_text().splitlines() == ["[2, 4, None]"]

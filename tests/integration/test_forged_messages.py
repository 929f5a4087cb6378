"""Whatever is put into the broker: no worker ends, nothing forged has an effect, work goes on."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from celery import Celery, chain, chord
from django.db import connection
from redis import Redis

from config.celery import app
from config.topology import QUEUES
from delivery import quarantine, signing
from delivery.models import QuarantinedMessage
from delivery.queue_lists import lists_of
from deploy.embedded.servers import RedisServer, free_port
from tests.support import forgeries
from tests.support.roles import ROOT, Role, running_role, running_worker, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]

#: The key of tests/test.env.
KEY = "tests:tests-only-key-tests-only-key-tests-only-00"
OLD, NEW = "old:" + "o" * 40, "new:" + "n" * 40
ALL_QUEUES = ",".join(queue.name for queue in QUEUES)
#: Databases of the broker that no other tests use.
SHARED_DATABASE, OWN_DATABASE, SENDERS_DATABASE = 9, 10, 8


@pytest.fixture
def url(redis: RedisServer, request: pytest.FixtureRequest) -> str:
    """Return the broker's address: the worker's, or another for tests that run their own."""
    return f"{redis.url}/{SHARED_DATABASE if 'worker' in request.fixturenames else OWN_DATABASE}"


@pytest.fixture
def broker(url: str) -> Iterator[Redis]:
    """Return a client of that database, which is empty."""
    with Redis.from_url(url) as client:
        client.flushdb()
        yield client


@pytest.fixture
def client(url: str) -> Iterator[Celery]:
    """Return the application as a process that uses that database has it."""
    with Celery("celeriac", set_as_current=False) as celery:
        celery.config_from_object("django.conf:settings", namespace="CELERY")
        celery.conf.update(broker_url=url)
        yield celery


def worker_of_all_queues(
    directory: Path, settings: dict[str, str], url: str, **extra: str
) -> AbstractContextManager[Role]:
    """Run a worker that consumes all queues of a broker."""
    variables = {
        **settings, "BROKER_URL": url, "WORKER_CONCURRENCY": "2",
        "WORKER_WARM_SHUTDOWN_SECONDS": "5", **extra,
    }  # fmt: skip
    return running_worker(
        directory, "--queues", ALL_QUEUES,
        tasks="tests.support.plain_tasks,tests.support.retrying_task", **variables,
    )  # fmt: skip


@pytest.fixture(scope="module")
def worker_process(
    tmp_path_factory: pytest.TempPathFactory, role_settings: dict[str, str], redis: RedisServer
) -> Iterator[Role]:
    """Run one worker for all tests that only give it messages."""
    directory, address = tmp_path_factory.mktemp("worker"), f"{redis.url}/{SHARED_DATABASE}"
    with worker_of_all_queues(directory, role_settings, address) as role:
        yield role


@pytest.fixture
def worker(worker_process: Role, broker: Redis, transactional_db: None) -> Iterator[Role]:
    """Return the worker; at the end all that it was given must be done."""
    assert worker_process.process.poll() is None
    yield worker_process
    wait_until(lambda: is_idle(broker), what="the worker is idle")


def processes(role: Role) -> set[int]:
    """Return the ids of a worker's main process and of its pool."""
    main = psutil.Process(role.process.pid)
    return {main.pid, *(child.pid for child in main.children(recursive=True))}


def is_idle(broker: Redis) -> bool:
    lists = [name for queue in QUEUES for name in lists_of(queue.name)]
    return not broker.exists("unacked", "unacked_index", *lists)


def send(url: str, queue: str, *arguments: Any, **options: Any) -> str:
    """Send a plain task that notes its first argument in a file, the second."""
    with app.connection_for_write(url) as own:
        result = app.send_task("images.note", arguments, queue=queue, connection=own, **options)
    return str(result.id)


def captured(queue: str, *arguments: Any) -> bytes:
    """Return a real message that no worker has seen."""
    address = f"{app.conf.broker_url.rpartition('/')[0]}/{SENDERS_DATABASE}"
    send(address, queue, *arguments)
    with Redis.from_url(address) as database:
        raw = database.rpop(queue)
    assert isinstance(raw, bytes)
    return raw


def noted(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


def assert_works(url: str, file: Path) -> None:
    """Have each queue do something real."""
    words = [f"{queue.name}-{uuid4()}" for queue in QUEUES]
    for queue, word in zip(QUEUES, words, strict=True):
        send(url, queue.name, word, str(file))
    wait_until(lambda: set(words) <= set(noted(file)), what=f"all queues work: {noted(file)}")


# --- Tasks -------------------------------------------------------------------------------------


def test_no_malformed_message_ends_a_process_and_all_are_in_quarantine(
    tmp_path: Path, role_settings: dict[str, str], url: str, broker: Redis
) -> None:
    notes = tmp_path / "notes"
    pushed: dict[str, list[tuple[str, bytes]]] = {}
    for queue in QUEUES:
        raw = captured(queue.name, f"malformed-{queue.name}", str(notes))
        pushed[queue.name] = list(forgeries.malformed(raw))
    with worker_of_all_queues(tmp_path, role_settings, url) as worker:
        before = processes(worker)
        for queue_name, messages in pushed.items():
            assert len(messages) > 500
            for _, raw in messages:
                broker.lpush(queue_name, raw)
        wait_until(lambda: is_idle(broker), timeout=120, what="the queues drain")
        assert_works(url, notes)

        assert processes(worker) == before
        assert not [word for word in noted(notes) if word.startswith("malformed")]
        for queue_name, messages in pushed.items():
            rows = QuarantinedMessage.objects.filter(queue=queue_name)
            assert rows.count() == len(messages), queue_name
        assert worker.stop(timeout=60) == 0
        assert "Traceback" not in worker.log


def test_no_forgery_has_an_effect(
    worker: Role, url: str, broker: Redis, tmp_path: Path, settings: Any
) -> None:
    notes, trap = tmp_path / "notes", tmp_path / "trap"
    raw = captured("mail", "forged", str(notes))
    messages = dict(forgeries.forged(raw, other_queue="bulk", trap=trap))
    messages |= forgeries.outdated(raw, KEY, settings.TASK_SIGNING_MAX_AGE_SECONDS)
    before = processes(worker)
    for message in messages.values():
        broker.lpush("mail", message)
    broker.lpush("bulk", raw)
    broker.lpush("bulk", messages["queue changed"])
    wait_until(lambda: is_idle(broker), what="the queues drain")
    assert_works(url, notes)

    assert processes(worker) == before
    assert not trap.exists()
    assert "forged" not in noted(notes)
    assert QuarantinedMessage.objects.count() == len(messages) + 2
    assert not QuarantinedMessage.objects.exclude(claimed_id="").exclude(
        claimed_task__in=["images.note", "celery.backend_cleanup"]
    )


def test_our_own_mistakes_end_no_process_either(
    tmp_path: Path, role_settings: dict[str, str], url: str, broker: Redis
) -> None:
    raw = captured("mail", "mistaken", str(tmp_path / "mistaken"))
    with worker_of_all_queues(tmp_path, role_settings, url) as worker:
        before = processes(worker)
        for _, message in forgeries.mistaken(raw, KEY):
            broker.lpush("mail", message)
        # What has an eta in the year 9999 is held until then.
        wait_until(lambda: not broker.llen("mail") and broker.hlen("unacked") <= 2, what="drained")
        assert_works(url, tmp_path / "notes")

        assert processes(worker) == before
        assert "Unrecoverable error" not in worker.log
        assert "Connection to broker lost" not in worker.log


def test_entries_that_are_no_messages_do_not_stop_the_sweep(
    tmp_path: Path, role_settings: dict[str, str], url: str, broker: Redis
) -> None:
    notes = tmp_path / "notes"
    raw = captured("mail", "lost", str(notes))
    entries = {
        "lost": json.dumps([json.loads(raw), "", "mail"]),
        "text": "not json",
        "number": "5",
        "short": json.dumps([json.loads(raw), ""]),
        "no queue": json.dumps([json.loads(raw), "", ["mail"]]),
        "no message": json.dumps([7, "", "mail"]),
        "a type": '[{"__type__": "uuid", "__value__": {}}, "", "mail"]',
        "no type": '[{"__type__": "uuid", "__value__": 5}, "", "mail"]',
        "deep": "[" * 100_000,
    }
    # kombu looks at the newest first: the real one comes last.
    for age, (tag, entry) in enumerate(entries.items()):
        broker.hset("unacked", tag, entry)
        broker.zadd("unacked_index", {tag: time.time() - 10_000 + age})

    with worker_of_all_queues(tmp_path, role_settings, url) as worker:
        wait_until(lambda: noted(notes) == ["lost"], what=f"it comes back: {worker.log_file}")
        wait_until(lambda: is_idle(broker), what="nothing is left")

    reasons = set(QuarantinedMessage.objects.values_list("queue", "reason"))
    assert reasons == {("unacked", "not an unacknowledged message")}
    assert QuarantinedMessage.objects.count() == len(entries) - 1


def test_a_message_is_verified_too_where_nobody_waits_for_it(
    url: str, broker: Redis, empty_quarantine: None
) -> None:
    raw = captured("mail", "got", "nowhere")
    broker.lpush("mail", b"not json", raw, b"more")
    with app.connection_for_read(url) as own:
        channel: Any = own.default_channel
        assert channel.basic_get("mail", no_ack=True).headers["task"] == "images.note"
        assert channel.basic_get("mail", no_ack=True) is None
    assert QuarantinedMessage.objects.count() == 2


# --- Plain Celery still works ------------------------------------------------------------------


def test_canvas_countdowns_and_retries_of_plain_tasks_work(
    worker: Role, url: str, broker: Redis, tmp_path: Path, client: Celery
) -> None:
    notes = tmp_path / "notes"

    def note(word: str) -> Any:
        return client.signature("images.note", (word, str(notes)), immutable=True)

    chain(note("first"), note("second"), app=client).apply_async()
    chord([note("member") for _ in range(3)], note("body"), app=client).apply_async()
    note("later").apply_async(countdown=1)
    client.signature("tests.try_again", (str(notes),)).apply_async()
    wait_until(
        lambda: (
            sorted(noted(notes))
            == sorted(
                ["first", "second", "member", "member", "member", "body", "later", "0", "1", "2"]
            )
        ),
        what=f"all run: {noted(notes)}",
    )
    assert not QuarantinedMessage.objects.exists()


# --- Control -----------------------------------------------------------------------------------


def test_commands_from_strangers_and_replayed_ones_are_ignored(
    worker: Role, url: str, broker: Redis, client: Celery, tmp_path: Path
) -> None:
    before = processes(worker)
    listener = broker.pubsub()  # type: ignore[no-untyped-call]
    topic = f"/{SHARED_DATABASE}.celery.pidbox"
    listener.subscribe(topic)
    listener.get_message(timeout=5)
    with Celery("stranger", broker=url, set_as_current=False) as stranger:
        stranger.control.broadcast("shutdown")
        stranger.control.broadcast("pool_shrink", arguments={"n": 1})
    unsigned = QuarantinedMessage.objects.filter(reason__startswith="not signed")
    wait_until(lambda: unsigned.count() == 2, what="unsigned commands are refused")
    for _ in range(2):
        listener.get_message(timeout=5)

    client.control.broadcast("pool_grow", arguments={"n": 1})
    wait_until(lambda: len(processes(worker)) == len(before) + 1, what="a real command is obeyed")
    replayed = listener.get_message(timeout=5)
    assert replayed is not None
    for name, raw in forgeries.malformed(replayed["data"]):
        if not name.startswith(("headers", "properties.delivery_info")):
            broker.publish(topic, raw)
    for _ in range(3):
        broker.publish(topic, replayed["data"])
    repeats = QuarantinedMessage.objects.filter(reason__startswith="replayed")
    wait_until(lambda: repeats.count() == 3, what="replays are refused")

    assert len(processes(worker)) == len(before) + 1
    assert before <= processes(worker)
    assert_works(url, tmp_path / "notes")
    listener.close()


def test_a_signed_shutdown_counts_for_a_minute(
    tmp_path: Path,
    role_settings: dict[str, str],
    url: str,
    broker: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shutdown(age: float) -> bytes:
        signed_at = time.time() - age
        with monkeypatch.context() as earlier:
            earlier.setattr(time, "time", lambda: signed_at)
            return forgeries.command({"method": "shutdown", "arguments": {}}, signing.ring())

    topic = f"/{OWN_DATABASE}.celery.pidbox"
    with worker_of_all_queues(tmp_path, role_settings, url) as worker:
        for number, age in enumerate([120, 10], start=1):
            broker.publish(topic, shutdown(age))
            refused = QuarantinedMessage.objects.filter(queue="celery.pidbox")
            wait_until(lambda: refused.count() == number, what="it is refused")  # noqa: B023
        assert "before this process began" in refused.latest("id").reason
        assert worker.process.poll() is None

        broker.publish(topic, shutdown(0))
        assert worker.process.wait(30) == 0


def test_signed_commands_with_broken_arguments_end_no_process(
    worker: Role, url: str, client: Celery, tmp_path: Path
) -> None:
    before = processes(worker)
    broken: list[dict[str, Any]] = [{}, {"n": "x"}, {"unknown": 1}, {"task_id": {"a": 1}}]
    commands = [
        "add_consumer", "cancel_consumer", "rate_limit", "time_limit", "revoke", "autoscale",
        "query_task", "objgraph", "memsample", "election", "no_such_command",
    ]  # fmt: skip
    for name in commands:
        for arguments in broken:
            client.control.broadcast(name, arguments=arguments)
    patterns: list[dict[str, Any]] = [
        {"pattern": "[", "matcher": "pcre"}, {"pattern": "x", "matcher": "unknown"},
    ]  # fmt: skip
    for options in patterns:
        client.control.broadcast("ping", **options)
    client.control.broadcast("pool_grow", arguments={"n": 2})
    wait_until(lambda: len(processes(worker)) == len(before) + 2, what="the pool grows")
    for _ in range(5):
        assert_works(url, tmp_path / "notes")
    answers = client.control.ping(timeout=5, limit=1) or []

    assert [answer.popitem()[1] for answer in answers] == [{"ok": "pong"}]
    assert before <= processes(worker)


def test_a_mailbox_that_is_closed_leaves_no_socket_in_the_loop(client: Celery) -> None:
    """Celery closes it after a command that failed; the next pool process gets that number."""
    with client.connection_for_read() as own:
        channel: Any = own.channel()
        cycle: Any = channel.connection.cycle
        node = client.control.mailbox(own).Node("host")  # type: ignore[attr-defined]  # stubs
        node.listen(channel=channel)
        cycle.on_poll_start()
        assert channel in {found for found, _ in cycle._fd_to_chan.values()}
        channel.close()

        assert channel not in {found for found, _ in cycle._fd_to_chan.values()}
        assert channel not in {key[0] for key in cycle._chan_to_sock}


def test_celery_inspect_and_purge_work_from_another_process(
    worker: Role, url: str, broker: Redis
) -> None:
    def celery(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "celery", "--app", "config.celery", *arguments],
            cwd=ROOT / "app", env=worker.environment, capture_output=True, text=True, check=True,
            timeout=60,
        ).stdout  # fmt: skip

    assert "pong" in celery("inspect", "ping", "--json")
    [stats] = json.loads(celery("inspect", "stats", "--json")).values()
    assert stats["pid"] == worker.process.pid
    assert "1 node online" in celery("status")
    broker.lpush("another", "x")
    assert "Purged 1 message" in celery("purge", "--force", "--queues", "another")
    assert not QuarantinedMessage.objects.exists()


def test_forged_answers_do_not_reach_the_one_who_asked(
    worker: Role, broker: Redis, client: Celery
) -> None:
    forged = forgeries.unsigned(
        {"content-encoding": "utf-8", "headers": {}, "properties": {}},
        {"stranger@host": {"ok": "pong"}},
    )
    with client.connection_for_write() as own:
        mailbox = client.control.mailbox(own)  # type: ignore[attr-defined]  # the stubs lack it
        for _ in range(3):
            broker.lpush(mailbox.reply_queue.name, forgeries.encoded(forged), b"not json")
        answers = mailbox._broadcast("ping", reply=True, timeout=5, limit=1)

    assert [list(answer.values()) for answer in answers] == [[{"ok": "pong"}]]
    assert "stranger@host" not in answers[0]
    assert QuarantinedMessage.objects.count() == 6


def test_flower_asks_workers_and_survives_forged_events(
    worker: Role, role_settings: dict[str, str], url: str, broker: Redis, tmp_path: Path
) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with running_role(
        tmp_path, "flower",
        **{**role_settings, "BROKER_URL": url, "FLOWER_PORT": str(port), "BIND_HOST": "127.0.0.1",
           "FLOWER_BASIC_AUTH": "admin:tests-only", "FLOWER_UNAUTHENTICATED_API": "false"},
    ) as flower:  # fmt: skip
        flower.wait_for_probe("http", f"{address}/healthcheck", "FLOWER_BASIC_AUTH")

        def workers() -> dict[str, Any]:
            request = urllib.request.Request(f"{address}/api/workers?refresh=1")
            credentials = base64.b64encode(b"admin:tests-only").decode()
            request.add_header("Authorization", f"Basic {credentials}")
            with urllib.request.urlopen(request, timeout=30) as response:
                answer: dict[str, Any] = json.load(response)
            return answer

        wait_until(lambda: any("stats" in each for each in workers().values()), what="an answer")
        [answer] = workers().values()
        assert answer["stats"]["pid"] == worker.process.pid
        for raw in (b"x", b"{}", b'{"body": 1}'):
            broker.publish(f"/{SHARED_DATABASE}.celeryev/worker.heartbeat", raw)
        refused = QuarantinedMessage.objects.filter(queue="celeryev")
        wait_until(lambda: refused.count() == 3, what="forged events are refused")
        assert workers()
        assert "Failed to capture events" not in flower.log


# --- Keys --------------------------------------------------------------------------------------


def test_keys_change_without_refusing_anything(
    tmp_path: Path, role_settings: dict[str, str], url: str, broker: Redis
) -> None:
    """Three steps, and in each a sender of the step before and of the one after."""
    notes = tmp_path / "notes"
    steps = [OLD, f"{OLD},{NEW}", f"{NEW},{OLD}", NEW]
    sender = """if True:
        import django, sys
        django.setup()
        from config.celery import app
        app.send_task("images.note", sys.argv[:0:-1], queue="mail")
        print(len(app.control.ping(timeout=10, limit=1)))
    """
    sent: list[str] = []
    for number, ring in enumerate(steps):
        directory = tmp_path / str(number)
        directory.mkdir()
        with worker_of_all_queues(directory, role_settings, url, TASK_SIGNING_KEYS=ring) as worker:
            for other in steps[max(0, number - 1) : number + 2]:
                word = f"{number}-{len(sent)}"
                answer = subprocess.run(
                    [sys.executable, "-c", sender, str(notes), word],
                    cwd=ROOT / "app", check=True, capture_output=True, text=True, timeout=60,
                    env={**worker.environment, "TASK_SIGNING_KEYS": other, "LOG_LEVEL": "ERROR",
                         "DJANGO_SETTINGS_MODULE": "config.settings"},
                )  # fmt: skip
                sent.append(word)
                assert answer.stdout.strip() == "1", "it answers to senders of that step"
            wait_until(lambda: set(sent) <= set(noted(notes)), what=f"all ran: {noted(notes)}")
    assert not QuarantinedMessage.objects.exists()


def test_a_key_that_was_taken_away_counts_no_more(
    tmp_path: Path, role_settings: dict[str, str], url: str, broker: Redis
) -> None:
    notes = tmp_path / "notes"
    raw = captured("mail", "by-the-old-key", str(notes))
    with worker_of_all_queues(tmp_path, role_settings, url, TASK_SIGNING_KEYS=NEW):
        broker.lpush("mail", raw)
        wait_until(QuarantinedMessage.objects.exists, what="it is refused")
    assert noted(notes) == []
    assert QuarantinedMessage.objects.get().reason == "signed with an unknown key"


# --- Quarantine --------------------------------------------------------------------------------


@pytest.fixture
def empty_quarantine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "_paused_until", 0.0)


def test_the_quarantine_shows_what_was_refused(empty_quarantine: None) -> None:
    headers = {"task": "jobs.\0\ud800", "id": "1"}
    raw = json.dumps({"headers": headers, "body": "x" * 50_000}).encode()
    quarantine.refuse("mail", raw, "a reason")
    quarantine.refuse("mail", b"\0\xff\xfe" + bytes(range(256)) * 100, "bytes")

    second, first = QuarantinedMessage.objects.all()
    assert (first.queue, first.reason, first.size) == ("mail", "a reason", len(raw))
    assert (first.claimed_task, first.claimed_id) == ("jobs.\\x00\\ud800", "1")
    assert len(first.content) == quarantine.LARGEST_CONTENT
    assert second.content.startswith("\\x00\\xff\\xfe\\x00\x01")


def test_the_quarantine_is_bounded(empty_quarantine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "LARGEST_NUMBER", 3)
    for number in range(5):
        quarantine.refuse("mail", b"x", str(number))
    assert QuarantinedMessage.objects.count() == 3


def test_a_locked_table_costs_a_second_once(empty_quarantine: None) -> None:
    from django.db import connections  # noqa: PLC0415

    other = connections.create_connection("default")
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("LOCK TABLE delivery_quarantinedmessage")
        began = time.monotonic()
        for _ in range(100):
            quarantine.refuse("mail", b"x", "locked")
        assert time.monotonic() - began < 3
    finally:
        other.close()
    assert not connection.in_atomic_block
    assert QuarantinedMessage.objects.count() == 0


def test_old_rows_are_found_for_deletion(empty_quarantine: None) -> None:
    from datetime import timedelta  # noqa: PLC0415

    from django.utils import timezone  # noqa: PLC0415

    quarantine.refuse("mail", b"x", "young")
    quarantine.refuse("mail", b"x", "old")
    QuarantinedMessage.objects.filter(reason="old").update(
        received_at=timezone.now() - timedelta(days=31)
    )
    assert [row.reason for row in quarantine.old_quarantined_messages()] == ["old"]

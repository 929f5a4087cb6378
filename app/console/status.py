"""What runs, whether it is healthy, and what waits: read in three short questions, then judged.

Each source may be away: what it would have told is then ``None``, and the page says so in words.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction
from redis.exceptions import RedisError

from delivery.broker import client
from delivery.queue_lists import lists_of
from telemetry import heartbeat, presence

logger = structlog.get_logger(__name__)

#: Seconds that an answer is shown to all who ask; longer where it cost more than a tenth of that.
FRESH_SECONDS: Final = 1.0
LONGEST_FRESH_SECONDS: Final = 10.0
COST_FACTOR: Final = 10
#: Milliseconds for one question to the database, which also has work to do.
STATEMENT_TIMEOUT: Final = 2000
#: Seconds for the broker to answer; healthy ones need a thousandth.
BROKER_TIMEOUT_SECONDS: Final = 1.0
#: Seconds for "lately": ended and failed in the table of queues.
LATELY_SECONDS: Final = 60

#: How things are, in words; style sheets colour by them, people read ``Fact.value``.
GOOD: Final = "good"
WARNING: Final = "warning"
BAD: Final = "bad"
UNKNOWN: Final = "unknown"

# States are written out, so that the partial indexes of the ledger serve: delivery_due,
# delivery_by_end and delivery_dead_letters.
OPEN: Final = """
SELECT queue,
    count(*) FILTER (WHERE state = 'dispatched' OR state = 'pending' AND due_at <= now()),
    count(*) FILTER (WHERE state = 'running'),
    count(*) FILTER (WHERE state = 'pending' AND due_at > now()),
    extract(epoch FROM now() - min(CASE
        WHEN state = 'dispatched' THEN coalesce(dispatched_at, created_at)
        WHEN state = 'pending' AND due_at <= now() THEN due_at END))::float8
FROM delivery_delivery WHERE state IN ('pending', 'dispatched', 'running') GROUP BY queue
"""
LATELY: Final = """
SELECT queue, sum(well)::int + sum(dead)::int, sum(dead)::int FROM (
    SELECT queue, count(*) AS well, 0 AS dead FROM delivery_delivery
    WHERE state IN ('succeeded', 'cancelled')
        AND finished_at > now() - make_interval(secs => %(seconds)s)
    GROUP BY queue
    UNION ALL
    SELECT queue, 0, count(*) FROM delivery_delivery
    WHERE state = 'dead' AND finished_at > now() - make_interval(secs => %(seconds)s)
    GROUP BY queue
) AS ended GROUP BY queue
"""
PROCESSES: Final = """
SELECT service, host, pid, state, queues, version,
    extract(epoch FROM now() - started_at)::float8, extract(epoch FROM now() - seen_at)::float8
FROM telemetry_presence ORDER BY service, host, pid
"""


@dataclass(frozen=True, slots=True)
class Process:
    """One process that runs, or did a moment ago; times in seconds."""

    service: str
    host: str
    pid: int
    state: str
    queues: tuple[str, ...]
    version: str
    age: float
    seen: float

    @property
    def is_there(self) -> bool:
        """Whether its row is fresh."""
        return self.seen <= presence.GONE_AFTER_SECONDS

    @property
    def says(self) -> str:
        """What it does, in a word."""
        if not self.is_there:
            return "gone"
        if self.state == heartbeat.CONSUMING and not self.queues:
            return heartbeat.PAUSED
        return self.state

    @property
    def tone(self) -> str:
        """How good that is."""
        tones = {"gone": BAD, heartbeat.PAUSED: WARNING, heartbeat.RECONNECTING: WARNING}
        return tones.get(self.says, GOOD)


@dataclass(frozen=True, slots=True)
class Load:
    """What the ledger says of a queue; ``oldest`` in seconds, None when nothing waits."""

    waiting: int = 0
    running: int = 0
    scheduled: int = 0
    oldest: float | None = None
    ended: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Fact:
    """One tile of the status strip: a name, a value in words, and how good that is."""

    name: str
    value: str
    tone: str
    detail: str = ""
    #: What is wrong, as a sentence for the headline; empty when nothing is.
    complaint: str = ""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One row of the table of queues; None where nobody could be asked."""

    name: str
    target: int
    load: Load | None
    in_broker: int | None
    workers: int | None

    @property
    def is_late(self) -> bool:
        """Whether something waits for longer than was promised."""
        return self.load is not None and (self.load.oldest or 0) > self.target

    @property
    def wait(self) -> float:
        """Seconds that the oldest has waited, for a bar that ends at the target."""
        oldest = (self.load.oldest or 0) if self.load else 0
        return round(min(oldest, self.target), 1)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the sources said; None where one did not answer."""

    loads: Mapping[str, Load] | None
    lengths: Mapping[str, int] | None
    processes: Sequence[Process] | None
    database_milliseconds: float | None = None
    broker_milliseconds: float | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that the strip and the tables of the first page show."""

    headline: str
    tone: str
    facts: Sequence[Fact]
    queues: Sequence[QueueRow]
    processes: Sequence[Process]

    @property
    def summary(self) -> str:
        """How much there is to do, in a sentence; empty when that is not known."""
        loads = [queue.load for queue in self.queues if queue.load is not None]
        if len(loads) < len(self.queues):
            return ""
        running, waiting = (
            sum(load.running for load in loads),
            sum(load.waiting for load in loads),
        )
        if not running and not waiting:
            return "No task runs or waits."
        return f"{running} running, {waiting} waiting."


# --- Ask -----------------------------------------------------------------------------------------


def read() -> Reading:
    """Ask the database and the broker; neither can make this fail.

    One that is slow or gone costs seconds; one that is frozen what ``DATABASES`` allows.
    """
    loads, processes, database_milliseconds = _ask_database()
    lengths, broker_milliseconds = _ask_broker()
    return Reading(loads, lengths, processes, database_milliseconds, broker_milliseconds)


def _ask_database() -> tuple[Mapping[str, Load] | None, Sequence[Process] | None, float | None]:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            began = time.monotonic()
            cursor.execute(
                "SELECT set_config('statement_timeout', %s, true)", [str(STATEMENT_TIMEOUT)]
            )
            milliseconds = (time.monotonic() - began) * 1000
            cursor.execute(PROCESSES)
            processes = [
                Process(service, host, pid, state, tuple(filter(None, queues.split(","))), *others)
                for service, host, pid, state, queues, *others in cursor.fetchall()
            ]
            cursor.execute(OPEN)
            opened = {queue: figures for queue, *figures in cursor.fetchall()}
            cursor.execute(LATELY, {"seconds": LATELY_SECONDS})
            lately = {queue: figures for queue, *figures in cursor.fetchall()}
    except (DatabaseError, InterfaceError) as error:
        logger.warning("status_without_database", error=str(error))
        return None, None, None
    loads = {}
    for queue in {*opened, *lately}:
        waiting, running, scheduled, oldest = opened.get(queue, (0, 0, 0, None))
        ended, failed = lately.get(queue, (0, 0))
        loads[queue] = Load(waiting, running, scheduled, oldest, ended, failed)
    return loads, processes, milliseconds


def _ask_broker() -> tuple[Mapping[str, int] | None, float | None]:
    queues = list(settings.QUEUE_WAIT_TARGETS)
    try:
        with client(timeout=BROKER_TIMEOUT_SECONDS) as redis:
            pipeline = redis.pipeline(transaction=False)
            lists = [lists_of(queue) for queue in queues]
            for names in lists:
                for name in names:
                    pipeline.llen(name)
            began = time.monotonic()
            counts = iter(pipeline.execute())
            milliseconds = (time.monotonic() - began) * 1000
    except (RedisError, OSError) as error:
        logger.info("status_without_broker", error=repr(error))
        return None, None
    lengths = {
        queue: sum(next(counts) for _ in names) for queue, names in zip(queues, lists, strict=True)
    }
    return lengths, milliseconds


# --- Judge ---------------------------------------------------------------------------------------

#: States by which a process is known to be of a role.
WORKERS: Final = frozenset({heartbeat.CONSUMING, heartbeat.PAUSED, heartbeat.RECONNECTING})
BEATS: Final = frozenset({heartbeat.TICKING, heartbeat.STANDBY})
RELAYS: Final = frozenset({heartbeat.RELAYING})
WEBS: Final = frozenset({presence.SERVING})


def judge(reading: Reading, targets: Mapping[str, int]) -> Status:
    """Say what the readings mean.

    Args:
        reading: What the sources said.
        targets: Seconds that a message may wait, by queue.
    """
    queues = [_queue_row(name, target, reading) for name, target in targets.items()]
    facts = [
        _web(reading.processes),
        _database(reading.database_milliseconds),
        _broker(reading.broker_milliseconds),
        _workers(reading.processes, queues),
        _beat(reading.processes),
        _relay(reading.processes),
        _oldest(queues),
    ]
    complaints = [fact.complaint for fact in facts if fact.complaint]
    tones = {fact.tone for fact in facts}
    tone = next((tone for tone in (BAD, WARNING, UNKNOWN) if tone in tones), GOOD)
    return Status(
        " ".join(complaints) or "Everything works.", tone, facts, queues, reading.processes or ()
    )


def _queue_row(name: str, target: int, reading: Reading) -> QueueRow:
    load = None if reading.loads is None else reading.loads.get(name, Load())
    workers = None
    if reading.processes is not None:
        consuming, _ = _of(reading.processes, frozenset({heartbeat.CONSUMING}))
        workers = sum(name in process.queues for process in consuming)
    return QueueRow(name, target, load, (reading.lengths or {}).get(name), workers)


def _of(processes: Iterable[Process], states: frozenset[str]) -> tuple[list[Process], int]:
    """Return the processes of a role that are there, and how many have vanished."""
    found = [process for process in processes if process.state in states]
    there = [process for process in found if process.is_there]
    return there, len(found) - len(there)


def _number(count: int, what: str) -> str:
    """Return a part of a sentence, or nothing for zero."""
    return f"{count} {what}" if count else ""


def _details(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _web(processes: Sequence[Process] | None) -> Fact:
    # This page is the proof that it answers.
    there, gone = _of(processes or (), WEBS)
    number = _number(len(there), "process" if len(there) == 1 else "processes")
    return Fact("Web", "answers", GOOD, _details(number, _number(gone, "gone")))


def _database(milliseconds: float | None) -> Fact:
    if milliseconds is None:
        sentence = "The database does not answer in time."
        return Fact("Database", "no answer", BAD, "its figures are missing", sentence)
    return Fact("Database", "answers", GOOD, f"in {milliseconds:.1f} ms")


def _broker(milliseconds: float | None) -> Fact:
    if milliseconds is None:
        sentence = "The broker is down: jobs are accepted, and run when it is back."
        return Fact("Broker", "down", BAD, "jobs wait in the database", sentence)
    return Fact("Broker", "answers", GOOD, f"in {milliseconds:.1f} ms")


def _workers(processes: Sequence[Process] | None, queues: Sequence[QueueRow]) -> Fact:
    if processes is None:
        return Fact("Workers", "unknown", UNKNOWN, "the database would tell")
    there, gone = _of(processes, WORKERS)
    consuming = [process for process in there if process.says == heartbeat.CONSUMING]
    paused = [process for process in there if process.says == heartbeat.PAUSED]
    trouble = _details(
        _number(len(there) - len(consuming) - len(paused), "reconnecting"),
        _number(len(paused), "paused"),
        _number(gone, "gone"),
    )
    value = _number(len(consuming), "consuming") or "none consuming"
    lonely = [queue.name for queue in queues if queue.workers == 0]
    if not consuming:
        return Fact("Workers", value, BAD, trouble, "No worker takes tasks.")
    if lonely:
        sentence = f"No worker takes tasks from the queue {' or '.join(lonely)}."
        return Fact("Workers", value, BAD, trouble, sentence)
    if trouble:
        return Fact("Workers", value, WARNING, trouble, f"Of the workers: {trouble}.")
    return Fact("Workers", value, GOOD, "every queue is served")


def _beat(processes: Sequence[Process] | None) -> Fact:
    if processes is None:
        return Fact("Beat", "unknown", UNKNOWN, "the database would tell")
    there, gone = _of(processes, BEATS)
    leaders = [process for process in there if process.state == heartbeat.TICKING]
    others = _details(_number(len(there) - len(leaders), "standing by"), _number(gone, "gone"))
    if not leaders:
        return Fact("Beat", "no leader", BAD, others, "No beat leads: nothing periodic is sent.")
    leader = leaders[0]
    return Fact(
        "Beat",
        f"ticked {leader.seen:.0f} s ago",
        WARNING if gone else GOOD,
        _details(f"leader {leader.host}:{leader.pid}", others),
    )


def _relay(processes: Sequence[Process] | None) -> Fact:
    if processes is None:
        return Fact("Relay", "unknown", UNKNOWN, "the database would tell")
    there, gone = _of(processes, RELAYS)
    missing = _number(gone, "gone")
    if not there:
        return Fact("Relay", "none", BAD, missing, "No relay runs: retries are not published.")
    detail = missing or "publishes retries"
    return Fact("Relay", f"{len(there)} relaying", WARNING if gone else GOOD, detail)


def _oldest(queues: Sequence[QueueRow]) -> Fact:
    name = "Oldest waiting"
    if any(queue.load is None for queue in queues):
        return Fact(name, "unknown", UNKNOWN, "the database would tell")
    waits = [
        (queue.load.oldest / queue.target, queue.load.oldest, queue)
        for queue in queues
        if queue.load is not None and queue.load.oldest is not None
    ]
    if not waits:
        return Fact(name, "nothing waits", GOOD, "all queues are empty")
    # The one that is worst by its own measure: 10 s are much for one queue, nothing for another.
    _, seconds, queue = max(waits, key=lambda wait: wait[0])
    detail = f"queue {queue.name}, target {queue.target} s"
    if queue.is_late:
        sentence = f"The queue {queue.name} keeps people waiting for {seconds:.0f} s."
        return Fact(name, f"{seconds:.0f} s", WARNING, detail, sentence)
    return Fact(name, f"{seconds:.1f} s", GOOD, detail)


# --- For many who ask ----------------------------------------------------------------------------

_lock = threading.Lock()
#: Seconds that somebody waits for the reading of somebody else.
LONGEST_WAIT_SECONDS: Final = 6.0
NOTHING_KNOWN: Final = Reading(None, None, None, None, None)
_known: tuple[float, Status] | None = None


def current() -> Status:
    """Return the status; many who ask at once cost one reading a second in each process."""
    global _known  # noqa: PLW0603 - of this process
    if not _lock.acquire(timeout=LONGEST_WAIT_SECONDS):
        # The reading hangs, as with a database that is frozen. It has been told of time-outs, but
        # a server that never answers leaves them to the connection (DATABASES).
        return (
            _known[1] if _known is not None else judge(NOTHING_KNOWN, settings.QUEUE_WAIT_TARGETS)
        )
    try:
        now = time.monotonic()
        if _known is not None and now < _known[0]:
            return _known[1]
        status = judge(read(), settings.QUEUE_WAIT_TARGETS)
        cost = time.monotonic() - now
        fresh = min(max(FRESH_SECONDS, COST_FACTOR * cost), LONGEST_FRESH_SECONDS)
        _known = (now + cost + fresh, status)
        return status
    finally:
        _lock.release()


def forget() -> None:
    """Have the next one who asks read again."""
    global _known  # noqa: PLW0603 - as above
    _known = None

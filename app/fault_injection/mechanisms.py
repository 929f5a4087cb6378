"""How each fault of the catalogue begins and ends.

What is in the database begins in the transaction that notes the fault (``enter``); what is outside
of it begins after the commit (``begin``), so that a crash in between leaves a fault that is noted
and ended, never one that nobody knows of. ``end`` may be called twice, and by any process.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from django.utils import timezone
from redis.exceptions import RedisError

from delivery import ledger, publishing
from delivery.models import OPEN_STATES, Delivery
from fault_injection import catalogue, forgery, mail_sink, workers
from fault_injection.errors import FaultError
from fault_injection.models import FaultRun

#: The queue for work that a person waits for; here the faults are seen first.
QUEUE: Final = "default"
#: Rows for each statement.
BATCH: Final = 1000


def _nothing(run: FaultRun) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """What is done for a fault.

    Attributes:
        enter: In the transaction that notes it.
        begin: After that has committed, with the row locked; may raise ``FaultError``.
        end: Undoes it, in the transaction that notes its end; may raise ``FaultError``.
    """

    enter: Callable[[FaultRun], None] = _nothing
    begin: Callable[[FaultRun], None] = _nothing
    end: Callable[[FaultRun], None] = _nothing


def _task(name: str) -> Any:
    from fault_injection import tasks  # noqa: PLC0415 - tasks build on services

    return getattr(tasks, name)


def _cancel_open(task: Any) -> None:
    ids = Delivery.objects.filter(task=task.name, state__in=OPEN_STATES).values_list(
        "id", flat=True
    )
    ledger.cancel(list(ids), "The fault was stopped.")


# --- refuse-mail ---------------------------------------------------------------------------------


def _mail_refuse(run: FaultRun) -> None:
    mail_sink.refuse_senders(catalogue.REFUSED_MAILS_PERCENT)


def _mail_accept(run: FaultRun) -> None:
    # A sink that is away has forgotten the order.
    with suppress(mail_sink.SinkAwayError):
        mail_sink.refuse_senders(0)


# --- slow-database, poison, bug: one task each --------------------------------------------------


def _database_slow(run: FaultRun) -> None:
    # It ends when the row says so.
    _task("slow_database").delay_on_commit(str(run.id))


def _poison_publish(run: FaultRun) -> None:
    _task("poison").apply_on_commit((str(run.id),), queue=QUEUE)


def _poison_cancel(run: FaultRun) -> None:
    _cancel_open(_task("poison"))


def _bug_publish(run: FaultRun) -> None:
    _task("bug").apply_on_commit((str(run.id),), queue=QUEUE)


# --- forge ---------------------------------------------------------------------------------------


def _forge(run: FaultRun) -> None:
    try:
        forgery.messages_forge(QUEUE)
    except RedisError as error:
        raise FaultError(f"The broker cannot be reached: {error!r}.") from error


# --- flood ---------------------------------------------------------------------------------------


def _flood(run: FaultRun) -> None:
    brief = _task("brief")
    for first in range(0, catalogue.FLOOD_TASKS, BATCH):
        number = min(BATCH, catalogue.FLOOD_TASKS - first)
        entries = [brief.entry((str(run.id),), queue=QUEUE) for _ in range(number)]
        publishing.publish_after_commit(ledger.enter(entries))


def _flood_cancel(run: FaultRun) -> None:
    _cancel_open(_task("brief"))


# --- pause-worker --------------------------------------------------------------------------------


def _workers_pause(run: FaultRun) -> None:
    workers.workers_pause((run.ends_at - run.started_at).total_seconds())


def _workers_resume(run: FaultRun) -> None:
    # After its time they have gone on by themselves.
    if run.ends_at > timezone.now():
        workers.workers_resume()


MECHANISMS: Final = {
    "refuse-mail": Mechanism(begin=_mail_refuse, end=_mail_accept),
    "slow-database": Mechanism(enter=_database_slow),
    "poison": Mechanism(enter=_poison_publish, end=_poison_cancel),
    "bug": Mechanism(enter=_bug_publish),
    "forge": Mechanism(begin=_forge),
    "flood": Mechanism(enter=_flood, end=_flood_cancel),
    "pause-worker": Mechanism(begin=_workers_pause, end=_workers_resume),
}

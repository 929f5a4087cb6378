"""An attempt at a delivery, inside the process that makes it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog
from django.db import (
    InterfaceError,
    OperationalError,
    close_old_connections,
    connection,
    transaction,
)

from delivery import ledger, origin, publishing
from delivery.errors import SupersededError

logger = structlog.get_logger(__name__)

T = TypeVar("T")

#: A lease is renewed when it is so many seconds old; looked at twice as often.
RENEW_SECONDS: Final = 10.0
#: Seconds that a worker waits for a database that is away: before an attempt, to note that one has
#: failed, and to note that one has succeeded. The last is worth more: else the work is done again.
CLAIM_PATIENCE_SECONDS: Final = 10.0
FAILURE_PATIENCE_SECONDS: Final = 10.0
SUCCESS_PATIENCE_SECONDS: Final = 60.0


class Attempt:
    """One attempt at a delivery.

    Attributes:
        claim: What the ledger said when it was claimed.
        committed: Whether its success is committed.
    """

    def __init__(self, claim: ledger.Claim) -> None:
        self.claim = claim
        self.committed = False
        self._renewed_at = time.monotonic()
        self._log_context = structlog.contextvars.get_contextvars()
        # While run_once holds the row, nobody can take it, and a renewal would wait for the lock.
        self._holds_row = False

    @contextmanager
    def holding_row(self) -> Iterator[None]:
        """Do without renewals."""
        self._holds_row = True
        try:
            yield
        finally:
            self._holds_row = False

    def needs_renewal(self) -> bool:
        """Whether its lease is old."""
        return not self._holds_row and time.monotonic() - self._renewed_at >= RENEW_SECONDS

    def renew(self) -> None:
        """Renew the lease, or note that the delivery is lost: the fence will refuse the commit."""
        self._renewed_at = time.monotonic()
        if not ledger.renew(self.claim):
            # From the keeper's thread, which belongs to no task.
            with origin.log_context(**self._log_context):
                logger.warning("lease_lost")


_current: ContextVar[Attempt | None] = ContextVar("delivery_attempt", default=None)


def current() -> Attempt | None:
    """Return the attempt that this code is part of; None outside of durable tasks."""
    return _current.get()


@contextmanager
def begun(claim: ledger.Claim) -> Iterator[Attempt]:
    """Make an attempt the current one, and keep its lease while the block runs."""
    attempt = Attempt(claim)
    token = _current.set(attempt)
    _keeper().watch(attempt)
    try:
        yield attempt
    finally:
        _keeper().forget(attempt)
        _current.reset(token)


class _LeaseKeeper:
    """Renews the leases of this process in a thread, which tasks that are short never wake."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._attempts: set[Attempt] = set()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="delivery-leases", daemon=True).start()

    def watch(self, attempt: Attempt) -> None:
        with self._changed:
            if not self._attempts:
                self._changed.notify()
            self._attempts.add(attempt)

    def forget(self, attempt: Attempt) -> None:
        with self._changed:
            self._attempts.discard(attempt)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._attempts:
                    self._changed.wait()
            time.sleep(RENEW_SECONDS / 2)
            with self._changed:
                old = [attempt for attempt in self._attempts if attempt.needs_renewal()]
            if not old:
                continue
            try:
                for attempt in old:
                    attempt.renew()
            except Exception as error:  # noqa: BLE001 - the thread must live; the lease may run out
                logger.warning("lease_not_renewed", error=repr(error))
            finally:
                # A connection of the thread's own, needed every ten seconds at most.
                connection.close()


_lease_keeper: _LeaseKeeper | None = None


def _keeper() -> _LeaseKeeper:
    global _lease_keeper  # noqa: PLW0603 - one for each process, and not before it was forked
    if _lease_keeper is None or _lease_keeper.process != os.getpid():
        _lease_keeper = _LeaseKeeper()
    return _lease_keeper


@dataclass(slots=True)
class Outcome:
    """What ``run_once`` stores with the success.

    Attributes:
        result: The task's result; anything that Celery's JSON can write.
    """

    result: Any = None


@contextmanager
def run_once() -> Iterator[Outcome]:
    """Commit an effect in the database and the success of its delivery together, or neither.

        with run_once() as outcome:
            Payment.objects.create(order=order, amount=amount)
            outcome.result = "paid"

    However often the message arrives and whichever process is killed: the block commits once. The
    row is taken first, so a delivery that was cancelled or taken over never gets to the effect.
    Deliveries that the block asks for are entered by the same commit. Keep the block short: do slow
    things before it. Outside of a durable task it is a plain transaction.

    Raises:
        SupersededError: This attempt may not commit any more. Let it through.
        RuntimeError: There is a transaction around it already, which could still be rolled back.
    """
    outcome = Outcome()
    attempt = current()
    if attempt is None:
        with transaction.atomic():
            yield outcome
        return
    if attempt.committed:
        raise RuntimeError("run_once() was used before in this attempt: one commit ends a delivery")
    with attempt.holding_row(), transaction.atomic(durable=True):
        if not ledger.succeed(attempt.claim):
            raise SupersededError(f"delivery {attempt.claim.id}, attempt {attempt.claim.attempt}")
        yield outcome
        _complete(attempt.claim, outcome.result)
    attempt.committed = True


def _complete(claim: ledger.Claim, result: Any) -> None:
    if result is not None:
        ledger.store_result(claim, result)
    if claim.group_id is not None:
        publishing.publish_after_commit(ledger.join(claim.group_id))


def succeed(claim: ledger.Claim, result: Any) -> bool:
    """Note the success of a task that did not use ``run_once``.

    Returns:
        False when the attempt has lost the delivery.
    """
    if claim.group_id is None:
        return ledger.succeed(claim, result)
    with transaction.atomic():
        if not ledger.succeed(claim):
            return False
        _complete(claim, result)
    return True


def patiently(seconds: float, action: Callable[[], T]) -> T:
    """Repeat something while the database is away, for so many seconds.

    Raises:
        OperationalError, InterfaceError: It still was, after that time.
    """
    deadline = time.monotonic() + seconds
    pause = 0.2
    while True:
        try:
            return action()
        except (OperationalError, InterfaceError):
            if time.monotonic() + pause > deadline or connection.in_atomic_block:
                raise
            close_old_connections()
            time.sleep(pause)
            pause = min(pause * 2, 2.0)

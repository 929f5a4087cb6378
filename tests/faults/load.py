"""Submits work from a thread of its own while a scenario hurts the system, and counts what came."""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.ledger import Count
from tests.faults.targets.target import Order, Target
from tests.support.roles import wait_until

#: Tasks of a scenario in which load matters.
TASKS = int(os.environ.get("FAULT_TASKS", "1000"))
#: Seconds in which a fault's last effect must exist. A killed worker's lease is 30 s, a message
#: that is gone is looked for after 15 s, and the machine may be slow.
RECOVERY_SECONDS = float(os.environ.get("FAULT_RECOVERY_SECONDS", "180"))
#: Numbers in one request, and so in one commit.
NUMBERS_IN_ORDER = 50
#: Seconds that one task takes. Long enough for a fault to find most of them unfinished.
TASK_SECONDS = 0.05
#: Seconds without any change after which a system that promises nothing is not waited for.
STANDSTILL_SECONDS = 20.0
#: Seconds for which the count must not change before it is believed.
SETTLE_SECONDS = 3.0


@dataclass
class Load:
    """One run: numbers to submit, and how far they are.

    Attributes:
        accepted: Numbers whose request was answered with yes.
        refusals: Requests that were not.
        slowest_answer: Seconds of the slowest request, whatever it was answered.
    """

    target: Target
    total: int = TASKS
    kind: str = "record"
    options: Mapping[str, Any] = field(default_factory=lambda: {"seconds": TASK_SECONDS})
    message_options: Mapping[str, Any] = field(default_factory=dict)
    orders_per_second: float = math.inf
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    accepted: set[int] = field(default_factory=set)
    refusals: int = 0
    slowest_answer: float = 0.0
    _leave: threading.Event = field(default_factory=threading.Event)

    def submit(self, numbers: Sequence[int], *, crash: bool = False) -> bool:
        """Ask once for some numbers; returns whether the answer was yes."""
        order = Order(
            self.run,
            numbers,
            kind=self.kind,
            options=self.options,
            message_options=self.message_options,
            crash=crash,
        )
        began = time.monotonic()
        accepted = self.target.submit(order)
        self.slowest_answer = max(self.slowest_answer, time.monotonic() - began)
        if accepted:
            self.accepted.update(numbers)
        return accepted

    def submit_all(self) -> None:
        """Ask for all numbers in turn, and again for those without an answer, as a client does.

        Without idempotency keys a repeated request is new work: there a client that somehow knows
        asks again only if nothing was committed.
        """
        for numbers in batches(range(self.total)):
            while not self.submit(numbers):
                self.refusals += 1
                if self._leave.wait(0.2):
                    return
                committed = self.target.ledger.submissions(self.run)
                if not self.target.keeps_promises and committed.issuperset(numbers):
                    break
            self._leave.wait(1 / self.orders_per_second)

    def start(self) -> threading.Thread:
        """Submit all numbers in the background."""
        thread = threading.Thread(target=self.submit_all, name="load", daemon=True)
        thread.start()
        return thread

    def leave(self) -> None:
        """Stop to submit."""
        self._leave.set()

    def done(self) -> int:
        """Return how many numbers have their effect."""
        return self.target.ledger.effects(self.run)

    def reach(self, share: float, timeout: float = 120.0) -> None:
        """Wait until that share of all effects exists, but not all of them.

        Raises:
            AssertionError: They do not exist in time, or the fault would come too late.
        """
        goal = int(self.total * share)
        wait_until(lambda: self.done() >= goal, timeout=timeout, what=f"{goal} effects")
        assert self.done() < self.total, "all effects exist already: more FAULT_TASKS are needed"

    def wait_for_all(self) -> None:
        """Wait until every number that was asked for has its effect, as long as that may take."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        patience = time.monotonic() + STANDSTILL_SECONDS
        before = -1
        while time.monotonic() < deadline:
            now = self.done()
            if now >= self.total:
                return
            if now != before:
                before, patience = now, time.monotonic() + STANDSTILL_SECONDS
            elif not self.target.keeps_promises and time.monotonic() > patience:
                return
            time.sleep(0.3)

    def settle(self) -> Count:
        """Return the count; first wait until nothing changes any more, for a plain system.

        What keeps its promises is counted a second time when all scenarios are over: an effect that
        comes late is seen then, however late it is.
        """
        if self.target.keeps_promises:
            return self.target.ledger.count(self.run)
        before: Count | None = None
        while (now := self.target.ledger.count(self.run)) != before:
            before = now
            time.sleep(SETTLE_SECONDS)
        return now


def batches(numbers: Sequence[int]) -> list[list[int]]:
    """Cut numbers into requests."""
    iterator = iter(numbers)
    return list(iter(lambda: list(itertools.islice(iterator, NUMBERS_IN_ORDER)), []))

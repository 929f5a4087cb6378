"""What a scenario may do to a system under test, whatever it runs on."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar

from redis import Redis
from redis.exceptions import RedisError

from tests.faults.ledger import Count, Ledger
from tests.support.roles import wait_until

#: Seconds that a request may take; the promise to people is ten, even without a broker.
ANSWER_SECONDS = 10.0
#: Seconds in which everything must be ready again after a fault.
READY_SECONDS = 150.0
#: Seconds after the last scenario in which an effect that is late would come.
LATE_EFFECTS_SECONDS = 5.0


@dataclass(frozen=True)
class Order:
    """A request for work.

    Attributes:
        run: Which scenario asks; keeps the numbers of scenarios apart.
        numbers: One task is enqueued for each.
        kind: Which task (application/fault_effects/views.py).
        options: More arguments for the task.
        message_options: Options of ``apply_async``.
        crash: The process that accepts the order ends between its commit and the first message.
    """

    run: str
    numbers: Sequence[int]
    kind: str = "record"
    options: Mapping[str, Any] = field(default_factory=dict)
    message_options: Mapping[str, Any] = field(default_factory=dict)
    crash: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the body of the request, with an idempotency key for each number."""
        ids = [delivery_id(self.run, number) for number in self.numbers]
        return {**asdict(self), "numbers": list(self.numbers), "ids": ids}


def delivery_id(run: str, number: int) -> str:
    """Return the id of a number's delivery: always the same, so that a request may be repeated."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"fault-suite/{run}/{number}"))


@dataclass(frozen=True)
class Processes:
    """A role's main process and the children that it started.

    Attributes:
        place: Where the pids hold: the name of the container, or of the service on this machine.
    """

    place: str
    main: int
    children: tuple[int, ...]


class Target(ABC):
    """A running system that is the suite's own: its ports and passwords were made for it."""

    name: ClassVar[str]
    #: Whether it promises that nothing is lost and nothing happens twice.
    keeps_promises: ClassVar[bool] = True
    #: Services that run tasks.
    workers: ClassVar[tuple[str, ...]] = ("worker", "worker-bulk")
    #: Services that have a loop and no port.
    loops: ClassVar[tuple[str, ...]] = ("worker", "worker-bulk", "relay", "beat")

    database_url: str
    broker_url: str

    @abstractmethod
    def submit(self, order: Order) -> bool:
        """Ask once; returns whether the answer was yes. No answer at all is a no."""

    @abstractmethod
    def processes(self, service: str) -> list[Processes]:
        """Return what runs for a service: one for each replica, none while it is down."""

    @abstractmethod
    def send_signal(self, replica: Processes, number: signal.Signals, *pids: int) -> None:
        """Send a signal to processes of a replica; one that has gone already is fine."""

    @abstractmethod
    def stop(self, service: str) -> int | None:
        """Stop a service in order and keep it down; returns its exit status where it is known."""

    @abstractmethod
    def kill(self, service: str) -> None:
        """Kill all processes of a service at once and keep it down."""

    @abstractmethod
    def start(self, service: str) -> None:
        """Start a service that is down, without waiting for it."""

    @abstractmethod
    def freeze(self, service: str) -> None:
        """Stop the clock of all processes of a service; connections to it stay open."""

    @abstractmethod
    def thaw(self, service: str) -> None:
        """Let a frozen service go on; harmless for one that is not."""

    @abstractmethod
    def probe(self, service: str, kind: str) -> bool:
        """Ask the probe that the runtime asks: ``live`` or ``ready``."""

    @cached_property
    def ledger(self) -> Ledger:
        """Return the suite's own book-keeping."""
        return Ledger(self.database_url)

    @cached_property
    def broker(self) -> Redis:
        """Return a client of the broker. Its password is random, so an answer proves it is ours."""
        return Redis.from_url(self.broker_url, socket_timeout=5, socket_connect_timeout=3)

    @cached_property
    def counts(self) -> dict[str, tuple[str, Count]]:
        """Return the run and the count of each scenario so far, by its fault."""
        return {}

    def assert_nothing_came_late(self) -> None:
        """Count every scenario again, after a while in which late effects would come.

        Raises:
            AssertionError: Something was still at work when a scenario was counted.
        """
        if self.keeps_promises and self.counts:
            time.sleep(LATE_EFFECTS_SECONDS)
            for fault, (run, count) in self.counts.items():
                now = self.ledger.count(run)
                assert now == count, f"{fault}: {now} at the end, after {count}"

    def restart(self, service: str) -> None:
        """Stop a service in order and start it at once."""
        self.stop(service)
        self.start(service)

    def send_to_main(self, service: str, number: signal.Signals) -> int:
        """Send a signal to the main process of the first replica; returns its pid."""
        replica = self.processes(service)[0]
        self.send_signal(replica, number, replica.main)
        return replica.main

    def send_to_children(self, service: str, number: signal.Signals) -> list[int]:
        """Send a signal to every child of the first replica; returns their pids."""
        replica = self.processes(service)[0]
        self.send_signal(replica, number, *replica.children)
        return list(replica.children)

    def mains(self) -> dict[str, list[int]]:
        """Return the main processes of all workers, to see later that they are still the same."""
        return {
            service: sorted(replica.main for replica in self.processes(service))
            for service in self.workers
        }

    def servers_answer(self) -> bool:
        """Whether PostgreSQL and Redis do."""
        with suppress(RedisError):
            if self.broker.ping():
                self.ledger.ask("SELECT 1")
                return True
        return False

    def wait_until_ready(self) -> None:
        """Wait until everything runs as before any fault.

        Raises:
            AssertionError: It does not, within READY_SECONDS.
        """
        wait_until(self.servers_answer, timeout=READY_SECONDS, what="the servers answer")
        for service in self.loops:
            kind = "ready" if service in self.workers else "live"
            wait_until(
                partial(self.probe, service, kind),
                timeout=READY_SECONDS,
                what=f"{service} is {kind}",
            )

    def heal(self) -> None:
        """Undo whatever a scenario that failed has left."""
        for service in ("postgres", "redis", *self.loops):
            self.thaw(service)
            self.start(service)


def post(url: str, body: Any) -> bool:
    """Send JSON; returns whether the answer came, and said yes."""
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return bool(200 <= answer.status < 300)
    except (OSError, HTTPException):  # URLError is an OSError
        return False


class StackTarget(Target):
    """The project's own stack, which takes orders over HTTP."""

    web_url: str
    #: ``id:key`` with which messages are signed.
    signing_key: str

    @abstractmethod
    def has_file(self, service: str, path: Path) -> bool:
        """Whether a file exists where a service runs."""

    def submit(self, order: Order) -> bool:
        """Ask the fault suite's view."""
        return post(f"{self.web_url}/faults/tasks", order.as_json())

    def submit_chord(self, run: str, numbers: Sequence[int], body: int) -> bool:
        """Ask for all numbers, and for one more when they are done."""
        order = {"run": run, "numbers": list(numbers), "body": body}
        return post(f"{self.web_url}/faults/chord", order)

    def wait_until_ready(self) -> None:
        """Wait for the web service too."""
        super().wait_until_ready()
        wait_until(self.web_answers, timeout=READY_SECONDS, what="web is ready")

    def web_answers(self) -> bool:
        """Whether the web service takes orders."""
        try:
            with urllib.request.urlopen(f"{self.web_url}/readyz", timeout=5):
                return True
        except (OSError, HTTPException):
            return False

    def heal(self) -> None:
        """Start the web service too."""
        super().heal()
        self.thaw("web")
        self.start("web")

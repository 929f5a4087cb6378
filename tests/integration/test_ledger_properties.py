"""The ledger under arbitrary interleavings: no effect twice, no row that nobody touches again.

Hypothesis plays the workers (which claim, fail, die, and come back as zombies), the broker (which
loses, repeats and reorders messages), the relay, people, and time, against the real PostgreSQL.
After every step the rows must say something possible. At the end everybody behaves, and then every
delivery must reach a final state.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final
from uuid import UUID

import pytest
from django.contrib.sessions.models import Session
from django.db import OperationalError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from delivery import attempts, canvas, ledger, publishing
from delivery.errors import SupersededError
from delivery.ledger import Claim, Message
from delivery.models import OPEN_STATES, Delivery, Group, State
from delivery.tasks import run_once
from tests.support.durable_tasks import failed, leave_effect, total, watched

#: About 25 s on two cores. On a developer's machine each run tries other interleavings and keeps
#: what fails in .hypothesis; where the variable CI is set, Hypothesis's own profile makes every run
#: the same, so that a red run is the fault of the commit.
EFFORT: Final = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
WORKERS: Final = ("one@test:1", "one@test:2", "two@test:1")
QUEUES: Final = ("default", "mail")
#: Few, so that much happens to each.
MOST_DELIVERIES: Final = 6
#: Seconds by which real time may blur what a step should find.
BLUR_SECONDS: Final = 2.0
#: Rows that a relay takes at the end.
FULL_ROUND: Final = 10
#: Rounds in which everything must end once everybody behaves. A chord needs the most: a message
#: that waits behind others, then a lease, then its body.
ROUNDS_UNTIL_QUIET: Final = 6

INDEX: Final = st.integers(0, 20)
SECONDS: Final = st.sampled_from([1, 5, 14, 16, 31, 70, 301])
DELAYS: Final = (0, 0, 10, 400)


class BrokenCommitError(Exception):
    """What goes wrong inside of ``run_once``."""


@dataclass
class Broker:
    """Messages in the order of their publication, wherever they are: in a queue, or on the way."""

    up: bool = True
    messages: list[Message] = field(default_factory=list)

    def publish(self, messages: list[Message]) -> None:
        """Take messages, or lose them without a word."""
        if self.up:
            self.messages.extend(messages)

    def pass_time(self, seconds: float) -> None:
        """Age the messages."""
        for message in self.messages:
            object.__setattr__(message, "dispatched_at", message.dispatched_at - seconds)

    def heads(self) -> dict[str, float]:
        """Return what the relay sees."""
        heads: dict[str, float] = {}
        for message in self.messages:
            heads.setdefault(message.queue, message.dispatched_at)
        return heads


@dataclass
class OpenTransaction:
    """A ``run_once`` block that another thread is in, with a connection of its own."""

    claim: Claim
    stack: ExitStack


class LedgerMachine(RuleBasedStateMachine):
    """The world around the ledger."""

    broker: ClassVar[Broker]
    #: The process that is slow inside of ``run_once``.
    slow_process: ClassVar[ThreadPoolExecutor]

    def __init__(self) -> None:
        super().__init__()
        Delivery.objects.all().delete()
        Group.objects.all().delete()
        Session.objects.all().delete()
        self.broker.__init__()  # type: ignore[misc]  # empty again
        #: Attempts that were begun. None is ever forgotten: each may come back as a zombie.
        self.claims: list[tuple[Claim, str]] = []
        self.slow: OpenTransaction | None = None
        self.rows: dict[UUID, Delivery] = {}
        self.ids = 0
        #: The longest time in seconds that each delivery was asked to wait.
        self.delays: Counter[UUID] = Counter()
        #: Deliveries whose task does not use ``run_once``.
        self.without_effect: set[UUID] = set()
        self.endings: Counter[UUID] = Counter()
        self.replays: Counter[UUID] = Counter()
        self.failed_groups: set[UUID] = set()
        self.decided_by_people: set[UUID] = set()

    # --- What the rules need -----------------------------------------------------------------

    def new_id(self) -> str:
        self.ids += 1
        return str(UUID(int=self.ids))

    def picked(self, index: int, *states: State) -> Delivery:
        """Return one of the deliveries in these states; there must be one."""
        found = [row for row in self.rows.values() if row.state in states]
        return found[index % len(found)]

    def attempt(self, index: int) -> tuple[Claim, str]:
        """Return one of the attempts; the last ones first, which are mostly no zombies."""
        return self.claims[-1 - index % len(self.claims)]

    def holds(self, claim: Claim) -> bool:
        """Whether the attempt may still end its delivery."""
        row = self.rows[claim.id]
        return row.is_open and row.attempts == claim.attempt

    def unless_it_waits(self, action: Callable[[], Any], expected: Any) -> None:
        """Do something and compare what it returns; it may have to wait for the slow process."""
        try:
            assert action() == expected
        except OperationalError:
            if self.slow is None:
                raise

    def is_past(self, moment: datetime) -> bool | None:
        """Whether a moment has passed; None when it is too near to tell."""
        distance = (self.now - moment).total_seconds()
        return None if abs(distance) < BLUR_SECONDS else distance > 0

    def may_be_claimed(self, row: Delivery) -> bool | None:
        """Whether a message for the delivery finds work; None when it is too near to tell."""
        expired = row.expires_at is not None and self.is_past(row.expires_at)
        due = self.is_past(row.due_at)
        match row.state:
            case State.DISPATCHED:
                ready: bool | None = True
            case State.PENDING:
                ready = due
            case State.RUNNING:
                ready = due and row.interruptions + 1 < ledger.MAXIMUM_INTERRUPTIONS
            case _:
                return False
        if row.interruptions >= ledger.MAXIMUM_INTERRUPTIONS or expired is True or ready is False:
            return False
        return None if expired is None or ready is None else True

    # --- Those who ask for work ---------------------------------------------------------------

    @initialize(
        size=st.integers(1, 3),
        with_callback=st.booleans(),
        expires=st.sampled_from([None, 90]),
        claimed=st.integers(0, 4),
    )
    def begin(
        self,
        size: int,
        with_callback: bool,  # noqa: FBT001 - Hypothesis's
        expires: int | None,
        claimed: int,
    ) -> None:
        """Begin in mid-work; PostgreSQL's pauses are the same in every run."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT setseed(0)")
            cursor.execute("SET lock_timeout = '20ms'")
        self.enter(delay=0, expires=expires, failures=2, queue="default")
        self.enter_chord(size, with_callback)
        self.look()
        for message in self.broker.messages[:claimed]:
            self.claim(message.id, WORKERS[0])

    @precondition(lambda self: len(self.rows) < MOST_DELIVERIES)
    @rule(
        delay=st.sampled_from(DELAYS),
        expires=st.sampled_from([None, 20, 90]),
        failures=st.integers(1, 3),
        queue=st.sampled_from(QUEUES),
    )
    def enter(self, delay: int, expires: int | None, failures: int, queue: str) -> None:
        """Ask for a task; also in a transaction that fails, and again with the same id."""
        name = self.new_id()
        entry = watched.entry((name,), task_id=name, countdown=delay, expires=expires, queue=queue)
        entry = replace(entry, max_failures=failures)
        with suppress(BrokenCommitError), transaction.atomic():
            publishing.publish_after_commit(ledger.enter([entry]))
            raise BrokenCommitError
        publishing.publish_after_commit(ledger.enter([entry]))
        assert ledger.enter([entry]) == []
        self.delays[entry.id] = delay

    @precondition(lambda self: len(self.rows) < MOST_DELIVERIES)
    @rule(size=st.integers(1, 3), with_callback=st.booleans())
    def enter_chord(self, size: int, with_callback: bool) -> None:  # noqa: FBT001
        """Ask for a chord."""
        names = [self.new_id() for _ in range(size)]
        body, callback = self.new_id(), self.new_id()
        canvas.chord(
            [watched.s(name).set(task_id=name) for name in names],
            total.s("body").set(task_id=body),
            failed.s("callback").set(task_id=callback) if with_callback else None,
        )

    # --- Workers ------------------------------------------------------------------------------

    @precondition(lambda self: self.broker.messages)
    @rule(index=INDEX, worker=st.sampled_from(WORKERS))
    def receive(self, index: int, worker: str) -> None:
        """Take a message, in any order."""
        messages = self.broker.messages
        self.claim(messages.pop(index % len(messages)).id, worker)

    @rule(index=INDEX, worker=st.sampled_from(WORKERS))
    def receive_again(self, index: int, worker: str) -> None:
        """Get a message that came before, of whatever delivery."""
        self.claim(self.picked(index, *State).id, worker)

    def claim(self, delivery_id: UUID, worker: str) -> None:
        """Claim a delivery, and compare with what its row said before."""
        row = self.rows[delivery_id]
        if self.slow is not None and self.slow.claim.id == delivery_id:
            return  # it would wait for that transaction
        claim = ledger.claim(delivery_id, worker)
        expected = self.may_be_claimed(row)
        assert expected is None or expected == (claim is not None)
        if claim is not None:
            assert claim.attempt == row.attempts + 1
            self.claims.append((claim, worker))

    @precondition(lambda self: self.claims)
    @rule(index=INDEX, worker=st.sampled_from(WORKERS))
    def take_over(self, index: int, worker: str) -> None:
        """Begin another attempt when a lease has run out; the first one becomes a zombie."""
        claim, _worker = self.attempt(index)
        self.pass_time(int(ledger.LEASE_SECONDS) + 1)
        self.look()
        self.claim(claim.id, worker)

    @precondition(lambda self: self.claims)
    @rule(index=INDEX, way=st.sampled_from(["with effect", "without effect", "breaks"]))
    def finish(self, index: int, way: str) -> None:
        """Finish the work of an attempt: with ``run_once``, without, or failing inside of it."""
        claim, _worker = self.attempt(index)
        match way:
            case "with effect":
                self.unless_it_waits(lambda: self.commit_effect(claim), self.holds(claim))
            case "without effect":
                self.unless_it_waits(lambda: self.commit_nothing(claim), self.holds(claim))
            case _:
                self.unless_it_waits(lambda: self.commit_effect(claim, breaks=True), False)

    def commit_effect(self, claim: Claim, *, breaks: bool = False) -> bool:
        """Run a task with ``run_once``; returns whether it committed."""
        try:
            with attempts.begun(claim), run_once() as outcome:
                leave_effect(str(claim.id))
                if breaks:
                    raise BrokenCommitError  # noqa: TRY301 - that is the test
                outcome.result = claim.id.int
        except (SupersededError, BrokenCommitError):
            return False
        return True

    def commit_nothing(self, claim: Claim) -> bool:
        """Run a task without ``run_once``; returns whether its success was noted."""
        noted = attempts.succeed(claim, claim.id.int)
        if noted:
            self.without_effect.add(claim.id)
        return noted

    @precondition(lambda self: self.claims and self.slow is None)
    @rule(index=INDEX)
    def begin_slow_commit(self, index: int) -> None:
        """Enter ``run_once`` in another process, and stay there while others go on."""

        def enter() -> bool:
            try:
                stack.enter_context(attempts.begun(claim))
                outcome = stack.enter_context(run_once())
            except SupersededError:
                stack.close()
                return False
            leave_effect(str(claim.id))
            outcome.result = claim.id.int
            return True

        claim, _worker = self.attempt(index)
        stack = ExitStack()
        entered = self.slow_process.submit(enter).result(10)
        if entered:
            self.slow = OpenTransaction(claim, stack)
        assert entered == self.holds(claim)

    @precondition(lambda self: self.slow is not None)
    @rule(dies=st.booleans())
    def end_slow_commit(self, dies: bool) -> None:  # noqa: FBT001
        """Commit, or die before."""

        def leave(stack: ExitStack) -> None:
            with suppress(BrokenCommitError), stack:
                if dies:
                    raise BrokenCommitError

        assert self.slow is not None
        stack, self.slow = self.slow.stack, None
        self.slow_process.submit(leave, stack).result(10)

    @precondition(lambda self: self.claims)
    @rule(index=INDEX, delay=st.sampled_from([*DELAYS, None]))
    def fail(self, index: int, delay: int | None) -> None:
        """Fail, for good or in a way that may pass, as BaseTask does."""
        claim, _worker = self.attempt(index)
        if delay is None or claim.failures + 1 >= claim.max_failures:
            self.unless_it_waits(lambda: ledger.bury(claim, "for good"), self.holds(claim))
            return
        self.delays[claim.id] = max(self.delays[claim.id], delay)
        self.unless_it_waits(
            lambda: ledger.retry(claim, delay=delay, error="later"), self.holds(claim)
        )

    @precondition(lambda self: self.claims)
    @rule(index=INDEX)
    def renew(self, index: int) -> None:
        """Renew a lease."""
        claim, _worker = self.attempt(index)
        held = self.holds(claim) and self.rows[claim.id].state != State.PENDING
        self.unless_it_waits(lambda: ledger.renew(claim), held)

    @precondition(lambda self: self.claims)
    @rule(index=INDEX, limit_reached=st.booleans())
    def lose_process(self, index: int, limit_reached: bool) -> None:  # noqa: FBT001
        """Note in a worker's main process that the process of an attempt is gone."""
        claim, worker = self.attempt(index)
        row = self.rows[claim.id]
        note = ledger.bury_held_by if limit_reached else ledger.interrupt_held_by
        held = row.state == State.RUNNING and row.worker == worker
        self.unless_it_waits(lambda: bool(note(claim.id, worker, "killed")), held)

    # --- Relays, the broker, time -------------------------------------------------------------

    @rule(limit=st.integers(1, 5), misled_by=st.sampled_from([None, None, -1000, 0, 20, 1000]))
    def relay(self, limit: int, misled_by: int | None) -> None:
        """Look at what is due; the head of a queue may be a message that is foreign or broken."""
        if misled_by is not None:
            self.publish_due(dict.fromkeys(QUEUES, self.now.timestamp() - misled_by), limit)
        elif self.broker.up:
            self.publish_due(self.broker.heads(), limit)

    def publish_due(self, heads: dict[str, float], limit: int) -> int:
        """Make a round of a relay; returns how many rows it looked at."""
        expected = {row.id: self.must_be_published(row, heads) for row in self.rows.values()}
        seen, messages, _buried = ledger.take_due(heads, limit)
        assert len(messages) <= seen <= limit
        published = {message.id for message in messages}
        assert False not in {expected[delivery_id] for delivery_id in published}
        if seen < limit:
            assert {delivery_id for delivery_id in expected if expected[delivery_id]} <= published
        self.broker.publish(messages)
        return seen

    def must_be_published(self, row: Delivery, heads: dict[str, float]) -> bool | None:
        """Whether a relay publishes a delivery; None when it is too near to tell."""
        if self.slow is not None and self.slow.claim.id == row.id:
            return False
        due = row.is_open and self.is_past(row.due_at)
        expired = row.expires_at is not None and self.is_past(row.expires_at)
        interruptions = row.interruptions + (row.state == State.RUNNING)
        if due is False or expired is True or interruptions >= ledger.MAXIMUM_INTERRUPTIONS:
            return False
        if row.state == State.DISPATCHED and row.dispatched_at is not None and row.queue in heads:
            distance = row.dispatched_at.timestamp() - heads[row.queue]
            if distance >= 0:
                return False  # it may still wait in its queue
        return None if due is None or expired is None else True

    @rule(what=st.sampled_from(["goes", "comes", "loses a message", "loses all"]), index=INDEX)
    def break_broker(self, what: str, index: int) -> None:
        """Take the broker away, bring it back, or have it lose something."""
        messages = self.broker.messages
        match what:
            case "goes" | "comes":
                self.broker.up = what == "comes"
            case "loses a message":
                del messages[index : index + 1]
            case _:
                messages.clear()
                # The relay sees that its bookmark is gone.
                dispatched = sum(row.state == State.DISPATCHED for row in self.rows.values())
                self.unless_it_waits(ledger.dispatch_everything_again, dispatched)
                if self.slow is None and dispatched:
                    assert ledger.seconds_until_next(1) == 0

    @rule(seconds=SECONDS)
    def pass_time(self, seconds: int) -> None:
        """Let the database's clock run, as far as open deliveries see it."""
        earlier = timedelta(seconds=seconds)
        with transaction.atomic():
            free = Delivery.objects.filter(state__in=OPEN_STATES).select_for_update(
                skip_locked=True
            )
            Delivery.objects.filter(id__in=[row.id for row in free]).update(
                due_at=F("due_at") - earlier,
                dispatched_at=F("dispatched_at") - earlier,
                expires_at=F("expires_at") - earlier,
            )
        self.broker.pass_time(seconds)

    # --- People -------------------------------------------------------------------------------

    @rule(index=INDEX)
    def cancel(self, index: int) -> None:
        """Cancel a delivery, whatever its state."""
        row = self.picked(index, *State)
        self.unless_it_waits(lambda: ledger.cancel([row.id]), int(row.is_open))

    @precondition(lambda self: any(row.state == State.DEAD for row in self.rows.values()))
    @rule(index=INDEX, replays=st.booleans())
    def decide(self, index: int, replays: bool) -> None:  # noqa: FBT001
        """Replay or discard a dead letter, twice: then there is nothing to decide on."""
        decision = ledger.replay if replays else ledger.discard
        row = self.picked(index, State.DEAD)
        self.decided_by_people.add(row.id)
        assert [decision([row.id]), decision([row.id])] == [1, 0]

    # --- What must be true --------------------------------------------------------------------

    def look(self) -> None:
        """Read all rows."""
        found = list(Delivery.objects.annotate(now=Now()).order_by("id"))
        self.rows = {row.id: row for row in found}
        self.now = max((row.now for row in found), default=datetime.now(UTC))

    @invariant()
    def rows_say_what_is_possible(self) -> None:
        """Check every row, against effects, and against what it said before the last step."""
        before = self.rows
        self.look()
        assert before.keys() <= self.rows.keys()
        effects = Counter(Session.objects.values_list("session_data", flat=True))
        for row in self.rows.values():
            if row.id in before:
                self.check_change(before[row.id], row)
            has_effect = row.state == State.SUCCEEDED and row.id not in self.without_effect
            assert effects[str(row.id)] == has_effect, row.state
            if row.is_open:
                self.check_somebody_will_look(row)
            if row.task == watched.name:
                self.check_hooks(row, effects)
        self.decided_by_people.clear()
        for group in Group.objects.all():
            self.check_group(group)

    def check_change(self, old: Delivery, new: Delivery) -> None:
        """Check what a step may do to a row."""
        assert new.attempts >= old.attempts
        if old.is_open:
            self.endings[new.id] += new.state in {State.DEAD, State.CANCELLED}
        elif new.id in self.decided_by_people:
            assert (old.state, new.state) in {
                (State.DEAD, State.PENDING),
                (State.DEAD, State.CANCELLED),
            }
            self.replays[new.id] += new.state == State.PENDING
        else:
            assert (old.state, old.result) == (new.state, new.result)

    def check_somebody_will_look(self, row: Delivery) -> None:
        """Check that the relay comes to an open row in a bounded time."""
        horizon = max(
            ledger.LEASE_SECONDS,
            ledger.MAXIMUM_PATIENCE_SECONDS,
            ledger.MAXIMUM_INTERRUPTION_DELAY_SECONDS,
            self.delays[row.id],
        )
        assert (row.due_at - self.now).total_seconds() <= horizon + BLUR_SECONDS

    def check_hooks(self, row: Delivery, effects: Counter[str]) -> None:
        """Check that the task was told of each end and of each replay."""
        told = sum(
            count for name, count in effects.items() if name.startswith(f"{row.id} was given up")
        )
        assert told == self.endings[row.id]
        assert effects[f"{row.id} was replayed"] == self.replays[row.id]

    def check_group(self, group: Group) -> None:
        """Check the count, the body and the error callback."""
        members = sorted(
            (row for row in self.rows.values() if row.group_id == group.id),
            key=lambda row: row.position,
        )
        remaining = sum(row.state != State.SUCCEEDED for row in members)
        assert (group.size, group.remaining) == (len(members), remaining)
        assert (group.finished_at is not None) == (remaining == 0)
        body = self.rows.get(UUID(group.body["id"]))
        assert (body is not None) == (remaining == 0)
        if body is not None:
            results = [row.id.int for row in members]
            assert body.args == [results, "body"]
        if any(self.endings[row.id] for row in members):
            self.failed_groups.add(group.id)
        assert (group.failed_at is not None) == (group.id in self.failed_groups)
        if group.on_error is not None:
            callback = self.rows.get(UUID(group.on_error["id"]))
            assert (callback is not None) == (group.id in self.failed_groups)
            if callback is not None:
                assert UUID(callback.args[0]) in {row.id for row in members}

    # --- The end ------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Have everybody behave: then every delivery ends in a bounded number of rounds."""
        if self.slow is not None:
            self.end_slow_commit(dies=True)
        if sys.exc_info()[0] is not None:
            return  # something was found already
        self.broker.up = True
        self.rows_say_what_is_possible()
        longest = max(ledger.MAXIMUM_PATIENCE_SECONDS, *(self.delays[row] for row in self.rows), 0)
        for _ in range(ROUNDS_UNTIL_QUIET):
            self.work_off_messages()
            self.pass_time(int(longest) + 1)
            self.rows_say_what_is_possible()
            while self.publish_due(self.broker.heads(), FULL_ROUND) == FULL_ROUND:
                self.rows_say_what_is_possible()
            self.rows_say_what_is_possible()
        self.work_off_messages()
        self.rows_say_what_is_possible()
        unfinished = [(row.state, row.due_at) for row in self.rows.values() if row.is_open]
        assert not unfinished, self.now

    def work_off_messages(self) -> None:
        """Do everything that the queues hold, as good workers would."""
        while self.broker.messages:
            message = self.broker.messages.pop(0)
            claim = ledger.claim(message.id, "good@test:1")
            if claim is not None:
                assert self.commit_effect(claim)
            self.rows_say_what_is_possible()


@pytest.fixture
def _world(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the simulated broker and another process in the place of the real ones."""
    LedgerMachine.broker = Broker()
    # Looked up at each call: every run has a broker of its own.
    monkeypatch.setattr(
        publishing,
        "publish_or_leave",
        lambda them: LedgerMachine.broker.publish(them),  # noqa: PLW0108
    )
    with ThreadPoolExecutor(1) as process:
        LedgerMachine.slow_process = process
        yield
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = 0")
        process.submit(lambda: connection.close()).result(10)  # noqa: PLW0108 - that thread's own


@pytest.mark.usefixtures("_world")
def test_no_interleaving_makes_an_effect_twice_or_forgets_a_row() -> None:
    run_state_machine_as_test(LedgerMachine, settings=EFFORT)

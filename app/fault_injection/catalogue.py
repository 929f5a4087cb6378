"""The faults that can be had: what each does, for how long, and where to look meanwhile.

``docs/fault-injection.md`` walks through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fault_injection.errors import UnknownFaultError

#: Tasks of the flood, and seconds that each takes. Four processes (the local stack) need 25 s, five
#: times the target of their queue; two need 50 s.
FLOOD_TASKS: Final = 1000
FLOOD_TASK_SECONDS: Final = 0.1
#: Percent of the mails that the sink refuses.
REFUSED_MAILS_PERCENT: Final = 30
#: Locks of the slow database: held for so many seconds, then let go for so many, so that two thirds
#: of the time everybody waits, but nobody for longer than half a second.
LOCK_HELD_SECONDS: Final = 0.4
LOCK_FREE_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that a person can start.

    Attributes:
        name: Short, for addresses and logs.
        title: What the button says.
        description: What is done.
        expect: What to see, and where.
        seconds: It ends by itself after so many. 0: done at once, there is nothing to stop.
    """

    name: str
    title: str
    description: str
    expect: str
    seconds: int


FAULTS: Final = (
    Fault(
        name="refuse-mail",
        title=f"Fail {REFUSED_MAILS_PERCENT} % of mail",
        description=f"The mail sink answers {REFUSED_MAILS_PERCENT} % of all mails with "
        "“451 try again later”.",
        expect="Send a newsletter. Its job page shows recipients with more than one attempt and "
        "the server's answer; progress goes in steps, with growing pauses. When the fault is over "
        "everybody is in the mail sink, each once.",
        seconds=60,
    ),
    Fault(
        name="slow-database",
        title="Slow the database",
        description="One task locks the tables of jobs and deliveries for "
        f"{LOCK_HELD_SECONDS * 1000:.0f} ms at a time, again and again.",
        expect="Pages of the console take up to half a second longer, progress of running jobs "
        "stutters, and waits in the queue table grow. Nothing fails, nothing is tried again.",
        seconds=30,
    ),
    Fault(
        name="poison",
        title="Publish a poison message",
        description="A task kills the process that runs it (SIGKILL), each time.",
        expect="Flower and the worker's log show WorkerLostError, with growing pauses. The worker "
        "starts new processes and goes on with all other work. After ten deaths, one to two "
        "minutes, the task is in Admin → Deliveries, state dead.",
        seconds=180,
    ),
    Fault(
        name="bug",
        title="Publish a task with a bug",
        description="A task fails with an error that repeating does not mend.",
        expect="It is in Admin → Deliveries, state dead, at once: one attempt, with its error. "
        "“Replay” there gives it another chance, in vain.",
        seconds=0,
    ),
    Fault(
        name="forge",
        title="Forge messages",
        description="Two messages that our programs have not signed are put into a queue, past "
        "the application.",
        expect="They are in Admin → Quarantined messages, with the reason. Nothing has run; "
        "Flower shows no task.",
        seconds=0,
    ),
    Fault(
        name="flood",
        title="Flood a queue",
        description=f"{FLOOD_TASKS:,} tasks of {FLOOD_TASK_SECONDS * 1000:.0f} ms each are put "
        "into the queue “default”.",
        expect="In the queue table “default” waits longer than its target of 5 s; “mail” and "
        "“maintenance” are still served in turn. What is left when the fault ends is cancelled.",
        seconds=60,
    ),
    Fault(
        name="pause-worker",
        title="Pause a worker",
        description="The workers of the service “worker” take no new messages. They are alive and "
        "answer.",
        expect="Flower shows the worker online; its ready probe says “paused”. Start something: it "
        "waits. In the status strip and in the queue table the waits of “default”, “mail” and "
        "“maintenance” grow; “bulk” goes on. Afterwards all that waited is done.",
        seconds=60,
    ),
)


def fault_named(name: str) -> Fault:
    """Return a fault.

    Raises:
        UnknownFaultError: There is none of this name.
    """
    for fault in FAULTS:
        if fault.name == name:
            return fault
    known = ", ".join(fault.name for fault in FAULTS)
    raise UnknownFaultError(f"there is no fault {name!r}; known: {known}")

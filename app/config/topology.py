"""THE table of queues. Celery, workers, Compose, Kubernetes, alerts and dashboards follow it.

Standard library only, so that deployment tooling and tests can read it. As a command it prints
facts for shell scripts: ``python -m config.topology queues worker`` gives ``default,mail,...``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue and what is promised for it.

    Attributes:
        name: Queue name in the broker; also the ``queue_name`` label of metrics.
        purpose: What belongs there, in a few words.
        tasks: Patterns (``fnmatch``) of the task names that are routed there.
        wait_target_seconds: How long a message may wait before its task starts; alerts follow it.
        soft_time_limit_seconds: After this the task gets ``SoftTimeLimitExceeded`` and may tidy up.
        hard_time_limit_seconds: After this the pool process is killed.
        worker: The worker service that consumes the queue.
    """

    name: str
    purpose: str
    tasks: tuple[str, ...]
    wait_target_seconds: int
    soft_time_limit_seconds: int
    hard_time_limit_seconds: int
    worker: str

    @property
    def canary_patience_seconds(self) -> int:
        """Seconds after which a canary of the queue is given up.

        Longer than a message may wait, or no canary would come through a queue that is only busy.
        """
        return CANARY_PERIOD_SECONDS + 2 * self.wait_target_seconds


QUEUES: Final = (
    Queue(
        name="default",
        purpose="short work that a person waits for, and whatever no other row claims",
        tasks=("*",),
        wait_target_seconds=5,
        soft_time_limit_seconds=25,
        hard_time_limit_seconds=30,
        worker="worker",
    ),
    Queue(
        name="mail",
        purpose="newsletters: slow conversations with a mail server",
        tasks=("newsletters.*",),
        wait_target_seconds=60,
        soft_time_limit_seconds=240,
        hard_time_limit_seconds=270,
        worker="worker",
    ),
    Queue(
        name="bulk",
        purpose="images and capacity: CPU-bound work of minutes",
        tasks=("images.*", "capacity.*"),
        wait_target_seconds=300,
        soft_time_limit_seconds=240,
        hard_time_limit_seconds=270,
        worker="worker-bulk",
    ),
    Queue(
        name="maintenance",
        purpose="periodic work: retention, clean-ups",
        tasks=("housekeeping.*", "jobs.*", "fault_injection.*", "celery.*"),
        wait_target_seconds=60,
        soft_time_limit_seconds=240,
        hard_time_limit_seconds=270,
        worker="worker",
    ),
)

DEFAULT_QUEUE: Final = QUEUES[0]

#: Seconds between two canaries of a queue (``housekeeping.canary``).
CANARY_PERIOD_SECONDS: Final = 60

#: Seconds a worker may take to finish or give back its tasks after SIGTERM, before it is killed.
#: Warm shutdown 30 s + up to 32 s of a known stall in billiard + margin (docs/decisions/0008).
STOP_GRACE_SECONDS: Final = 90
#: Seconds of that in which running tasks may still finish; then they go back to the queue.
WARM_SHUTDOWN_SECONDS: Final = 30
#: More than this would not leave time for the stall.
LONGEST_WARM_SHUTDOWN_SECONDS: Final = 50

#: Seconds without an acknowledgement after which Redis hands a message to another worker. Must be
#: longer than any task may run and than a worker takes to stop, or a task runs twice.
VISIBILITY_TIMEOUT_SECONDS: Final = 900


def queue_for(task_name: str) -> Queue:
    """Return the queue of a task: the first row that claims its name, else the default one."""
    for queue in QUEUES[1:]:
        if any(fnmatchcase(task_name, pattern) for pattern in queue.tasks):
            return queue
    return DEFAULT_QUEUE


def queues_of(worker: str) -> tuple[Queue, ...]:
    """Return the queues that a worker service consumes.

    Raises:
        ValueError: No row names that service.
    """
    queues = tuple(queue for queue in QUEUES if queue.worker == worker)
    if not queues:
        known = ", ".join(sorted({queue.worker for queue in QUEUES}))
        raise ValueError(f"no queue is consumed by worker service {worker!r}; known: {known}")
    return queues


def route_task(name: str, *_: Any, **__: Any) -> dict[str, str]:
    """Route a task by its name (a Celery router: ``task_routes``)."""
    return {"queue": queue_for(name).name}


class TimeLimits:
    """Gives each task the time limits of its queue (a Celery annotation: ``task_annotations``)."""

    def annotate(self, task: Any) -> dict[str, int]:
        """Return the attributes to set on a task."""
        queue = queue_for(task.name)
        return {
            "soft_time_limit": queue.soft_time_limit_seconds,
            "time_limit": queue.hard_time_limit_seconds,
        }

    def annotate_any(self) -> None:
        """Return nothing: each task is annotated by its own name."""


def main(arguments: list[str]) -> int:
    """Print a fact for a shell script; returns the exit status."""
    match arguments:
        case ["queues", worker]:
            try:
                print(",".join(queue.name for queue in queues_of(worker)))
            except ValueError as error:
                print(f"config.topology: {error}", file=sys.stderr)
                return 2
            return 0
        case _:
            print("usage: python -m config.topology queues WORKER_SERVICE", file=sys.stderr)
            return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

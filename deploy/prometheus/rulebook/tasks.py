"""Do tasks come to a good end?"""

from __future__ import annotations

from deploy.prometheus.rulebook import burning
from deploy.prometheus.rulebook.pace import DAY, HOUR, MINUTE, Pace
from deploy.prometheus.rulebook.promql import grown, held, newborn
from deploy.prometheus.rulebook.rule import WARNING, Alert, Group

_TASK = "namespace, queue_name, name"
_VARIABLES = ("queue_name", "name")


def groups(pace: Pace) -> tuple[Group, ...]:
    """Return the alerts of the tasks."""
    return (
        Group(
            "celeriac.tasks",
            (
                *burning.alerts(
                    pace,
                    burning.Promise(
                        "CeleryExecution",
                        "name:celery_task_execution",
                        "celery_sli_execution_total",
                        _TASK,
                        meaning="Runs of a task do not succeed",
                        what="the runs of {{ $labels.name }} did not succeed",
                        dashboard="tasks",
                        dashboard_variables=_VARIABLES,
                    ),
                ),
                _failing(pace),
                _worker_lost(pace),
                _redelivered(pace),
                _stuck(pace),
                _dead_letters_growing(pace),
                _quarantined(pace),
            ),
            area="tasks",
        ),
        # Ranges of a day cost more, and a minute sooner or later is nothing to them.
        Group("celeriac.tasks.daily", (_never_succeeds(pace),), pace.hold(MINUTE), "tasks"),
    )


def _failing(pace: Pace) -> Alert:
    return Alert(
        "CeleryTaskFailing",
        WARNING,
        "A task failed for good at least three times in ten minutes, and in more than 5 % of its "
        "runs",
        # Three: one failure of one run is 100 %, and tells nothing.
        "name:celery_task_failed:ratio_rate10m > 0.05\n"
        f"and on ({_TASK})\nname:celery_task_failed:increase10m >= 3",
        summary="A task fails too often",
        description="{{ $value | humanizePercentage }} of the runs of {{ $labels.name }} failed "
        "for good in the last ten minutes.",
        dashboard="tasks",
        hold=pace.hold(2 * MINUTE),
        dashboard_variables=_VARIABLES,
    )


def _never_succeeds(pace: Pace) -> Alert:
    failed, succeeded = (
        f"sum by ({_TASK}) ({grown(f'celery_task_{end}_total', DAY, pace)})"
        for end in ("failed", "succeeded")
    )
    return Alert(
        "CeleryTaskNeverSucceeds",
        WARNING,
        "A task failed for good and did not succeed once since it is watched, a day at most: "
        "nightly work, mostly",
        f"{failed} > 0\nunless on ({_TASK})\n{succeeded} > 0",
        summary="A task fails and never succeeds",
        description="{{ $labels.name }} did not succeed once since it is watched, a day at most. "
        "Times that it failed for good: {{ $value | printf `%.0f` }}.",
        dashboard="tasks",
        dashboard_variables=_VARIABLES,
    )


def _worker_lost(pace: Pace) -> Alert:
    lost = grown("celery_task_worker_lost_total", 15 * MINUTE, pace)
    return Alert(
        "CeleryTaskWorkerLost",
        WARNING,
        "A pool process died while it ran a task: out of memory, kill -9, a crash in C code",
        f"sum by ({_TASK}) ({lost}) > 0",
        summary="A pool process died while it ran a task",
        description="{{ $labels.name }} lost its process {{ $value | printf `%.0f` }} times in 15 "
        "minutes: out of memory, kill -9 or a crash.",
        dashboard="tasks",
        dashboard_variables=_VARIABLES,
    )


def _redelivered(pace: Pace) -> Alert:
    again = grown("celery_task_redelivered_total", 15 * MINUTE, pace)
    return Alert(
        "CeleryTaskRedelivered",
        WARNING,
        "More than three messages of a task were given out once more in 15 minutes: workers were "
        "killed, or gave them back",
        # Three: a worker that is replaced gives its messages back. One that cannot reach the
        # database gives back whatever it takes (delivery.tasks).
        f"sum by ({_TASK}) ({again}) > 3",
        summary="Messages of a task come back again and again",
        description="{{ $value | printf `%.0f` }} messages of {{ $labels.name }} were delivered "
        "once more in 15 minutes: workers were killed, stopped, or could not reach the database.",
        dashboard="tasks",
        dashboard_variables=_VARIABLES,
    )


def _stuck(pace: Pace) -> Alert:
    oldest = (
        "max by (namespace, service, instance, name) (celery_worker_oldest_active_task_seconds)"
    )
    limit = held("celery_queue_time_limit_seconds", pace)
    visibility = held("celery_broker_visibility_timeout_seconds", pace, by="namespace")
    # Which queue a task has is known from its counters, which exist from the worker's start.
    own_limit = (
        "max by (namespace, name) (\n"
        f"    0 * max by ({_TASK}) (celery_task_started_total)\n"
        f"    + on (namespace, queue_name) group_left () {limit}\n  )"
    )
    return Alert(
        "CeleryTaskStuck",
        WARNING,
        "An attempt runs longer than its queue's time limit, or nears the visibility timeout",
        f"(\n  {oldest}\n  > on (namespace, name) group_left ()\n"
        f"  ({own_limit} + {pace.age(30)})\n)\nor\n"
        # 0.8: time to act before the broker hands the message to another worker.
        f"(\n  {oldest}\n  > on (namespace) group_left ()\n  0.8 * {visibility}\n)",
        summary="A task runs longer than it may",
        description="An attempt of {{ $labels.name }} on {{ $labels.instance }} has been running "
        "for {{ $value | humanizeDuration }}, and its time limit did not end it.",
        dashboard="workers",
        hold=pace.hold(MINUTE),
    )


def _dead_letters_growing(pace: Pace) -> Alert:
    by = "namespace, name"
    now = held("celery_dead_letters", pace, by=by)
    # A task that had no dead letter has no series.
    first = newborn("celery_dead_letters", HOUR, pace, by=by)
    least = f"min by ({by}) (min_over_time(celery_dead_letters[{pace.window(HOUR)}]))"
    return Alert(
        "CeleryDeadLettersGrowing",
        WARNING,
        "Tasks became dead letters within the last hour: somebody has to decide on them",
        f"(({first})\nor ({now} - on ({by}) {least})) > 0",
        summary="Tasks failed for good and wait for a decision",
        description="{{ $labels.name }} has {{ $value | printf `%.0f` }} more dead letters than "
        "within the last hour. Replay or discard them.",
        dashboard="tasks",
        dashboard_variables=("name",),
    )


def _quarantined(pace: Pace) -> Alert:
    last = held("celery_quarantine_last_received_timestamp_seconds", pace, by="namespace")
    return Alert(
        "CeleryMessagesQuarantined",
        WARNING,
        "Messages were refused within the last hour: not signed, altered or malformed",
        f"{held('celery_quarantined_messages', pace, by='namespace')} > 0\n"
        # 0 is the timestamp of none.
        f"and on (namespace)\ntime() - ({last} > 0) < {pace.age(HOUR)}",
        summary="Messages were refused",
        description="A message was refused within the last hour (not signed, altered or "
        "malformed). Kept for a look: {{ $value | printf `%.0f` }}. Somebody publishes past the "
        "application, or with another key.",
        dashboard="broker",
    )

"""Are messages taken in time?"""

from __future__ import annotations

from config.topology import CANARY_PERIOD_SECONDS, QUEUES, queues_of
from deploy.prometheus.rulebook import burning
from deploy.prometheus.rulebook.pace import MINUTE, Pace, duration, number
from deploy.prometheus.rulebook.promql import grown, held
from deploy.prometheus.rulebook.rule import CRITICAL, WARNING, Alert, Group

_QUEUE = "namespace, queue_name"
_LENGTH = "queue_name:celery_queue_length:max"


def group(pace: Pace) -> Group:
    """Return the alerts of the queues."""
    return Group(
        "celeriac.queues",
        (
            _oldest_message_too_old(pace),
            _stalled(pace),
            _no_consumer(pace),
            _worker_idle(pace),
            _canary_missing(pace),
            *burning.alerts(
                pace,
                burning.Promise(
                    "CeleryQueueing",
                    "queue_name:celery_task_queueing",
                    "celery_sli_queueing_total",
                    _QUEUE,
                    meaning="Tasks of a queue start later than promised",
                    what="the tasks of {{ $labels.queue_name }} started later than the target of "
                    "the queue",
                    dashboard="queues",
                    dashboard_variables=("queue_name",),
                ),
            ),
            _saturated(pace),
        ),
        area="queues",
    )


def _oldest_message_too_old(pace: Pace) -> Alert:
    # A durable task waits even if its message is lost, or was never published. Both ages come from
    # one process with the same labels, of which `or` keeps one: each is compared by itself.
    message = held("celery_queue_oldest_message_age_seconds", pace)
    row = held("celery_delivery_oldest_waiting_age_seconds", pace)
    older = f"(\n  {message}\n  > on ({_QUEUE}) {row}\n  or {row}\n  or {message}\n)"
    target = held("celery_queue_slo_seconds", pace)
    return Alert(
        "CeleryQueueOldestMessageTooOld",
        CRITICAL,
        "The next message or durable task of a queue has waited more than twice the queue's target",
        # Twice: the target itself is allowed to be missed by one task in a hundred.
        f"{older}\n> on ({_QUEUE}) 2 * {target}",
        summary="A queue is not served in time",
        description="The next task of {{ $labels.queue_name }} has waited "
        "{{ $value | humanizeDuration }}, more than twice the target of the queue.",
        dashboard="queues",
        # A deployment of workers takes less.
        hold=pace.hold(2 * MINUTE),
        dashboard_variables=("queue_name",),
    )


def _stalled(pace: Pace) -> Alert:
    windows: dict[float, list[str]] = {}
    for queue in QUEUES:
        # All slots may be full for as long as the longest task of the same workers may run.
        longest = max(row.hard_time_limit_seconds for row in queues_of(queue.worker))
        windows.setdefault(longest + 2 * MINUTE, []).append(queue.name)
    unknown = "|".join(queue.name for queue in QUEUES)
    branches = [
        *(
            (seconds, f'queue_name=~"{"|".join(names)}"')
            for seconds, names in sorted(windows.items())
        ),
        # A queue that is not in the table: a typing error, or a foreign publisher.
        (max(windows), f'queue_name!~"{unknown}"'),
    ]
    memory = pace.window(15 * MINUTE)
    expressions = [
        f"(\n  min_over_time({_LENGTH}{{{which}}}[{pace.window(seconds)}]) > 0\n"
        # The window must be full: a new series says nothing about the time before it.
        f"  and last_over_time({_LENGTH}{{{which}}}[{memory}] offset {pace.window(seconds)})\n"
        f"  unless on ({_QUEUE})\n"
        f"  sum by ({_QUEUE}) "
        f"({grown(f'celery_task_started_total{{{which}}}', seconds, pace)}) > 0\n)"
        for seconds, which in branches
    ]
    return Alert(
        "CeleryQueueStalled",
        CRITICAL,
        "A queue holds messages, and nothing of it has started for longer than any task may run",
        "\nor\n".join(expressions),
        summary="A queue stands still",
        description="No task of {{ $labels.queue_name }} has started for longer than its workers' "
        "longest time limit. Messages that wait, at least: {{ $value | printf `%.0f` }}.",
        dashboard="queues",
        hold=pace.hold(MINUTE),
        dashboard_variables=("queue_name",),
    )


def _no_consumer(pace: Pace) -> Alert:
    return Alert(
        "CeleryQueueHasNoConsumer",
        CRITICAL,
        "A queue holds messages, and no worker subscribes to it",
        f"{_LENGTH} > 0\nunless on ({_QUEUE})\n"
        f"sum by ({_QUEUE}) (celery_worker_queue_subscription) > 0",
        summary="Nobody serves a queue that holds messages",
        description="No worker takes messages from {{ $labels.queue_name }}: its workers are away, "
        "or its name is a typing error. Messages that wait: {{ $value | printf `%.0f` }}.",
        dashboard="queues",
        # A worker that is replaced is back in less.
        hold=pace.hold(3 * MINUTE),
        dashboard_variables=("queue_name",),
    )


def _worker_idle(pace: Pace) -> Alert:
    # Together with `for` and two scrapes this stays under three minutes: what issue 5 promises.
    seconds = MINUTE
    window = pace.window(seconds)
    worker = "namespace, service, instance"

    def worked(by: str) -> str:
        # Duplicates, revoked and rejected messages are work too, and start nothing.
        return "\n  or ".join(
            f"sum by ({by}) ({grown(f'celery_task_{end}_total', seconds, pace)}) > 0"
            for end in ("started", "ignored", "revoked", "rejected")
        )

    # Free in every sample of the window: a busy worker is full in at least one.
    free = (
        f"and on (namespace, instance)\n"
        f"(\n  min by (namespace, instance) (min_over_time(celery_worker_pool_slots[{window}]))\n"
        "  > on (namespace, instance)\n"
        "  max by (namespace, instance) "
        f'(max_over_time(celery_worker_requests{{state="active"}}[{window}]))\n)\n'
    )
    prefetched = f'celery_worker_requests{{state="prefetched"}}[{window}]'
    return Alert(
        "CeleryWorkerIdleWhileQueueWaits",
        CRITICAL,
        "A worker has free slots and starts nothing, while messages wait in its queue or in its "
        "hands",
        f"(\n  min_over_time({_LENGTH}[{window}])\n"
        f"  * on ({_QUEUE}) group_right ()\n"
        f"  max by ({worker}, queue_name) (celery_worker_queue_subscription)\n) > 0\n"
        f"{free}unless on ({worker}, queue_name)\n(\n  {worked(f'{worker}, queue_name')}\n)\n"
        # What it took is no longer in the queue's list; of which queue it is, no metric says.
        f"or\nmax by ({worker}) (min_over_time({prefetched})) > 0\n"
        f"{free}unless on ({worker})\n(\n  {worked(worker)}\n)",
        summary="A worker is alive and starts nothing, while messages wait",
        description="{{ $labels.instance }} subscribes to {{ or $labels.queue_name `queues` }} and "
        "has free slots, but has started nothing of it. Messages that wait, at least: "
        "{{ $value | printf `%.0f` }} (in {{ if $labels.queue_name }}the queue{{ else }}the "
        "worker's hands{{ end }}).",
        dashboard="workers",
        hold=pace.hold(0.75 * MINUTE),
        dashboard_variables=("instance",),
    )


def _canary_missing(pace: Pace) -> Alert:
    # Four canaries may be lost, whatever took them. In a busy queue one may wait beside the others.
    patience = pace.age(4 * MINUTE, fact=CANARY_PERIOD_SECONDS)
    age = f"time() - {held('celery_canary_last_success_timestamp_seconds', pace)}"
    target = held("celery_queue_slo_seconds", pace)
    # A queue that has a target and never had a canary, once the exporter has run long enough.
    longest = float(patience) + 2 * max(queue.wait_target_seconds for queue in QUEUES)
    never = (
        f"({number(longest)} * group by ({_QUEUE}) "
        f"(last_over_time(celery_queue_slo_seconds[{pace.window(MINUTE)}] "
        f"offset {duration(longest)})))\n"
        f"unless on ({_QUEUE}) {held('celery_canary_last_success_timestamp_seconds', pace)}\n"
        # Without the exporter, nobody knows: that is CeleryMetricsStale.
        f"and on ({_QUEUE}) {target}"
    )
    return Alert(
        "CeleryCanaryMissing",
        CRITICAL,
        "The test task that beat sends through each queue every minute does not come through",
        f"({age}) > on ({_QUEUE}) ({patience} + 2 * {target})\nor\n"
        f"({age}) > {patience} unless on ({_QUEUE}) {target}\nor\n{never}",
        summary="The canary of a queue does not come through",
        description="No canary of {{ $labels.queue_name }} has come through for "
        "{{ $value | humanizeDuration }} or longer: beat, the broker, the workers or the database "
        "is broken somewhere on the way.",
        dashboard="queues",
        hold=pace.hold(MINUTE),
        dashboard_variables=("queue_name",),
    )


def _saturated(pace: Pace) -> Alert:
    window = pace.window(5 * MINUTE)
    return Alert(
        "CeleryWorkersSaturated",
        WARNING,
        "All workers of a queue are busy, and its messages wait longer than the target",
        # 0.9: above it, waits grow without bound at the slightest variation (queueing theory).
        f"avg_over_time(queue_name:celery_worker_busy:ratio[{window}]) > 0.9\n"
        f"and on ({_QUEUE})\n"
        "avg_over_time(queue_name:celery_queue_oldest_message_age:target_ratio"
        f"[{window}]) > 1",
        summary="The workers of a queue are too few",
        description="{{ $value | humanizePercentage }} of the slots that serve "
        "{{ $labels.queue_name }} are busy, and its messages wait longer than the target.",
        dashboard="workers",
        hold=pace.hold(5 * MINUTE),
        dashboard_variables=("queue_name",),
    )

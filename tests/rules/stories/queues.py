"""Stories of queues."""

from tests.rules.story import Fires, Quiet, Story, flat, nothing, now, rising

_DEFAULT = '{queue_name="default"}'
_LATE = "of the tasks of default started later than the target of the queue, in the last"
_BUDGET = "1% over 30 days is the budget."


def _worker(
    instance: str,
    minutes: float,
    *,
    active: int,
    prefetched: int = 0,
    slots: int = 4,
    queues: tuple[str, ...] = ("default",),
) -> dict[str, str]:
    """Return what a worker says of itself while it does not change."""
    series = {
        f'celery_worker_pool_slots{{service="worker", instance="{instance}"}}': flat(
            slots, minutes
        ),
        f'celery_worker_requests{{service="worker", instance="{instance}", state="active"}}': flat(
            active, minutes
        ),
        _prefetched(instance): flat(prefetched, minutes),
    }
    for queue in queues:
        name = f'{{service="worker", instance="{instance}", queue_name="{queue}"}}'
        series[f"celery_worker_queue_subscription{name}"] = flat(1, minutes)
    return series


def _prefetched(instance: str) -> str:
    return f'celery_worker_requests{{service="worker", instance="{instance}", state="prefetched"}}'


def _started(instance: str, queue: str = "default", kind: str = "started") -> str:
    return (
        f'celery_task_{kind}_total{{service="worker", instance="{instance}", '
        f'queue_name="{queue}", name="jobs.work"}}'
    )


STORIES: list[Story] = [
    # --- the age of the next message -------------------------------------------------------------
    Fires(
        "two queues, one age, two targets",
        "CeleryQueueOldestMessageTooOld",
        {
            f"celery_queue_oldest_message_age_seconds{_DEFAULT}": f"{flat(0, 2)} {rising(0, 60, 10)}",
            f"celery_queue_slo_seconds{_DEFAULT}": flat(5, 12),
            'celery_queue_oldest_message_age_seconds{queue_name="bulk"}': rising(0, 30, 12),
            'celery_queue_slo_seconds{queue_name="bulk"}': flat(300, 12),
        },
        at=5,
        not_before=4,
        labels={"queue_name": "default"},
        description="The next task of default has waited 3m 0s, more than twice the target of "
        "the queue.",
    ),
    Fires(
        "two exporters, one of them restarted in the middle, do not hide it",
        "CeleryQueueOldestMessageTooOld",
        {
            'celery_queue_oldest_message_age_seconds{queue_name="default", instance="a"}': f"{flat(11, 1)} {nothing(0.75)} {flat(11, 2)}",
            'celery_queue_oldest_message_age_seconds{queue_name="default", instance="b"}': f"{flat(9, 0.5)} {nothing(4)}",
            f"celery_queue_slo_seconds{_DEFAULT}": flat(5, 4),
        },
        at=2.5,
        labels={"queue_name": "default"},
        description="The next task of default has waited 11s, more than twice the target of the "
        "queue.",
    ),
    Fires(
        "durable tasks wait whose messages are lost: the list of the queue is empty",
        "CeleryQueueOldestMessageTooOld",
        {
            f"celery_queue_oldest_message_age_seconds{_DEFAULT}": flat(0, 12),
            f"celery_delivery_oldest_waiting_age_seconds{_DEFAULT}": f"{flat(0, 2)} {rising(0, 60, 10)}",
            f"celery_queue_slo_seconds{_DEFAULT}": flat(5, 12),
        },
        at=5,
        not_before=4,
        labels={"queue_name": "default"},
        description="The next task of default has waited 3m 0s, more than twice the target of the "
        "queue.",
    ),
    Fires(
        "the broker does not answer, and its reading is gone",
        "CeleryQueueOldestMessageTooOld",
        {
            f"celery_queue_oldest_message_age_seconds{_DEFAULT}": f"{flat(0, 2)} stale",
            f"celery_delivery_oldest_waiting_age_seconds{_DEFAULT}": f"{flat(0, 2)} {rising(0, 60, 10)}",
            f"celery_queue_slo_seconds{_DEFAULT}": flat(5, 12),
        },
        at=5,
        not_before=4,
        labels={"queue_name": "default"},
        description="The next task of default has waited 3m 0s, more than twice the target of the "
        "queue.",
    ),
    Quiet(
        "exactly twice the target, and an age of a minute that passes",
        "CeleryQueueOldestMessageTooOld",
        {
            f"celery_queue_oldest_message_age_seconds{_DEFAULT}": f"{flat(10, 6)} {flat(60, 1.5)} {flat(10, 6)}",
            f"celery_delivery_oldest_waiting_age_seconds{_DEFAULT}": f"{flat(10, 6)} {flat(90, 1.5)} {flat(10, 6)}",
            f"celery_queue_slo_seconds{_DEFAULT}": flat(5, 13),
        },
        until=13,
    ),
    # --- a queue that stands still ---------------------------------------------------------------
    Fires(
        "workers are there, and nothing starts of more than a million",
        "CeleryQueueStalled",
        {
            f"celery_queue_length{_DEFAULT}": f"{flat(0, 5)} {flat(1500000, 15)}",
            _started("w1"): f"{rising(0, 20, 5)} {flat(95, 15)}",
        },
        at=13,
        not_before=11,
        labels={"queue_name": "default"},
        description="No task of default has started for longer than its workers' longest time limit. "
        "Messages that wait, at least: 1500000.",
    ),
    Fires(
        "a queue that no table knows, because of a typing error, in another namespace",
        "CeleryQueueStalled",
        {
            'celery_queue_length{namespace="test", queue_name="mial"}': flat(1, 10),
            'celery_queue_length{queue_name="mail"}': flat(0, 10),
        },
        at=8,
        namespace="test",
        labels={"queue_name": "mial"},
        description="No task of mial has started for longer than its workers' longest time limit. "
        "Messages that wait, at least: 1.",
    ),
    Quiet(
        "every slot is full for as long as a task may run, and the next one starts",
        "CeleryQueueStalled",
        {
            f"celery_queue_length{_DEFAULT}": flat(50, 30),
            _started("w1"): " ".join(flat(value, 4.5) for value in (4, 8, 12, 16, 20, 24)),
        },
        until=27,
    ),
    Quiet(
        "the only start is the first of a worker that came back (born at 1)",
        "CeleryQueueStalled",
        {
            f"celery_queue_length{_DEFAULT}": flat(5, 12),
            _started("w2"): f"{nothing(6)} {flat(1, 6)}",
        },
        until=12,
    ),
    Quiet(
        "no traffic at all",
        "CeleryQueueStalled",
        {f"celery_queue_length{_DEFAULT}": flat(0, 30), _started("w1"): flat(95, 30)},
        until=30,
    ),
    # --- nobody subscribes -----------------------------------------------------------------------
    Fires(
        "the only subscriber vanishes",
        "CeleryQueueHasNoConsumer",
        {
            f"celery_queue_length{_DEFAULT}": flat(1, 12),
            'celery_worker_queue_subscription{queue_name="default", instance="w1"}': f"{flat(1, 4)} stale",
            'celery_worker_queue_subscription{queue_name="mail", instance="w1"}': flat(1, 12),
        },
        at=7.5,
        not_before=6.75,
        labels={"queue_name": "default"},
        description="No worker takes messages from default: its workers are away, or its name is a "
        "typing error. Messages that wait: 1.",
    ),
    Quiet(
        "the worker is replaced within less than three minutes, and an empty queue needs none",
        "CeleryQueueHasNoConsumer",
        {
            f"celery_queue_length{_DEFAULT}": flat(2, 12),
            'celery_queue_length{queue_name="mail"}': flat(0, 12),
            'celery_worker_queue_subscription{queue_name="default", instance="w1"}': f"{flat(1, 4)} stale",
            'celery_worker_queue_subscription{queue_name="default", instance="w2"}': f"{nothing(6.5)} {flat(1, 5)}",
        },
        until=11,
    ),
    # --- a worker that is alive and takes nothing ------------------------------------------------
    Fires(
        "alive, four free slots, nothing taken: found within three minutes",
        "CeleryWorkerIdleWhileQueueWaits",
        {
            **_worker("w1", 10, active=0),
            f"celery_queue_length{_DEFAULT}": f"{flat(0, 5)} {rising(1, 8, 5)}",
            _started("w1"): f"{rising(0, 40, 5)} {flat(195, 5)}",
        },
        at=8,
        not_before=6,
        labels={"queue_name": "default", "instance": "w1", "service": "worker"},
        description="w1 subscribes to default and has free slots, but has started nothing of it. "
        "Messages that wait, at least: 17 (in the queue).",
        resolved_at=11.5,
    ),
    Fires(
        "beside a worker that works, and after its own restart (counters gone)",
        "CeleryWorkerIdleWhileQueueWaits",
        {
            **_worker("w1", 10, active=4),
            **_worker("w2", 10, active=0),
            f"celery_queue_length{_DEFAULT}": flat(1, 10),
            _started("w1"): rising(0, 40, 10),
            _started("w2"): f"{rising(900, 40, 4)} {flat(0, 6)}",
        },
        at=7,
        not_before=5,
        labels={"queue_name": "default", "instance": "w2", "service": "worker"},
        description="w2 subscribes to default and has free slots, but has started nothing of it. "
        "Messages that wait, at least: 1 (in the queue).",
    ),
    Fires(
        "its pool hangs, and everything that waits is in its hands: the queue's list is empty",
        "CeleryWorkerIdleWhileQueueWaits",
        {
            **_worker("w1", 10, active=0, queues=("default", "mail")),
            _prefetched("w1"): f"{flat(0, 5)} {flat(3, 5)}",
            f"celery_queue_length{_DEFAULT}": flat(0, 10),
            _started("w1"): f"{rising(0, 40, 5)} {flat(195, 5)}",
            _started("w2"): rising(0, 40, 10),
        },
        at=8,
        not_before=6,
        labels={"instance": "w1", "service": "worker"},
        description="w1 subscribes to queues and has free slots, but has started nothing of it. "
        "Messages that wait, at least: 3 (in the worker's hands).",
        resolved_at=11.5,
    ),
    Quiet(
        "it holds messages and starts them; it is full of long tasks; it waits for their eta",
        "CeleryWorkerIdleWhileQueueWaits",
        {
            **_worker("w1", 10, active=3, prefetched=4),
            _started("w1", "mail"): rising(0, 1.5, 10),
            **_worker("w2", 10, active=4, prefetched=4),
            _started("w2"): flat(4, 10),
            **_worker("w3", 10, active=0),
            _prefetched("w3").replace("prefetched", "scheduled"): flat(4, 10),
            _started("w3"): flat(4, 10),
            f"celery_queue_length{_DEFAULT}": flat(0, 10),
        },
        until=10,
    ),
    Quiet(
        "all slots are full of long tasks",
        "CeleryWorkerIdleWhileQueueWaits",
        {
            **_worker("w1", 10, active=4),
            f"celery_queue_length{_DEFAULT}": flat(30, 10),
            _started("w1"): flat(4, 10),
        },
        until=10,
    ),
    Quiet(
        "a slot is free at the moment of every scrape, between two tasks",
        "CeleryWorkerIdleWhileQueueWaits",
        {
            **_worker("w1", 10, active=3),
            f"celery_queue_length{_DEFAULT}": flat(30, 10),
            _started("w1"): rising(0, 1.5, 10),
        },
        until=10,
    ),
    Quiet(
        "one slot, which is free in all scrapes of a minute but one",
        "CeleryWorkerIdleWhileQueueWaits",
        {
            f"celery_queue_length{_DEFAULT}": flat(30, 10),
            **_worker("w1", 10, active=0, slots=1),
            'celery_worker_requests{service="worker", instance="w1", state="active"}': " ".join(
                ["1 0 0 0"] * 10
            ),
            _started("w1"): flat(7, 10),
        },
        until=10,
    ),
    Quiet(
        "a worker that has just started takes its first task (born at 1)",
        "CeleryWorkerIdleWhileQueueWaits",
        {
            f"celery_queue_length{_DEFAULT}": flat(30, 10),
            **{
                name: f"{nothing(5)} {values}"
                for name, values in _worker("w1", 5, active=0).items()
            },
            _started("w1"): f"{nothing(5)} {flat(0, 0.75)} {flat(1, 0.5)} {rising(2, 30, 4)}",
        },
        until=10,
    ),
    Quiet(
        "it throws duplicates away, which is work that starts nothing",
        "CeleryWorkerIdleWhileQueueWaits",
        {
            **_worker("w1", 10, active=0),
            f"celery_queue_length{_DEFAULT}": flat(3000, 10),
            _started("w1", kind="ignored"): rising(0, 900, 10),
            _started("w1"): flat(0, 10),
        },
        until=10,
    ),
    Quiet(
        "only a queue waits that it does not serve; its own is empty",
        "CeleryWorkerIdleWhileQueueWaits",
        {
            **_worker("w1", 10, active=0),
            f"celery_queue_length{_DEFAULT}": flat(0, 10),
            'celery_queue_length{queue_name="bulk"}': flat(9, 10),
            _started("w1"): flat(0, 10),
        },
        until=10,
    ),
    # --- canaries --------------------------------------------------------------------------------
    Fires(
        "the canaries of one queue end",
        "CeleryCanaryMissing",
        {
            f"celery_canary_last_success_timestamp_seconds{_DEFAULT}": f"{now(5)} {flat(285, 15)}",
            'celery_canary_last_success_timestamp_seconds{queue_name="mail"}': now(20),
            f"celery_queue_slo_seconds{_DEFAULT}": flat(5, 20),
            'celery_queue_slo_seconds{queue_name="mail"}': flat(60, 20),
        },
        at=11.5,
        not_before=10.75,
        labels={"queue_name": "default"},
        description="No canary of default has come through for 6m 45s or longer: beat, the broker, "
        "the workers or the database is broken somewhere on the way.",
    ),
    Fires(
        "a queue never had one",
        "CeleryCanaryMissing",
        {f"celery_queue_slo_seconds{_DEFAULT}": flat(5, 20)},
        at=16.5,
        not_before=15.75,
        labels={"queue_name": "default"},
        description="No canary of default has come through for 15m 0s or longer: beat, the broker, "
        "the workers or the database is broken somewhere on the way.",
    ),
    Quiet(
        "four of one queue are lost, a bulky one is busy, and the exporter is away for a minute",
        "CeleryCanaryMissing",
        {
            # Its target allows five minutes, and twice as much is not yet an alert elsewhere.
            'celery_canary_last_success_timestamp_seconds{queue_name="bulk"}': flat(0, 14),
            'celery_queue_slo_seconds{queue_name="bulk"}': flat(300, 14),
            f"celery_canary_last_success_timestamp_seconds{_DEFAULT}": f"{flat(0, 5)} {flat(300, 1)} {nothing(0.75)} {flat(360, 3)} {flat(600, 4)}",
            f"celery_queue_slo_seconds{_DEFAULT}": flat(5, 14),
        },
        until=13.5,
    ),
    Quiet(
        "a new stack: the first canary takes four minutes",
        "CeleryCanaryMissing",
        {
            f"celery_queue_slo_seconds{_DEFAULT}": flat(5, 14),
            f"celery_canary_last_success_timestamp_seconds{_DEFAULT}": f"{nothing(4)} {now(10, from_minute=4)}",
        },
        until=13.5,
    ),
    # --- the promise about waiting ---------------------------------------------------------------
    Fires(
        "a fifth is late for an hour; a rare queue with nothing but late tasks is left out",
        "CeleryQueueingErrorBudgetBurnFast",
        {
            f"celery_sli_queueing_total{_DEFAULT}": "0+100x90",
            f"celery_sli_queueing_good_total{_DEFAULT}": "0+80x90",
            'celery_sli_queueing_total{queue_name="mail"}': "0+1x90",
            'celery_sli_queueing_good_total{queue_name="mail"}': "0x90",
        },
        at=80,
        step=60,
        labels={"queue_name": "default"},
        description=f"20% {_LATE} hour. {_BUDGET}",
    ),
    Fires(
        "every task is late, so that the counter of good ones does not exist",
        "CeleryQueueingErrorBudgetBurnFast",
        {f"celery_sli_queueing_total{_DEFAULT}": "0+10x90"},
        at=80,
        step=60,
        labels={"queue_name": "default"},
        description=f"100% {_LATE} hour. {_BUDGET}",
    ),
    Quiet(
        "14 % are late: not fast enough; a minute of lateness that has passed; no traffic",
        "CeleryQueueingErrorBudgetBurnFast",
        {
            f"celery_sli_queueing_total{_DEFAULT}": "0+100x150",
            f"celery_sli_queueing_good_total{_DEFAULT}": "0+86x150",
            'celery_sli_queueing_total{queue_name="mail"}': "0+100x60 6000+100x90",
            'celery_sli_queueing_good_total{queue_name="mail"}': "0+100x60 6000x1 6100+100x88",
            'celery_sli_queueing_total{queue_name="bulk"}': "500x150",
            'celery_sli_queueing_good_total{queue_name="bulk"}': "100x150",
        },
        until=150,
        step=60,
    ),
    Fires(
        "7 % are late for hours",
        "CeleryQueueingErrorBudgetBurnSlow",
        {
            f"celery_sli_queueing_total{_DEFAULT}": "0+100x480",
            f"celery_sli_queueing_good_total{_DEFAULT}": "0+93x480",
        },
        at=430,
        step=60,
        labels={"queue_name": "default"},
        description=f"7% {_LATE} six hours. {_BUDGET}",
    ),
    Quiet(
        "5.9 % are late; workers are replaced every hour (counters begin anew)",
        "CeleryQueueingErrorBudgetBurnSlow",
        {
            f"celery_sli_queueing_total{_DEFAULT}": " ".join(["0+1000x59"] * 9),
            f"celery_sli_queueing_good_total{_DEFAULT}": " ".join(["0+941x59"] * 9),
        },
        until=500,
        step=60,
    ),
    # --- too few workers -------------------------------------------------------------------------
    Fires(
        "all slots are busy and the queue is late",
        "CeleryWorkersSaturated",
        {
            **_worker("w1", 20, active=4),
            f"celery_queue_oldest_message_age_seconds{_DEFAULT}": flat(6, 20),
            f"celery_queue_slo_seconds{_DEFAULT}": flat(5, 20),
        },
        at=6,
        not_before=4.5,
        labels={"queue_name": "default"},
        description="100% of the slots that serve default are busy, and its messages wait longer "
        "than the target.",
    ),
    Quiet(
        "busy and in time, or late with a free worker",
        "CeleryWorkersSaturated",
        {
            **_worker("w1", 20, active=4, queues=("default",)),
            f"celery_queue_oldest_message_age_seconds{_DEFAULT}": flat(5, 20),
            f"celery_queue_slo_seconds{_DEFAULT}": flat(5, 20),
            **_worker("w2", 20, active=4, queues=("mail",)),
            **_worker("w3", 20, active=3, queues=("mail",)),
            'celery_queue_oldest_message_age_seconds{queue_name="mail"}': flat(600, 20),
            'celery_queue_slo_seconds{queue_name="mail"}': flat(60, 20),
        },
        until=20,
    ),
]

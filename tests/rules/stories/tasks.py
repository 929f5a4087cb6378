"""Stories of tasks."""

from tests.rules.story import Fires, Quiet, Story, flat, nothing, rising

_SHOP = {"queue_name": "default", "name": "shop.charge"}


def _task(
    metric: str,
    instance: str = "w1",
    name: str = "shop.charge",
    queue: str = "default",
    **more: str,
) -> str:
    labels = {"instance": instance, "queue_name": queue, "name": name, **more}
    return metric + "{" + ", ".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


def _runs(total: str, good: str, name: str = "shop.charge") -> dict[str, str]:
    return {
        _task("celery_sli_execution_total", name=name): total,
        _task("celery_sli_execution_good_total", name=name): good,
    }


_FAILED = _task("celery_task_failed_total", exception="ValueError")
_OTHER = _task("celery_task_failed_total", exception="KeyError")
_SUCCEEDED = _task("celery_task_succeeded_total")
_LOST = _task("celery_task_worker_lost_total")

STORIES: list[Story] = [
    # --- the promise about runs ------------------------------------------------------------------
    Fires(
        "a fifth of a task's runs fails, another task is well",
        "CeleryExecutionErrorBudgetBurnFast",
        {
            **_runs("0+10x90", "0+8x90"),
            **_runs("0+1000x90", "0+1000x90", name="shop.ship"),
        },
        at=80,
        step=60,
        labels=_SHOP,
        description="20% of the runs of shop.charge did not succeed, in the last hour. 1% over 30 "
        "days is the budget.",
    ),
    Quiet(
        "14 % fail; a task that runs once an hour fails each time; a fault of ten minutes is over",
        "CeleryExecutionErrorBudgetBurnFast",
        {
            **_runs("0+100x150", "0+86x150"),
            **_runs("0x59 1x59 2x59", "0x180", name="shop.report"),
            **_runs("9000x150", "100x150", name="shop.archive"),
        },
        until=150,
        step=60,
    ),
    Fires(
        "7 % fail for hours",
        "CeleryExecutionErrorBudgetBurnSlow",
        _runs("0+100x480", "0+93x480"),
        at=430,
        step=60,
        labels=_SHOP,
        description="7% of the runs of shop.charge did not succeed, in the last six hours. 1% over "
        "30 days is the budget.",
    ),
    Quiet(
        "5.9 % fail for hours; no runs at all",
        "CeleryExecutionErrorBudgetBurnSlow",
        {
            **_runs("0+1000x480", "0+941x480"),
            **_runs("900x480", "0x480", name="shop.archive"),
        },
        until=480,
        step=60,
    ),
    # --- failures --------------------------------------------------------------------------------
    Fires(
        "three failures, each of its own kind, each series born at 1",
        "CeleryTaskFailing",
        {
            _FAILED: f"{nothing(12)} {flat(1, 18)}",
            _OTHER: f"{nothing(13)} {flat(1, 18)}",
            _task("celery_task_failed_total", exception="OSError"): f"{nothing(14)} {flat(1, 18)}",
            _SUCCEEDED: flat(50, 32),
        },
        at=17,
        not_before=15.5,
        resolved_at=26,
        labels=_SHOP,
        description="100% of the runs of shop.charge failed for good in the last ten minutes.",
    ),
    Fires(
        "the worker was restarted between the failures (counters begin anew)",
        "CeleryTaskFailing",
        {
            _FAILED: f"{flat(7, 20)} {flat(9, 1)} {nothing(1)} {flat(1, 1)} {flat(2, 6)}",
            _SUCCEEDED: flat(100, 30),
        },
        at=24.25,
        not_before=23.75,
        labels=_SHOP,
        description="100% of the runs of shop.charge failed for good in the last ten minutes.",
    ),
    Quiet(
        "two failures of two; five of a hundred and five; a past that a new Prometheus finds",
        "CeleryTaskFailing",
        {
            _FAILED: f"{nothing(15)} {flat(1, 2)} {flat(2, 13)}",
            _task(
                "celery_task_failed_total", name="shop.ship", exception="E"
            ): f"{flat(0, 15)} {flat(5, 15)}",
            _task("celery_task_succeeded_total", name="shop.ship"): rising(0, 10, 30),
            _task("celery_task_failed_total", name="shop.archive", exception="E"): flat(70, 30),
        },
        until=30,
    ),
    Quiet(
        "nobody could scrape the worker for twenty minutes, and nothing has happened",
        "CeleryTaskFailing",
        {
            _FAILED: f"{flat(9, 40)} {nothing(20)} {flat(9, 20)}",
            _SUCCEEDED: f"{flat(50, 40)} {nothing(20)} {flat(50, 20)}",
        },
        until=79,
    ),
    Fires(
        "a nightly task fails for the first time, on a new worker (born at 1)",
        "CeleryTaskNeverSucceeds",
        {
            _task("celery_task_failed_total", instance="w2", exception="ValueError"): "_x120 1x300",
            _task("celery_task_succeeded_total", instance="w2"): "_x100 0x320",
        },
        at=150,
        not_before=119,
        step=60,
        labels=_SHOP,
        description="shop.charge did not succeed once since it is watched, a day at most. Times "
        "that it failed for good: 1.",
    ),
    Fires(
        "the same, and the worker starts anew where it was: its counters begin at 0 again",
        "CeleryTaskNeverSucceeds",
        {
            _task("celery_task_failed_total", instance="w2", exception="E"): "_x120 1x60 0x240",
            _task("celery_task_succeeded_total", instance="w2"): "_x100 0x320",
        },
        at=300,
        step=60,
        labels=_SHOP,
        description="shop.charge did not succeed once since it is watched, a day at most. Times "
        "that it failed for good: 1.",
    ),
    Quiet(
        "it succeeded once, 23 hours before it failed; another only failed two days ago",
        "CeleryTaskNeverSucceeds",
        {
            # Samples every ten minutes: 6 an hour.
            _FAILED: "0x140 1x60",
            _SUCCEEDED: "0x5 1x195",
            _task("celery_task_failed_total", name="shop.archive", exception="E"): "4x200",
            _task("celery_task_succeeded_total", name="shop.archive"): "0x200",
        },
        until=1440,
        step=240,
    ),
    # --- lost processes, repeated messages -------------------------------------------------------
    Fires(
        "one process dies, on a worker that has just started (born at 1)",
        "CeleryTaskWorkerLost",
        {
            _LOST: f"{flat(0, 30)}",
            _task("celery_task_worker_lost_total", instance="w2"): f"{nothing(20)} {flat(1, 30)}",
        },
        at=20.5,
        not_before=19.75,
        resolved_at=36,
        labels=_SHOP,
        description="shop.charge lost its process 1 times in 15 minutes: out of memory, kill -9 or "
        "a crash.",
    ),
    Fires(
        "the worker itself is restarted, and the next process dies too (reset to 1)",
        "CeleryTaskWorkerLost",
        {_LOST: f"{flat(3, 30)} {nothing(2)} {flat(1, 10)}"},
        at=33,
        not_before=31.75,
        labels=_SHOP,
        description="shop.charge lost its process 1 times in 15 minutes: out of memory, kill -9 or "
        "a crash.",
    ),
    Quiet(
        "losses of long ago; scrapes that fail for a while, and no loss in them; no traffic",
        "CeleryTaskWorkerLost",
        {
            _LOST: f"{flat(3, 30)} stale {nothing(4)} {flat(3, 60)}",
            _task("celery_task_worker_lost_total", name="shop.ship"): flat(0, 90),
        },
        until=90,
    ),
    Fires(
        "a message comes back four times",
        "CeleryTaskRedelivered",
        {_task("celery_task_redelivered_total"): f"{flat(0, 20)} {rising(0, 1, 4)} {flat(4, 20)}"},
        at=26,
        not_before=20,
        labels=_SHOP,
        description="4 messages of shop.charge were delivered once more in 15 minutes: workers "
        "were killed, stopped, or could not reach the database.",
    ),
    Quiet(
        "three come back from a worker that was replaced, again half an hour later",
        "CeleryTaskRedelivered",
        {
            _task("celery_task_redelivered_total"): f"{nothing(20)} {flat(3, 60)}",
            _task("celery_task_redelivered_total", instance="w2"): f"{nothing(50)} {flat(3, 60)}",
        },
        until=80,
    ),
    # --- a task that does not end ----------------------------------------------------------------
    Fires(
        "it runs on after its queue's limit; the longer task of another queue may",
        "CeleryTaskStuck",
        {
            'celery_worker_oldest_active_task_seconds{instance="w1", name="shop.charge"}': rising(
                0, 60, 5
            ),
            'celery_worker_oldest_active_task_seconds{instance="w1", name="shop.mail"}': rising(
                0, 60, 5
            ),
            _task("celery_task_started_total"): flat(1, 5),
            _task("celery_task_started_total", name="shop.mail", queue="mail"): flat(1, 5),
            'celery_queue_time_limit_seconds{queue_name="default"}': flat(30, 5),
            'celery_queue_time_limit_seconds{queue_name="mail"}': flat(270, 5),
        },
        at=3,
        not_before=2,
        labels={"instance": "w1", "name": "shop.charge"},
        description="An attempt of shop.charge on w1 has been running for 3m 0s, and its time "
        "limit did not end it.",
    ),
    Fires(
        "nothing is known of its queue, and it nears the visibility timeout",
        "CeleryTaskStuck",
        {
            'celery_worker_oldest_active_task_seconds{instance="w1", name="shop.charge"}': rising(
                0, 60, 20
            ),
            "celery_broker_visibility_timeout_seconds": flat(900, 20),
        },
        at=14,
        not_before=13,
        labels={"instance": "w1", "name": "shop.charge"},
        description="An attempt of shop.charge on w1 has been running for 14m 0s, and its time "
        "limit did not end it.",
    ),
    Quiet(
        "each attempt is killed at its limit, and seen once more",
        "CeleryTaskStuck",
        {
            'celery_worker_oldest_active_task_seconds{instance="w1", name="shop.charge"}': " ".join(
                ["0 15 30 45"] * 10
            ),
            _task("celery_task_started_total"): flat(1, 10),
            'celery_queue_time_limit_seconds{queue_name="default"}': flat(30, 10),
            "celery_broker_visibility_timeout_seconds": flat(900, 10),
        },
        until=10,
    ),
    # --- what failed for good --------------------------------------------------------------------
    Fires(
        "the first dead letter of a task (born at 1); the exporter is replaced meanwhile",
        "CeleryDeadLettersGrowing",
        {
            'celery_dead_letters{name="shop.charge", instance="a"}': f"{nothing(20)} {flat(1, 20)}",
            'celery_dead_letters{name="shop.charge", instance="b"}': f"{nothing(41)} {flat(1, 100)}",
        },
        at=45,
        not_before=19.75,
        resolved_at=90,
        labels={"name": "shop.charge"},
        description="shop.charge has 1 more dead letters than within the last hour. Replay or "
        "discard them.",
    ),
    Fires(
        "two more after some were replayed",
        "CeleryDeadLettersGrowing",
        {'celery_dead_letters{name="shop.charge"}': f"{flat(9, 80)} {flat(4, 10)} {flat(6, 10)}"},
        at=95,
        not_before=89.75,
        labels={"name": "shop.charge"},
        description="shop.charge has 2 more dead letters than within the last hour. Replay or "
        "discard them.",
    ),
    Quiet(
        "old ones that a new Prometheus finds, that are replayed, and a new exporter",
        "CeleryDeadLettersGrowing",
        {
            'celery_dead_letters{name="shop.charge", instance="a"}': f"{flat(9, 40)} {flat(4, 40)}",
            'celery_dead_letters{name="shop.charge", instance="b"}': f"{nothing(81)} {flat(4, 70)}",
        },
        until=150,
    ),
    Fires(
        "a message is refused",
        "CeleryMessagesQuarantined",
        {
            "celery_quarantined_messages": f"{flat(0, 20)} {flat(1, 100)}",
            "celery_quarantine_last_received_timestamp_seconds": f"{flat(0, 20)} {flat(1200, 100)}",
        },
        at=30,
        resolved_at=81,
        description="A message was refused within the last hour (not signed, altered or "
        "malformed). Kept for a look: 1. Somebody publishes past the application, or "
        "with another key.",
    ),
    Quiet(
        "the last one was an hour ago; an exporter that restarts; none kept",
        "CeleryMessagesQuarantined",
        {
            'celery_quarantined_messages{namespace="a"}': f"{nothing(61)} {flat(5, 30)}",
            'celery_quarantine_last_received_timestamp_seconds{namespace="a"}': f"{nothing(61)} {flat(50, 30)}",
            'celery_quarantined_messages{namespace="b"}': flat(0, 90),
            'celery_quarantine_last_received_timestamp_seconds{namespace="b"}': flat(0, 90),
        },
        until=90,
    ),
]

"""Stories of workers."""

from tests.rules.story import Fires, Quiet, Story, flat, nothing, rising

_UP = 'up{job="celery-worker", service="worker", instance="w1"}'
_BULK = 'up{job="celery-worker", service="worker-bulk", instance="b1"}'
_TARGETS = {
    f'celery_queue_slo_seconds{{queue_name="{queue}"}}': flat(seconds, 60)
    for queue, seconds in (("default", 5), ("mail", 60), ("bulk", 300), ("maintenance", 60))
}
_SUBSCRIBED = 'celery_worker_queue_subscription{queue_name="default", instance="w1"}'
_POD = 'up{job="team/celery-worker", instance="pod-1"}'
_POD_SUBSCRIBED = (
    'celery_worker_queue_subscription{job="team/celery-worker", queue_name="default", '
    'instance="pod-1"}'
)
_NOBODY = "No worker of worker answers, and nobody subscribes to its queues."
_W1 = {"service": "worker", "instance": "w1"}


def _worker(metric: str, instance: str = "w1", more: str = "") -> str:
    return f'{metric}{{job="celery-worker", service="worker", instance="{instance}"{more}}}'


STORIES: list[Story] = [
    Fires(
        "the only worker of a service is down, the other service is well",
        "CeleryWorkerDown",
        {
            _UP: f"{flat(1, 5)} {flat(0, 10)}",
            _SUBSCRIBED: f"{flat(1, 5)} stale",
            _BULK: flat(1, 15),
            **_TARGETS,
        },
        at=7.5,
        not_before=6.75,
        labels={"service": "worker"},
        description=_NOBODY,
    ),
    Fires(
        "its target vanishes, and so did the exporter: the last hour remembers",
        "CeleryWorkerDown",
        {_UP: f"{flat(1, 5)} stale", _BULK: flat(1, 15)},
        at=7.5,
        not_before=6.75,
        labels={"service": "worker"},
        description=_NOBODY,
    ),
    Fires(
        "it was never there",
        "CeleryWorkerDown",
        {**_TARGETS, _BULK: flat(1, 15)},
        at=3,
        labels={"service": "worker"},
        description=_NOBODY,
    ),
    Fires(
        "a PodMonitor names the job after itself, and gives no service",
        "CeleryWorkerDown",
        {_POD: f"{flat(1, 5)} {flat(0, 10)}", _POD_SUBSCRIBED: f"{flat(1, 5)} stale"},
        at=7.5,
        not_before=6.75,
        description="No worker of any service answers, and nobody subscribes to its queues.",
    ),
    Quiet(
        "a pod without a service is replaced by one of another name within two minutes",
        "CeleryWorkerDown",
        {
            _POD: f"{flat(1, 5)} {flat(0, 1)} stale",
            _POD_SUBSCRIBED: f"{flat(1, 5)} stale",
            _POD.replace("pod-1", "pod-2"): f"{nothing(6.75)} {flat(1, 20)}",
            _POD_SUBSCRIBED.replace("pod-1", "pod-2"): f"{nothing(6.75)} {flat(1, 20)}",
        },
        until=26,
    ),
    Quiet(
        "replaced within less than two minutes; one of two is enough; another namespace is well",
        "CeleryWorkerDown",
        {
            _UP: f"{flat(1, 5)} {flat(0, 1.5)} stale",
            'up{job="celery-worker", service="worker", instance="w2"}': f"{nothing(6.75)} {flat(1, 20)}",
            _BULK: flat(1, 30),
            'up{job="celery-worker", service="worker-bulk", instance="b2"}': flat(0, 30),
            **_TARGETS,
        },
        until=26,
    ),
    Quiet(
        "scraped under a job of another name: its subscriptions show that it is there",
        "CeleryWorkerDown",
        {
            _SUBSCRIBED: flat(1, 30),
            'celery_worker_queue_subscription{queue_name="bulk", instance="b1"}': flat(1, 30),
            **_TARGETS,
        },
        until=29,
    ),
    Fires(
        "paused",
        "CeleryWorkerNotConsuming",
        {
            _worker("celery_worker_consuming"): f"{flat(1, 5)} {flat(0, 10)}",
            _worker("celery_worker_consuming", "w2"): flat(1, 15),
        },
        at=8.5,
        not_before=7.75,
        labels=_W1,
        description="w1 says itself that it takes no messages: it is paused, or cannot reach the "
        "broker.",
    ),
    Quiet(
        "the broker was away for less than three minutes, twice",
        "CeleryWorkerNotConsuming",
        {
            _worker(
                "celery_worker_consuming"
            ): f"{flat(1, 5)} {flat(0, 2.75)} {flat(1, 0.25)} {flat(0, 2.75)} {flat(1, 5)}",
        },
        until=15,
    ),
    Fires(
        "86 % of the limit",
        "CeleryWorkerMemoryHigh",
        {
            _worker("celery_worker_children_rss_bytes"): flat(860e6, 15),
            _worker("celery_worker_memory_limit_bytes"): flat(1e9, 15),
        },
        at=5.5,
        not_before=4.75,
        labels=_W1,
        description="The pool processes of w1 use 86% of its memory limit; at the limit the kernel "
        "kills one.",
    ),
    Quiet(
        "85 %, without a limit, or more for four minutes",
        "CeleryWorkerMemoryHigh",
        {
            _worker("celery_worker_children_rss_bytes"): flat(850e6, 15),
            _worker("celery_worker_memory_limit_bytes"): flat(1e9, 15),
            _worker("celery_worker_children_rss_bytes", "w2"): flat(9e9, 15),
            _worker("celery_worker_memory_limit_bytes", "w2"): flat(0, 15),
            _worker(
                "celery_worker_children_rss_bytes", "w3"
            ): f"{flat(3e8, 5)} {flat(9e8, 4)} {flat(3e8, 6)}",
            _worker("celery_worker_memory_limit_bytes", "w3"): flat(1e9, 15),
        },
        until=15,
    ),
    Fires(
        "three starts, with gaps between them",
        "CeleryWorkerRestarting",
        {
            _worker(
                "process_start_time_seconds"
            ): f"{flat(10, 20)} {nothing(1)} {flat(1250, 2)} {nothing(1)} {flat(1430, 2)} "
            f"{flat(1560, 20)}",
        },
        at=27,
        not_before=25.5,
        resolved_at=38,
        labels=_W1,
        description="Starts of w1 in 15 minutes: 3.",
    ),
    Fires(
        "three starts of a worker that a PodMonitor found",
        "CeleryWorkerRestarting",
        {
            'process_start_time_seconds{job="team/celery-worker", instance="pod-1"}': (
                f"{flat(10, 20)} {flat(1250, 2)} {flat(1430, 2)} {flat(1560, 20)}"
            ),
        },
        at=25,
        labels={"instance": "pod-1"},
        description="Starts of pod-1 in 15 minutes: 3.",
    ),
    Fires(
        "its counters fall back three times",
        "CeleryWorkerRestarting",
        {
            _worker(
                "celery_task_received_total", more=', queue_name="mail", name="a"'
            ): f"{rising(0, 20, 5)} {rising(0, 20, 2)} {rising(0, 20, 2)} {rising(0, 20, 4)}",
        },
        at=11,
        not_before=8.5,
        labels=_W1,
        description="Starts of w1 in 15 minutes: 3.",
    ),
    Quiet(
        "two deployments in 15 minutes; new workers under new names",
        "CeleryWorkerRestarting",
        {
            _worker(
                "process_start_time_seconds"
            ): f"{flat(10, 20)} {nothing(1)} {flat(1250, 5)} {flat(1600, 20)}",
            **{
                _worker(
                    "process_start_time_seconds", f"pod-{number}"
                ): f"{nothing(number * 2)} {flat(number * 120, 2)} stale"
                for number in range(2, 8)
            },
        },
        until=40,
    ),
]

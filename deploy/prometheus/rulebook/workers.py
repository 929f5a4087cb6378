"""Are the workers there, and well?"""

from __future__ import annotations

from config.topology import QUEUES, queues_of
from deploy.prometheus.rulebook.pace import HOUR, MINUTE, Pace
from deploy.prometheus.rulebook.rule import CRITICAL, WARNING, Alert, Group

_WORKER = "namespace, service, instance"
SERVICES = tuple(sorted({queue.worker for queue in QUEUES}))
#: A PodMonitor puts its own namespace before the name of the job.
_JOB = 'job=~"(.*/)?celery-worker"'


def group(pace: Pace) -> Group:
    """Return the alerts of the workers."""
    return Group(
        "celeriac.workers",
        (_down(pace), _not_consuming(pace), _memory_high(pace), _restarting(pace)),
        area="workers",
    )


def _down(pace: Pace) -> Alert:
    return Alert(
        "CeleryWorkerDown",
        CRITICAL,
        "No worker of a service is there",
        "\nor\n".join(
            (*(_service_down(service, pace) for service in SERVICES), _every_service_down(pace))
        ),
        summary="No worker of a service is there",
        description="No worker of {{ or $labels.service `any service` }} answers, and nobody "
        "subscribes to its queues.",
        dashboard="workers",
        # Time to replace the only worker of a service.
        hold=pace.hold(2 * MINUTE),
    )


def _service_down(service: str, pace: Pace) -> str:
    """Return 1 for each namespace that should have this service and has no worker of it.

    A target that vanishes (DNS, Kubernetes) leaves no ``up`` behind, so the exporter's table of
    queues says which services there should be; without an exporter, the last hour does.
    """
    names = "|".join(queue.name for queue in queues_of(service))
    up = f'up{{{_JOB}, service="{service}"}}'
    subscribed = f'celery_worker_queue_subscription{{queue_name=~"{names}"}}'
    return (
        f"label_replace(\n"
        f"  (\n"
        f'    group by (namespace) (celery_queue_slo_seconds{{queue_name=~"{names}"}})\n'
        f"    or group by (namespace) (last_over_time({up}[{pace.window(HOUR)}]))\n"
        f"  )\n"
        f"  unless on (namespace)\n"
        f"  (\n"
        f"    group by (namespace) ({subscribed} > 0)\n"
        f"    or group by (namespace) ({up} == 1)\n"
        f"  ),\n"
        f'  "service", "{service}", "", ""\n'
        f")"
    )


def _every_service_down(pace: Pace) -> str:
    """Return 1 for each namespace whose workers, scraped without a ``service``, are all away."""
    up = f'up{{{_JOB}, service=""}}'
    return (
        f"(\n"
        f"  group by (namespace) (last_over_time({up}[{pace.window(HOUR)}]))\n"
        f"  unless on (namespace)\n"
        f"  (\n"
        f"    group by (namespace) (celery_worker_queue_subscription > 0)\n"
        f"    or group by (namespace) (up{{{_JOB}}} == 1)\n"
        f"  )\n"
        f")"
    )


def _not_consuming(pace: Pace) -> Alert:
    return Alert(
        "CeleryWorkerNotConsuming",
        WARNING,
        "A worker is paused, or has no connection to the broker",
        f"max by ({_WORKER}) (celery_worker_consuming) == 0",
        summary="A worker takes no messages",
        description="{{ $labels.instance }} says itself that it takes no messages: it is paused, "
        "or cannot reach the broker.",
        dashboard="workers",
        # It reconnects within seconds of a broker that is back.
        hold=pace.hold(3 * MINUTE),
    )


def _memory_high(pace: Pace) -> Alert:
    return Alert(
        "CeleryWorkerMemoryHigh",
        WARNING,
        "Pool processes use more than 85 % of the worker's memory limit",
        # 85 %: the main process needs the rest. A worker without a limit (0) is left out.
        f"max by ({_WORKER}) (celery_worker_children_rss_bytes)\n"
        f"/ on ({_WORKER}) (max by ({_WORKER}) (celery_worker_memory_limit_bytes) > 0)\n> 0.85",
        summary="A worker is near its memory limit",
        description="The pool processes of {{ $labels.instance }} use "
        "{{ $value | humanizePercentage }} of its memory limit; at the limit the kernel kills one.",
        dashboard="workers",
        hold=pace.hold(5 * MINUTE),
    )


def _restarting(pace: Pace) -> Alert:
    window = pace.window(15 * MINUTE)
    return Alert(
        "CeleryWorkerRestarting",
        WARNING,
        "A worker started anew more than twice in 15 minutes",
        # A deployment is one start. Counters that fall back show it where the process does not say
        # when it started.
        f"max by ({_WORKER}) (\n"
        f"  changes(process_start_time_seconds{{{_JOB}}}[{window}])\n"
        f"  or resets(celery_task_received_total[{window}])\n) > 2",
        summary="A worker starts again and again",
        description="Starts of {{ $labels.instance }} in 15 minutes: {{ $value | printf `%.0f` }}.",
        dashboard="workers",
    )

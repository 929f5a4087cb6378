"""Workers: do I need more of them, and is one of them sick?"""

from typing import Final

from deploy.grafana.dashboards import colours
from deploy.grafana.dashboards.builder import (
    BYTES,
    COUNT,
    INSTANCE,
    PER_SECOND,
    QUEUE_NAME,
    RATIO,
    SECONDS,
    SELECTED,
    STATE_COLOURS,
    UP_OR_DOWN,
    Column,
    Dashboard,
    Link,
    Query,
    Row,
    Thresholds,
    Uid,
    Words,
    coloured,
    limit_line,
    stat,
    state_timeline,
    table,
    timeseries,
)

#: The workers that the reader chose.
_CHOSEN: Final = f'{SELECTED}, instance=~"$instance"'
_BY: Final = "service, instance"
_NAME: Final = "{{service}} {{instance}}"
_STATES: Final[Words] = {
    0: ("down", colours.BAD),
    1: ("up, takes nothing", colours.WARNING),
    2: ("at work", colours.GOOD),
}
_MEMORY: Final = Thresholds("CeleryWorkerMemoryHigh warns at 90 % of the limit", 0.8, 0.9)
_BUSY: Final = Thresholds("CeleryWorkersSaturated warns at 90 %", warning=0.9)


def _each(metric: str, selector: str = "") -> str:
    return f"max by ({_BY}) ({metric}{{{_CHOSEN}{selector}}})"


_ACTIVE: Final = _each("celery_worker_requests", ', state="active"')
_SLOTS: Final = _each("celery_worker_pool_slots")
_OF_WORKERS: Final = ', job="celery-worker"'
_RESIDENT: Final = (
    f"({_each('process_resident_memory_bytes', _OF_WORKERS)}"
    f" + {_each('celery_worker_children_rss_bytes')})"
)
_LIMIT: Final = f"({_each('celery_worker_memory_limit_bytes')} > 0)"
_STARTED: Final = f"sum by ({_BY}) (rate(celery_task_started_total{{{_CHOSEN}}}[5m]))"
_OLDEST_BY_TASK: Final = f"celery_worker_oldest_active_task_seconds{{{_CHOSEN}}}"
_OLDEST: Final = _each("celery_worker_oldest_active_task_seconds")
_AGE: Final = f"time() - {_each('process_start_time_seconds', _OF_WORKERS)}"


def _last_hour(metric: str) -> str:
    return f"round(sum by ({_BY}) (increase({metric}{{{_CHOSEN}}}[1h])))"


def _capacity() -> Row:
    late = (
        f"max(queue_name:celery_queue_oldest_message_age:target_ratio{{{SELECTED}}}) or vector(-1)"
    )
    busy = f"sum({_ACTIVE}) / sum({_SLOTS})"
    return Row(
        "Do I need more workers?",
        (
            stat(
                "Busy slots",
                "Running attempts of all slots of the chosen workers. Near 100 % and late: more"
                " workers help. Late with free slots: one of them is sick; see below.",
                Query(busy),
                unit=RATIO,
                thresholds=_BUSY,
                empty="no worker",
                width=4,
                height=7,
                decimals=0,
            ),
            stat(
                "Worst wait of its target",
                "Age of the oldest message as a share of what its queue promises. More workers are"
                " needed only if this is near 100 % and the slots are busy.",
                Query(late),
                unit=RATIO,
                thresholds=Thresholds("100 % is the target; 200 % pages", 1, 2),
                words={-1: ("unknown", colours.BAD)},
                width=4,
                height=7,
                decimals=0,
                links=(Link("Queues", Uid.QUEUES),),
            ),
            timeseries(
                "Slots and who is in them",
                "Attempts that run, messages that wait in the hands of workers for a slot, and"
                " those that wait there for their eta, stacked; the dashed line is all slots."
                " Running far below the line with a queue that is late: a sick worker.",
                *(
                    Query(f'sum(celery_worker_requests{{{_CHOSEN}, state="{state}"}})', legend)
                    for state, legend in (
                        ("active", "running"),
                        ("prefetched", "prefetched"),
                        ("scheduled", "scheduled"),
                    )
                ),
                Query(f"sum({_SLOTS})", "slots"),
                unit=COUNT,
                empty="No worker reports",
                width=8,
                height=7,
                stacked=True,
                legend_right=True,
                overrides=(*STATE_COLOURS, limit_line("^slots$")),
            ),
            timeseries(
                "Busy slots by worker",
                "Running attempts of each worker's slots. All at 100 %: add workers. One at 0 %"
                " beside full ones: it takes nothing.",
                Query(f"{_ACTIVE} / {_SLOTS}", _NAME),
                unit=RATIO,
                thresholds=_BUSY,
                empty="No worker reports",
                width=8,
                height=7,
                maximum=1,
                legend_right=True,
            ),
        ),
    )


def _health() -> Row:
    up = f'max by ({_BY}) (up{{{_CHOSEN}, job="celery-worker"}})'
    return Row(
        "Is one of them sick?",
        (
            state_timeline(
                "Workers",
                "Green: takes messages. Orange: answers and takes none, because it is paused, is"
                " stopping, or has no broker. Red: does not answer Prometheus. A worker that is"
                " green and starts nothing shows in the table below.",
                Query(f"({up} + on ({_BY}) {_each('celery_worker_consuming')}) or {up}", _NAME),
                words=_STATES,
                empty="No worker was ever seen",
                width=12,
                height=7,
            ),
            state_timeline(
                "The other processes",
                "Whether each answers Prometheus.",
                Query(
                    f'max by (job, instance) (up{{{SELECTED}, job!="celery-worker"}})',
                    "{{job}}",
                ),
                words=UP_OR_DOWN,
                empty="No target was ever seen",
                width=12,
                height=7,
                links=(Link("Overview", Uid.OVERVIEW),),
            ),
            table(
                "Workers now",
                "A worker with free slots that starts nothing while its queues wait is alive and"
                " does nothing. Lost: pool processes that died in the last hour.",
                {"service": "Service", "instance": "Worker"},
                (
                    Column(
                        title="State",
                        expr=f"({up} + on ({_BY}) {_each('celery_worker_consuming')}) or {up}",
                        unit=COUNT,
                        words=_STATES,
                        filled=True,
                        width=140,
                    ),
                    Column(title="Running", expr=_ACTIVE, unit=COUNT),
                    Column(title="Slots", expr=_SLOTS, unit=COUNT),
                    Column(
                        title="Prefetched",
                        expr=_each("celery_worker_requests", ', state="prefetched"'),
                        unit=COUNT,
                    ),
                    Column(title="Started", expr=_STARTED, unit=PER_SECOND, decimals=2),
                    Column(title="Oldest run", expr=_OLDEST, unit=SECONDS, decimals=1),
                    Column(title="Memory", expr=_RESIDENT, unit=BYTES),
                    Column(
                        title="Of limit",
                        expr=f"{_RESIDENT} / {_LIMIT}",
                        unit=RATIO,
                        thresholds=_MEMORY,
                        decimals=0,
                    ),
                    Column(
                        title="Lost",
                        expr=_last_hour("celery_task_worker_lost_total"),
                        unit=COUNT,
                        thresholds=Thresholds("none should be", bad=1, normal="text"),
                        decimals=0,
                    ),
                    Column(title="Runs for", expr=_AGE, unit=SECONDS, decimals=1),
                ),
                label_widths={"Service": 130, "Worker": 200},
                sort_by="State",
                descending=False,
                empty="No worker answers",
                height=7,
            ),
        ),
    )


def _work() -> Row:
    return Row(
        "Who does nothing, and who is stuck?",
        (
            timeseries(
                "Attempts started by worker",
                "A flat line at zero among busy ones: a worker that is alive and takes nothing.",
                Query(
                    f"sum by ({_BY})"
                    f" (rate(celery_task_started_total{{{_CHOSEN}}}[$__rate_interval]))",
                    _NAME,
                ),
                unit=PER_SECOND,
                empty="No worker reports",
                width=12,
                height=8,
                legend_right=True,
            ),
            timeseries(
                "Oldest running attempt by worker",
                "A line that climbs for minutes is one attempt that does not end. At the time limit"
                " of its queue its process is killed; from 80 % of the visibility timeout (dashed)"
                " the broker is about to hand its message to another worker, and CeleryTaskStuck"
                " warns.",
                Query(f"max by ({_BY}, name) ({_OLDEST_BY_TASK})", f"{_NAME} {{{{name}}}}"),
                Query(
                    f"0.8 * max(celery_broker_visibility_timeout_seconds{{{SELECTED}}})",
                    "about to be repeated",
                ),
                unit=SECONDS,
                empty="Nothing ran in this time",
                width=12,
                height=8,
                legend_right=True,
                overrides=(limit_line("^about to be repeated$"),),
                links=(Link("Tasks", Uid.TASKS),),
            ),
        ),
    )


def _resources() -> Row:
    return Row(
        "Do they run out of memory, or die?",
        (
            timeseries(
                "Memory by worker",
                "Resident memory of the main process and its pool processes; shared pages count in"
                " each. Dashed: the limit of the container, where there is one. At the limit the"
                " kernel kills pool processes, and attempts are lost.",
                Query(_RESIDENT, _NAME),
                Query(_LIMIT, f"{_NAME} limit"),
                unit=BYTES,
                empty="No worker reports",
                width=12,
                height=8,
                legend_right=True,
                overrides=(limit_line(" limit$"),),
            ),
            timeseries(
                "Lost processes and restarts",
                "In five minutes: pool processes that died under an attempt, and workers that"
                " started anew. Restarts without a deployment (purple marks) are crashes, or an"
                " orchestrator that lost its patience.",
                Query(
                    f"sum by (service) (increase(celery_task_worker_lost_total{{{_CHOSEN}}}[5m]))",
                    "process lost, {{service}}",
                ),
                Query(
                    "sum by (service)"
                    f" (changes(process_start_time_seconds{{{_CHOSEN}{_OF_WORKERS}}}[5m]))",
                    "restarted, {{service}}",
                ),
                unit=COUNT,
                empty="No worker reports",
                width=12,
                height=8,
                bars=True,
                legend_right=True,
                overrides=(*STATE_COLOURS, coloured("^restarted", colours.OLIVE)),
            ),
            timeseries(
                "What processes say of themselves",
                "Rows that running processes keep in the database, by what they do. Fewer here than"
                " above: a process cannot reach the database. More: one that Prometheus does not"
                " know.",
                Query(
                    f"max by (service, state) (celery_processes{{{SELECTED}}})",
                    "{{service}} {{state}}",
                ),
                unit=COUNT,
                empty="No process reports itself",
                width=12,
                height=8,
                legend_right=True,
            ),
            timeseries(
                "CPU of main processes",
                "Processor time of each worker's main process, which only hands out work. Near one"
                " core it is the bottleneck: start another worker, not more slots.",
                Query(
                    f"sum by ({_BY}) (rate(process_cpu_seconds_total{{{_CHOSEN}{_OF_WORKERS}}}"
                    "[$__rate_interval]))",
                    _NAME,
                ),
                unit=RATIO,
                thresholds=Thresholds("one core is all that it can use", warning=0.8),
                empty="No worker reports",
                width=12,
                height=8,
                legend_right=True,
            ),
        ),
    )


def dashboard() -> Dashboard:
    """Return the dashboard of workers."""
    return Dashboard(
        uid=Uid.WORKERS,
        title="Workers",
        description="Do I need more workers, and is one of them sick?",
        variables=(QUEUE_NAME, INSTANCE),
        rows=(_capacity(), _health(), _work(), _resources()),
    )

"""Queues: which queue is late, and is it capacity or a stop?"""

from typing import Final

from deploy.grafana.dashboards import colours
from deploy.grafana.dashboards.builder import (
    CELL,
    CLICKED_QUEUE,
    COUNT,
    PER_SECOND,
    QUANTILE_COLOURS,
    QUEUE_COLOURS,
    QUEUE_NAME,
    RATIO,
    SECONDS,
    Column,
    Dashboard,
    Link,
    Query,
    Row,
    Thresholds,
    Uid,
    Words,
    heatmap,
    limit_line,
    state_timeline,
    table,
    timeseries,
)
from deploy.grafana.dashboards.expressions import (
    ARRIVING,
    COMPLETED,
    DRAIN,
    LENGTH,
    OF_QUEUES,
    OLDEST,
    STARTED,
    TARGET,
)
from deploy.prometheus.rulebook.burning import FAST

_PROMISE: Final = Thresholds(
    "100 % is the queue's target; CeleryQueueOldestMessageTooOld pages at 200 %", 1, 2
)
_BUSY: Final = Thresholds("CeleryWorkersSaturated warns at 90 %", warning=0.9)
_DRAINING: Final[Words] = {-1: ("does not fall", colours.UNKNOWN), 0: ("empty", colours.GOOD)}
#: 1: empty; 2: waits and is taken from; 3: waits and nothing is taken; 4: nobody subscribes.
_SERVICE: Final[Words] = {
    1: ("empty", colours.UNKNOWN),
    2: ("served", colours.GOOD),
    3: ("waits, nothing starts", colours.BAD),
    4: ("waits, nobody subscribes", colours.BAD),
}
_SUBSCRIBERS: Final = (
    f"sum by (queue_name) (queue_name:celery_worker_subscribers:count{{{OF_QUEUES}}})"
)
_BUSY_SLOTS: Final = f"max by (queue_name) (queue_name:celery_worker_busy:ratio{{{OF_QUEUES}}})"
_CANARY: Final = f"max by (queue_name) (queue_name:celery_canary_age_seconds:max{{{OF_QUEUES}}})"
_WAIT_BUCKETS: Final = f"celery_task_queue_wait_time_bucket{{{OF_QUEUES}}}"


def _verdict() -> Row:
    started = f"sum by (queue_name) (rate(celery_task_started_total{{{OF_QUEUES}}}[1m]))"
    service = (
        f"({LENGTH} == 0) * 0 + 1"
        f" or ({LENGTH} unless {_SUBSCRIBERS}) * 0 + 4"
        f" or ({LENGTH} and ({started} > 0)) * 0 + 2"
        f" or {LENGTH} * 0 + 3"
    )
    return Row(
        "Which queue is late, and is it capacity or a stop?",
        (
            table(
                "Queues now",
                "Late with busy slots near 100 %: too few workers. Late with free slots and"
                " nothing going out: a stop; look at Workers. No subscriber: nobody will ever take"
                " these. Canary: time since one came through this queue; one is sent every minute.",
                {"queue_name": "Queue"},
                (
                    Column(
                        title="Of target",
                        expr=f"{OLDEST} / {TARGET}",
                        unit=RATIO,
                        thresholds=_PROMISE,
                        filled=True,
                        decimals=0,
                    ),
                    Column(title="Oldest", expr=OLDEST, unit=SECONDS, decimals=1),
                    Column(title="Target", expr=TARGET, unit=SECONDS),
                    Column(title="Waiting", expr=LENGTH, unit=COUNT, decimals=0),
                    Column(title="In", expr=ARRIVING, unit=PER_SECOND, decimals=2),
                    Column(title="Started", expr=STARTED, unit=PER_SECOND, decimals=2),
                    Column(title="Out", expr=COMPLETED, unit=PER_SECOND, decimals=2),
                    Column(
                        title="Time to drain", expr=DRAIN, unit=SECONDS, words=_DRAINING, width=140
                    ),
                    Column(
                        title="Busy slots",
                        expr=_BUSY_SLOTS,
                        unit=RATIO,
                        thresholds=_BUSY,
                        decimals=0,
                    ),
                    Column(
                        title="Subscribers",
                        expr=_SUBSCRIBERS,
                        unit=COUNT,
                        thresholds=Thresholds("nobody takes messages", bad=1, falling=True),
                    ),
                    Column(
                        title="Canary",
                        expr=_CANARY,
                        unit=SECONDS,
                        thresholds=Thresholds("CeleryCanaryMissing pages", 130, 300),
                        decimals=0,
                    ),
                ),
                label_widths={"Queue": 160},
                sort_by="Of target",
                empty="The exporter reports no queue",
                height=7,
                links={
                    "Queue": (
                        Link("Its tasks", Uid.TASKS, {"queue_name": CELL.format("Queue")}),
                        Link("Its workers", Uid.WORKERS, {"queue_name": CELL.format("Queue")}),
                    )
                },
            ),
            state_timeline(
                "Service",
                "What each queue was like. Red while messages wait and nothing starts, or nobody"
                " subscribes: a stop. Green and late at the same time: too little capacity.",
                Query(service, "{{queue_name}}"),
                words=_SERVICE,
                width=24,
                height=6,
                empty="The exporter reports no queue",
                links=(Link("Its workers", Uid.WORKERS, {"queue_name": CLICKED_QUEUE}),),
            ),
        ),
    )


def _waits() -> Row:
    return Row(
        "How long does work wait?",
        (
            timeseries(
                "Oldest waiting work",
                "Age of the oldest waiting work, with the target of each queue as a dashed line of"
                " its colour. What has waited longest starts next: a line above its target is a"
                " broken promise.",
                Query(OLDEST, "{{queue_name}}"),
                Query(TARGET, "{{queue_name}} target"),
                unit=SECONDS,
                logarithmic=True,
                empty="The exporter reports no queue",
                width=12,
                height=9,
                legend_right=True,
                overrides=(*QUEUE_COLOURS, limit_line(" target$", None)),
                links=(Link("Its tasks", Uid.TASKS, {"queue_name": CLICKED_QUEUE}),),
            ),
            timeseries(
                "Wait until start",
                "Of the attempts that began in the last five minutes, how long 95 % of them had"
                " waited at most, from publication or from their eta. Silent while nothing starts;"
                " then the age on the left tells.",
                Query(
                    "max by (queue_name)"
                    f" (queue_name:celery_task_queue_wait_time:p95_5m{{{OF_QUEUES}}})",
                    "{{queue_name}} p95",
                ),
                unit=SECONDS,
                empty="Nothing started in this time",
                width=12,
                height=9,
                legend_right=True,
                logarithmic=True,
                overrides=QUEUE_COLOURS,
                links=(Link("Its tasks", Uid.TASKS, {"queue_name": CLICKED_QUEUE}),),
            ),
            timeseries(
                "Wait until start, chosen queues together",
                "Half of the attempts, all but one in twenty, all but one in a hundred. p99 far"
                " above p50: bursts, or one queue among them that is late.",
                *(
                    Query(
                        f"histogram_quantile({quantile}, sum by (le)"
                        f" (rate({_WAIT_BUCKETS}[$__rate_interval])))",
                        f"p{round(quantile * 100)}",
                    )
                    for quantile in (0.5, 0.95, 0.99)
                ),
                unit=SECONDS,
                empty="Nothing started in this time",
                width=12,
                height=8,
                legend_right=True,
                overrides=QUANTILE_COLOURS,
            ),
            heatmap(
                "Spread of waits",
                "How many attempts began after how long a wait: the darker, the more. Two bands are"
                " two kinds of work, or queues; choose one above.",
                Query(f"sum by (le) (increase({_WAIT_BUCKETS}[$__rate_interval]))"),
                unit=SECONDS,
                empty="Nothing started in this time",
                width=12,
                height=8,
            ),
        ),
    )


def _backlog() -> Row:
    return Row(
        "Does more come in than goes out?",
        (
            timeseries(
                "In and out",
                "Dashed: what arrives (what was started, plus what the queue grew by). Solid:"
                " attempts that ended. Dashed above solid: the queue grows.",
                Query(ARRIVING, "{{queue_name}} in"),
                Query(COMPLETED, "{{queue_name}} out"),
                unit=PER_SECOND,
                empty="No worker reports",
                width=8,
                height=8,
                legend_right=True,
                overrides=(*QUEUE_COLOURS, limit_line(" in$", None)),
                links=(Link("Its tasks", Uid.TASKS, {"queue_name": CLICKED_QUEUE}),),
            ),
            timeseries(
                "Waiting messages",
                "Length of each queue, all priorities, stacked. A long queue is no fault in"
                " itself; a long wait is.",
                Query(LENGTH, "{{queue_name}}"),
                unit=COUNT,
                empty="The exporter reports no queue",
                width=8,
                height=8,
                legend_right=True,
                stacked=True,
                overrides=QUEUE_COLOURS,
            ),
            timeseries(
                "Waiting messages by priority",
                "Messages of the chosen queues by the broker's priority step; 0 goes first. Steps"
                " that never shrink are starved by those before them.",
                Query(
                    "sum by (priority) (max by (queue_name, priority)"
                    f" (celery_queue_length_by_priority{{{OF_QUEUES}}}))",
                    "priority {{priority}}",
                ),
                unit=COUNT,
                empty="No queue uses priorities",
                width=8,
                height=8,
                legend_right=True,
                stacked=True,
            ),
        ),
    )


def _capacity() -> Row:
    def burn(window: str) -> str:
        return (
            "max by (queue_name)"
            f" (queue_name:celery_task_queueing:burnrate{window}{{{OF_QUEUES}}}) / 0.01"
        )

    return Row(
        "Is it capacity, and how fast does the budget burn?",
        (
            timeseries(
                "Busy slots",
                "Running attempts of the slots of all workers that serve the queue. At 100 % more"
                " workers help; below, they do not.",
                Query(_BUSY_SLOTS, "{{queue_name}}"),
                unit=RATIO,
                thresholds=_BUSY,
                empty="No worker reports",
                width=8,
                height=8,
                legend_right=True,
                maximum=1,
                overrides=QUEUE_COLOURS,
                links=(Link("Its workers", Uid.WORKERS, {"queue_name": CLICKED_QUEUE}),),
            ),
            timeseries(
                "Fast burn of the waiting budget",
                "Share of attempts that began late, as a multiple of the 1 % that the promise"
                " allows, over an hour (dashed: five minutes). At 14.4 the budget of 30 days is"
                " gone in two days; CeleryQueueingErrorBudgetBurnFast pages when both are above.",
                Query(burn("1h"), "{{queue_name}} 1h"),
                Query(burn("5m"), "{{queue_name}} 5m"),
                unit="suffix:x",
                thresholds=Thresholds("pages if 1h and 5m are above", bad=FAST),
                empty="Nothing started in this time",
                width=8,
                height=8,
                legend_right=True,
                overrides=(*QUEUE_COLOURS, limit_line(" 5m$", None)),
            ),
            timeseries(
                "Slow burn of the waiting budget",
                "The same over six hours (dashed: thirty minutes). At 6 the budget of 30 days is"
                " gone in five days; CeleryQueueingErrorBudgetBurnSlow asks for a look.",
                Query(burn("6h"), "{{queue_name}} 6h"),
                Query(burn("30m"), "{{queue_name}} 30m"),
                unit="suffix:x",
                thresholds=Thresholds("warns if 6h and 30m are above", warning=6),
                empty="Nothing started in this time",
                width=8,
                height=8,
                legend_right=True,
                overrides=(*QUEUE_COLOURS, limit_line(" 30m$", None)),
            ),
        ),
    )


def dashboard() -> Dashboard:
    """Return the dashboard of queues."""
    return Dashboard(
        uid=Uid.QUEUES,
        title="Queues",
        description="Which queue is late, and is it capacity or a stop?",
        variables=(QUEUE_NAME,),
        rows=(_verdict(), _waits(), _backlog(), _capacity()),
    )

"""Tasks: which task fails, is repeated, or got slower?"""

from typing import Final

from deploy.grafana.dashboards import colours
from deploy.grafana.dashboards.builder import (
    CELL,
    CLICKED_TASK,
    COUNT,
    PER_SECOND,
    QUEUE_NAME,
    RATIO,
    SECONDS,
    SELECTED,
    STATE_COLOURS,
    TASK_NAME,
    Choice,
    Column,
    Dashboard,
    Link,
    Panel,
    Query,
    Row,
    Thresholds,
    Uid,
    coloured,
    heatmap,
    limit_line,
    table,
    timeseries,
)
from deploy.prometheus.rulebook.burning import FAST, SLOW
from deploy.prometheus.rulebook.pace import HOUR, Pace
from deploy.prometheus.rulebook.promql import grown

#: The task names and queues that the reader chose.
_CHOSEN: Final = f'{SELECTED}, queue_name=~"$queue_name", name=~"$name"'
_BEFORE: Final = Choice("before", "Compare with", ("1d", "10m", "1h", "1w"))
#: So many lines can be told apart; the table at the top has all.
_LINES: Final = 8

_FAILING: Final = Thresholds("CeleryTaskFailing warns at 5 % of three failures or more", 0.01, 0.05)
_RETRYING: Final = Thresholds("every fourth attempt is in vain", warning=0.25)
_ONE_TASK: Final = (Link("Only this task", Uid.TASKS, {"name": CLICKED_TASK}),)


def _rule(name: str) -> str:
    return f"max by (name) ({name}{{{_CHOSEN}}})"


def _last_hour(metric: str) -> str:
    # Extrapolation makes a little more or less of an event near the window's edge.
    return f"round(sum by (name) (increase({metric}{{{_CHOSEN}}}[1h])))"


#: The series of an exception appears with its first event, and ``increase`` needs two samples.
_FAILED_LAST_HOUR: Final = (
    f"round(sum by (name) ({grown(f'celery_task_failed_total{{{_CHOSEN}}}', HOUR, Pace())}))"
)


def _top(expr: str, labels: str = "name") -> str:
    """Return the lines that are highest on average over the whole time range.

    A bare ``topk`` chooses anew at every step, and so draws many more lines than it says.
    """
    return (
        f"({expr}) and on ({labels}) topk({_LINES}, avg_over_time(({expr})[$__range:1m] @ end()))"
    )


def _verdict() -> Row:
    # What did not run has no quantile; a comparison leaves it out.
    p95 = f"{_rule('name:celery_task_runtime:p95_5m')} >= 0"
    bad = Thresholds("none should be", bad=1, normal="text")
    odd = Thresholds("worth a look", warning=1, normal="text")
    return Row(
        "Which task fails, is repeated, or got slower?",
        (
            table(
                "Tasks now",
                "Every chosen task; click a name for that task alone. Failed, out of time, process"
                " lost, delivered again: in the last hour. Shares: of the last ten minutes."
                " 'Before' is the time chosen at the top. Dead: letters that wait for a decision.",
                {"name": "Task"},
                (
                    Column(
                        title="Started",
                        expr=f"sum by (name) (rate(celery_task_started_total{{{_CHOSEN}}}[5m]))",
                        unit=PER_SECOND,
                        decimals=2,
                    ),
                    Column(
                        title="Failed",
                        expr=_FAILED_LAST_HOUR,
                        unit=COUNT,
                        thresholds=bad,
                        decimals=0,
                    ),
                    Column(
                        title="Fail share",
                        expr=_rule("name:celery_task_failed:ratio_rate10m"),
                        unit=RATIO,
                        thresholds=_FAILING,
                        decimals=1,
                    ),
                    Column(
                        title="Retry share",
                        expr=_rule("name:celery_task_retried:ratio_rate10m"),
                        unit=RATIO,
                        thresholds=_RETRYING,
                        decimals=1,
                    ),
                    Column(title="p95", expr=p95, unit=SECONDS),
                    Column(
                        title="p95 before",
                        expr="max by (name)"
                        f" (name:celery_task_runtime:p95_5m{{{_CHOSEN}}} offset $before) >= 0",
                        unit=SECONDS,
                    ),
                    Column(
                        title="Out of time",
                        expr=_last_hour("celery_task_timeouts_total"),
                        unit=COUNT,
                        thresholds=bad,
                        decimals=0,
                    ),
                    Column(
                        title="Process lost",
                        expr=_last_hour("celery_task_worker_lost_total"),
                        unit=COUNT,
                        thresholds=bad,
                        decimals=0,
                    ),
                    Column(
                        title="Again",
                        expr=_last_hour("celery_task_redelivered_total"),
                        unit=COUNT,
                        thresholds=odd,
                        decimals=0,
                    ),
                    Column(
                        title="Dead",
                        expr=f'max by (name) (celery_dead_letters{{{SELECTED}, name=~"$name"}})',
                        unit=COUNT,
                        thresholds=odd,
                        decimals=0,
                    ),
                ),
                label_widths={"Task": 320},
                sort_by="Fail share",
                empty="No worker reports a task",
                height=13,
                links={"Task": (Link("Only this task", Uid.TASKS, {"name": CELL.format("Task")}),)},
            ),
        ),
    )


def _ends() -> Row:
    def rate(metric: str) -> str:
        return f"sum(rate({metric}{{{_CHOSEN}}}[$__rate_interval]))"

    return Row(
        "How do attempts end?",
        (
            timeseries(
                "Ends of attempts",
                "All chosen tasks, stacked. Retried is tried again; failed is over, and a dead"
                " letter if the task is durable. Ignored are harmless duplicates.",
                *(
                    Query(rate(f"celery_task_{name}_total"), legend)
                    for name, legend in (
                        ("succeeded", "succeeded"),
                        ("retried", "retried"),
                        ("failed", "failed"),
                        ("rejected", "rejected"),
                        ("revoked", "revoked"),
                        ("ignored", "ignored"),
                    )
                ),
                unit=PER_SECOND,
                empty="No worker reports",
                width=12,
                height=9,
                stacked=True,
                legend_right=True,
                overrides=STATE_COLOURS,
            ),
            timeseries(
                "Fail share",
                "Share of the attempts of each task that failed for good, over ten minutes: the"
                f" {_LINES} worst.",
                Query(_top(f"{_rule('name:celery_task_failed:ratio_rate10m')} > 0"), "{{name}}"),
                unit=RATIO,
                thresholds=_FAILING,
                empty="No task failed in this time",
                width=12,
                height=9,
                legend_right=True,
                links=_ONE_TASK,
            ),
            timeseries(
                "Failures by exception",
                f"What they failed of, per second: the {_LINES} most frequent.",
                Query(
                    _top(
                        "sum by (name, exception)"
                        f" (rate(celery_task_failed_total{{{_CHOSEN}}}[5m])) > 0",
                        "name, exception",
                    ),
                    "{{exception}} in {{name}}",
                ),
                unit=PER_SECOND,
                empty="No task failed in this time",
                width=24,
                height=8,
                legend_right=True,
                links=_ONE_TASK,
            ),
        ),
    )


def _repeats() -> Row:
    return Row(
        "What is repeated, killed or given up?",
        (
            timeseries(
                "Retry share",
                "Attempts that will be made again, of those that began, over ten minutes. Many"
                " retries of one task: what it talks to refuses.",
                Query(_top(f"{_rule('name:celery_task_retried:ratio_rate10m')} > 0"), "{{name}}"),
                unit=RATIO,
                thresholds=_RETRYING,
                empty="Nothing was retried in this time",
                width=12,
                height=9,
                legend_right=True,
                links=_ONE_TASK,
            ),
            timeseries(
                "Time-outs, lost processes, repeated deliveries",
                "How many there were in five minutes. Lost processes: out of memory, kill -9, a"
                " crash in C code. Deliveries come again when a worker died with its messages.",
                *(
                    Query(f"sum by ({label}) (increase({metric}{{{_CHOSEN}}}[5m])) > 0", legend)
                    for metric, label, legend in (
                        ("celery_task_timeouts_total", "kind", "timed out, {{kind}} limit"),
                        ("celery_task_worker_lost_total", "namespace", "process lost"),
                        ("celery_task_redelivered_total", "namespace", "redelivered"),
                    )
                ),
                unit=COUNT,
                empty="None in this time",
                width=12,
                height=9,
                legend_right=True,
                bars=True,
                overrides=STATE_COLOURS,
                links=(Link("Workers", Uid.WORKERS),),
            ),
            timeseries(
                "Dead letters",
                "Durable tasks that failed for good and wait to be replayed or discarded (Admin,"
                f" Deliveries, state dead): the {_LINES} tasks with the most.",
                Query(
                    _top(f'max by (name) (celery_dead_letters{{{SELECTED}, name=~"$name"}}) > 0'),
                    "{{name}}",
                ),
                unit=COUNT,
                empty="No dead letters",
                width=24,
                height=7,
                legend_right=True,
                stacked=True,
                links=_ONE_TASK,
            ),
        ),
    )


def _speed() -> Row:
    buckets = f"celery_task_runtime_bucket{{{_CHOSEN}}}"
    p95 = f"name:celery_task_runtime:p95_5m{{{_CHOSEN}}}"
    ran = f"max by (name) ({p95}) >= 0"

    def compared() -> Panel:
        return timeseries(
            "Runtime, now and before",
            "p95 of the slowest tasks; dashed: at the time chosen as 'Compare with'. A solid line"
            " above its dashed one got slower: the deployment marks and the database are next.",
            Query(_top(ran), "{{name}}"),
            Query(
                f"(max by (name) ({p95} offset $before) >= 0) and on (name)"
                f" topk({_LINES}, avg_over_time(({ran})[$__range:1m] @ end()))",
                "{{name}} before",
            ),
            unit=SECONDS,
            empty="Nothing ran in this time",
            width=12,
            height=10,
            legend_right=True,
            logarithmic=True,
            overrides=(limit_line(" before$", None),),
            links=_ONE_TASK,
        )

    return Row(
        "What got slower, and what uses the workers?",
        (
            compared(),
            heatmap(
                "Spread of runtimes",
                "How many attempts ran how long: the darker, the more. A second band that appears"
                " is a path that became slow; a band at the top met a time limit.",
                Query(f"sum by (le) (increase({buckets}[$__rate_interval]))"),
                unit=SECONDS,
                empty="Nothing ran in this time",
                width=12,
                height=10,
            ),
            timeseries(
                "Share of all slots",
                "What part of the workers' slots each task keeps busy, over five minutes: where"
                " capacity goes. The dashed line is all of it.",
                Query(
                    _top(
                        f"sum by (name) (rate(celery_task_runtime_sum{{{_CHOSEN}}}[5m]))"
                        f" / on () group_left () sum(celery_worker_pool_slots{{{SELECTED}}})"
                    ),
                    "{{name}}",
                ),
                unit=RATIO,
                empty="Nothing ran in this time",
                width=12,
                height=9,
                stacked=True,
                legend_right=True,
                links=_ONE_TASK,
            ),
            timeseries(
                "Burn of the tasks' budget",
                "Share of tasks that did not end well in an hour, as a multiple of the 1 % that the"
                " promise allows: the worst. At 14.4 the budget of 30 days is gone in two days;"
                " CeleryExecutionErrorBudgetBurnFast pages.",
                Query(
                    _top(
                        "max by (name)"
                        f" (name:celery_task_execution:burnrate1h{{{_CHOSEN}}}) / 0.01 > 0"
                    ),
                    "{{name}}",
                ),
                unit="suffix:x",
                thresholds=Thresholds("6 asks for a look, 14.4 pages", warning=SLOW, bad=FAST),
                empty="Every task of the last hour ended well",
                width=12,
                height=9,
                legend_right=True,
                links=_ONE_TASK,
            ),
        ),
    )


def _accounts() -> Row:
    return Row(
        "Where do attempts come from?",
        (
            timeseries(
                "Messages received by task",
                f"Messages that workers took, repeated deliveries included: the {_LINES} most"
                " frequent tasks.",
                Query(
                    _top(f"sum by (name) (rate(celery_task_received_total{{{_CHOSEN}}}[5m]))"),
                    "{{name}}",
                ),
                unit=PER_SECOND,
                empty="No worker reports",
                width=12,
                height=9,
                legend_right=True,
                links=_ONE_TASK,
            ),
            timeseries(
                "Messages sent by role",
                "What web, beat and relay publish. What the relay sends are retries, etas, and"
                " what was lost on its way: much of it without retries means a broker that loses."
                " Tasks that workers publish are not in it.",
                Query(
                    f"sum by (job) (rate(celery_task_sent_total{{{_CHOSEN}}}[$__rate_interval]))",
                    "{{job}}",
                ),
                unit=PER_SECOND,
                empty="No role reports",
                width=12,
                height=9,
                legend_right=True,
                overrides=(
                    coloured("^web", colours.BLUE),
                    coloured("relay", colours.OLIVE),
                    coloured("beat", colours.PURPLE),
                ),
                links=(Link("Broker", Uid.BROKER),),
            ),
        ),
        collapsed=True,
    )


def dashboard() -> Dashboard:
    """Return the dashboard of tasks."""
    return Dashboard(
        uid=Uid.TASKS,
        title="Tasks",
        description="Which task fails, is repeated, or got slower?",
        variables=(QUEUE_NAME, TASK_NAME, _BEFORE),
        rows=(_verdict(), _ends(), _repeats(), _speed(), _accounts()),
    )

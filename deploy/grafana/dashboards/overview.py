"""Overview: is work flowing, and within promise? One screen of 1920 by 1080, without scrolling.

From top to bottom: the promise and what endangers it, the parts that must be there, the flow.
"""

from typing import Final

from config.topology import QUEUES
from deploy.grafana.dashboards import colours
from deploy.grafana.dashboards.absence import absent, or_absent
from deploy.grafana.dashboards.builder import (
    CELL,
    CLICKED_QUEUE,
    COUNT,
    PER_SECOND,
    QUEUE_COLOURS,
    RATIO,
    SECONDS,
    SELECTED,
    STATE_COLOURS,
    WORDS,
    Column,
    Dashboard,
    Link,
    LinkByLabel,
    Panel,
    Query,
    Row,
    RunbookLink,
    Thresholds,
    Uid,
    Words,
    bar_gauge,
    coloured,
    limit_line,
    stat,
    table,
    timeseries,
)
from deploy.grafana.dashboards.expressions import (
    ARRIVING,
    BROKER_MEMORY,
    COMPLETED,
    DRAIN,
    LENGTH,
    OLDEST,
    TARGET,
    budget_left,
    every_queue,
)
from deploy.grafana.dashboards.trouble import DASHBOARD_LABEL, END, NOTHING_ELSE, SERIOUS, TROUBLE
from deploy.prometheus.rulebook.burning import ERROR_BUDGET
from deploy.prometheus.scrape_configuration import JOBS

_WORST_WAIT: Final = every_queue(f"topk(1, {OLDEST} / {TARGET}) or on () vector(-1)")
_PROMISE: Final = Thresholds(
    "100 % is the queue's target; CeleryQueueOldestMessageTooOld pages at 200 %", 1, 2
)
_BUDGET: Final = Thresholds(
    "at 0 % the promise of 30 days is broken", warning=0.25, bad=0.001, falling=True
)
_RESPONSES: Final = "django_http_responses_total_by_status_view_method_total"
_LATENCY: Final = "django_http_requests_latency_seconds_by_view_method_bucket"

_NOT_THERE: Final[Words] = {-1: ("gone", colours.BAD)}
_ANSWERS: Final[Words] = {
    -1: ("unknown", colours.BAD),
    0: ("down", colours.BAD),
    1: ("up", colours.GOOD),
    2: ("half seen", colours.WARNING),
}
_LEADERS: Final[Words] = {0: ("nobody leads", colours.BAD), 1: ("1 leads", colours.GOOD)}
_DRAINING: Final[Words] = {-1: ("does not fall", colours.UNKNOWN), 0: ("empty", colours.GOOD)}

#: Seconds, three years: longer than any canary was away.
_NEVER: Final = 100_000_000


def _alerts(selector: str = "") -> str:
    of_us = f'alertname!="Watchdog", namespace=~"$namespace|"{selector}'
    return f"ALERTS{{{of_us}}}"


def _promise() -> Row:
    started = {part: f"celery_sli_queueing{part}_total{{{SELECTED}}}" for part in ("", "_good")}
    ended = {part: f"celery_sli_execution{part}_total{{{SELECTED}}}" for part in ("", "_good")}
    answered = f"{_RESPONSES}{{{SELECTED}}}"
    answered_well = f'{_RESPONSES}{{{SELECTED}, status!~"5.."}}'
    return Row(
        "Is the promise kept?",
        (
            stat(
                "Worst wait of its target",
                "Age of the oldest waiting work, as a share of what its queue promises: the queue"
                " for which it is worst. Messages in the broker, and rows of the ledger that wait"
                " while the broker is down. Next: the table of queues below.",
                Query(_WORST_WAIT, "{{queue_name}}"),
                unit=RATIO,
                thresholds=_PROMISE,
                words={-1: ("unknown", colours.BAD)},
                width=4,
                height=7,
                decimals=0,
                names=True,
                links=(Link("Queues", Uid.QUEUES),),
            ),
            bar_gauge(
                "Error budget left of 30 days",
                "How much of what may go wrong in 30 days is left. A queue promises that 99 % of"
                " its attempts begin in time, all tasks that 99 % end well, the web that 99 % of"
                " requests get no server error. A bar that shrinks while you look is the fault to"
                " mend first.",
                Query(
                    every_queue(
                        budget_left(started["_good"], started[""], ERROR_BUDGET, "queue_name")
                    ),
                    "{{queue_name}}",
                ),
                Query(budget_left(ended["_good"], ended[""], ERROR_BUDGET), "all tasks"),
                Query(budget_left(answered_well, answered, ERROR_BUDGET), "web"),
                unit=RATIO,
                thresholds=_BUDGET,
                empty="No traffic in 30 days",
                width=6,
                height=7,
                minimum=0,
                maximum=1,
                decimals=0,
                links=(Link("Its queue", Uid.QUEUES, {"queue_name": CLICKED_QUEUE}),),
            ),
            table(
                "Alerts",
                "Alerts that fire, and those that are about to: pending ones still wait for their"
                " time to be over. Click a name for its runbook. Critical ones page somebody,"
                " warnings are work for the day.",
                {"alertname": "Alert", "severity": "Severity", "alertstate": "State"},
                (
                    Column(
                        title="For",
                        expr=f"max by (alertname, severity, alertstate) ({_alerts()})"
                        " * on (alertname, severity) group_left ()"
                        " (time() - min by (alertname, severity)"
                        f" ({_alerts().replace('ALERTS', 'ALERTS_FOR_STATE', 1)}))",
                        unit=SECONDS,
                        width=85,
                        decimals=0,
                    ),
                ),
                sort_by="Severity",
                descending=False,
                empty="No alert fires or is about to",
                width=7,
                height=7,
                links={"Alert": (RunbookLink("Runbook", "Alert"),)},
                label_words={
                    "Severity": {
                        "critical": ("critical", colours.BAD),
                        "warning": ("warning", colours.WARNING),
                    }
                },
                label_widths={"Severity": 80, "State": 80},
            ),
            bar_gauge(
                "Trouble in the last 5 minutes",
                "Everything that failed, was refused, repeated, lost or restarted in the last five"
                " minutes, or is wrong now, counted. Red: work is lost, refused or stands still."
                " Orange: it is slower or is tried again. Click a bar for the dashboard that"
                " explains it.",
                Query(TROUBLE, "{{trouble}}"),
                Query(END, NOTHING_ELSE),
                unit=COUNT,
                empty="Prometheus does not answer",
                width=7,
                height=7,
                decimals=0,
                overrides=(
                    coloured(".", colours.WARNING),
                    coloured(SERIOUS, colours.BAD),
                    coloured(f"^{NOTHING_ELSE}$", colours.GOOD),
                ),
                links=(LinkByLabel("Explain", DASHBOARD_LABEL),),
            ),
        ),
    )


def _answers(witnesses: str) -> str:
    """Return 1 if all witnesses see a server, 0 if none does, 2 if they differ, -1 without any."""
    seen = f'{{__name__=~"{witnesses}", {SELECTED}}}'
    return or_absent(f"2 * max({seen}) - min({seen})")


def _part(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str,
    uid: Uid,
    thresholds: Thresholds | None = None,
    words: Words | None = None,
    names: bool = False,
    decimals: int = 0,
) -> Panel:
    return stat(
        title,
        description,
        query,
        unit=unit,
        thresholds=thresholds,
        words=words,
        names=names,
        decimals=decimals,
        width=2,
        height=3,
        text_size=22,
        links=(Link(f"Open {uid.removeprefix('celeriac-')}", uid),),
    )


def _missing() -> str:
    """Return what must be scraped and is no target, as one series each."""
    kinds = []
    for job in JOBS:
        if not job.expected:
            continue
        if len(job.targets) > 1:
            # Each of its services is needed.
            kinds += [f'job="{job.name}", service="{target.service}"' for target in job.targets]
        else:
            kinds.append(f'job="{job.name}"')
    return " or ".join(f"absent(up{{{SELECTED}, {kind}}})" for kind in kinds)


def _parts() -> Row:
    one = Thresholds("one is enough to work, none stops everything", bad=1, falling=True)
    silent = f"(count(up{{{SELECTED}}} == 0) or vector(0)) + (count({_missing()}) or vector(0))"
    limit = (
        # A task is in one queue; the queue knows the limit.
        f"max by (name) (celery_worker_oldest_active_task_seconds{{{SELECTED}}})"
        " / on (name) group_left ()"
        f" max by (name) (0 * max by (name, queue_name) (celery_task_started_total{{{SELECTED}}})"
        " + on (queue_name) group_left ()"
        f" max by (queue_name) (celery_queue_time_limit_seconds{{{SELECTED}}}))"
    )

    def worker(service: str) -> Panel:
        queues = ", ".join(queue.name for queue in QUEUES if queue.worker == service)
        return _part(
            service,
            f"Workers of this service that take messages (queues: {queues}). A worker that is"
            " paused, frozen, cut off from the broker or gone is not counted.",
            Query(f'sum(celery_worker_consuming{{{SELECTED}, service="{service}"}}) or vector(0)'),
            unit="suffix: at work",
            uid=Uid.WORKERS,
            thresholds=one,
        )

    return Row(
        "Is every part there?",
        (
            _part(
                "Web",
                "Web servers that answer Prometheus.",
                Query(f'sum(up{{{SELECTED}, job="web"}}) or vector(0)'),
                unit="suffix: up",
                uid=Uid.WEB_DATABASE,
                thresholds=one,
            ),
            *(worker(service) for service in dict.fromkeys(queue.worker for queue in QUEUES)),
            _part(
                "Relay",
                "Time since a relay last finished a round without an error. Without it nothing is"
                " repeated, and what was not published stays in the ledger.",
                Query(
                    "time() - max(celery_relay_last_round_timestamp_seconds"
                    f"{{{SELECTED}}}) or vector(-1)"
                ),
                unit=SECONDS,
                uid=Uid.BROKER,
                thresholds=Thresholds("a round is due every few seconds", 30, 60),
                words=_NOT_THERE,
            ),
            _part(
                "Beat",
                "Schedulers that lead and looked at their schedule in the last minute. Exactly one"
                " must: without one no periodic task is sent, with two each is sent twice.",
                Query(
                    f"count((celery_beat_leader{{{SELECTED}}} == 1) and on (instance)"
                    f" (time() - celery_beat_last_tick_timestamp_seconds{{{SELECTED}}} < 60))"
                    " or vector(0)"
                ),
                unit="suffix: lead",
                uid=Uid.SCHEDULE,
                thresholds=Thresholds("two leaders send everything twice", bad=2),
                words=_LEADERS,
            ),
            _part(
                "Redis",
                "Whether the broker answers both exporters; half seen: one of them only"
                " (ServerMetricsMissing, CeleryMetricsStale). While it is down submissions are kept"
                " in the ledger, and nothing runs.",
                Query(_answers("redis_up|celery_broker_up")),
                unit=WORDS,
                uid=Uid.BROKER,
                words=_ANSWERS,
            ),
            _part(
                "Redis full",
                "Used memory of the limit. A full broker refuses messages; they stay in the"
                " ledger.",
                Query(BROKER_MEMORY),
                unit=RATIO,
                uid=Uid.BROKER,
                thresholds=Thresholds("RedisMemoryHigh warns at 85 %", 0.7, 0.85),
                words={-1: ("no limit", colours.UNKNOWN), -2: ("unknown", colours.BAD)},
            ),
            _part(
                "PostgreSQL",
                "Whether the database answers both exporters; half seen: one of them only"
                " (ServerMetricsMissing, CeleryMetricsStale). Everything needs it.",
                Query(_answers("pg_up|celery_database_up")),
                unit=WORDS,
                uid=Uid.WEB_DATABASE,
                words=_ANSWERS,
            ),
            _part(
                "Canary",
                "Time since the last canary came through the slowest queue. One goes through each"
                " queue every minute: beat, broker and workers together. Within its queue's target"
                " it may wait.",
                Query(f"max(queue_name:celery_canary_age_seconds:max{{{SELECTED}}}) or vector(-1)"),
                unit=SECONDS,
                uid=Uid.SCHEDULE,
                thresholds=Thresholds("sent every 60 s; CeleryCanaryMissing pages", 130, 300),
                words={-1: ("unknown", colours.BAD), _NEVER: ("never", colours.BAD)},
            ),
            _part(
                "Longest run",
                "The running attempt that is nearest to its time limit, as a share of it. At 100 %"
                " its process is killed; beyond, even that did not help.",
                Query(
                    or_absent(
                        # Nothing runs, as long as those who would know answer.
                        f"max({limit}) or 0 * (sum(celery_worker_up{{{SELECTED}}})"
                        f" + max(celery_queue_time_limit_seconds{{{SELECTED}}}))"
                    )
                ),
                unit=RATIO,
                uid=Uid.WORKERS,
                thresholds=Thresholds("near the limit, and beyond it", 0.8, 1.05),
                words=absent("unknown"),
            ),
            _part(
                "Dead letters",
                "Durable tasks that failed for good and wait for somebody to replay or discard"
                " them. Nothing is lost, but nothing happens either.",
                Query(
                    or_absent(
                        f"sum(max by (namespace, name) (celery_dead_letters{{{SELECTED}}}))"
                        # A task has a series while it has some; this one is always there.
                        f" or 0 * max(celery_dead_letter_oldest_age_seconds{{{SELECTED}}})"
                    )
                ),
                unit=COUNT,
                uid=Uid.TASKS,
                thresholds=Thresholds("each waits for a decision", warning=1),
                words=absent("unknown"),
            ),
            _part(
                "Not scraped",
                "Processes that do not answer Prometheus, and kinds of processes that must be there"
                " and of which Prometheus knows none. What they say elsewhere on this page is"
                " missing.",
                Query(silent),
                unit=COUNT,
                uid=Uid.WORKERS,
                thresholds=Thresholds("each is a blind spot, or down", bad=1),
            ),
        ),
    )


def _flow() -> Row:
    def rate(metric: str) -> str:
        return f"sum(rate({metric}{{{SELECTED}}}[$__rate_interval]))"

    share = every_queue(f"{OLDEST} / {TARGET}")
    return Row(
        "Does work flow?",
        (
            timeseries(
                "Oldest waiting work, of its target",
                "Age of the oldest waiting work of each queue, as a share of what the queue"
                " promises. A line that climbs steadily is a queue nobody takes from; a sawtooth"
                " is a queue that is served.",
                Query(share, "{{queue_name}}"),
                unit=RATIO,
                thresholds=_PROMISE,
                empty="The exporter reports no queue",
                width=8,
                height=6,
                legend_right=True,
                overrides=QUEUE_COLOURS,
                links=(Link("This queue", Uid.QUEUES, {"queue_name": CLICKED_QUEUE}),),
            ),
            timeseries(
                "Work in and out",
                "What arrives at all queues, and the attempts that end, whatever their end. As long"
                " as the two lie on each other, work flows; if out is below in, work piles up. By"
                " queue: in the table below.",
                Query(every_queue(f"sum({ARRIVING})"), "in"),
                Query(every_queue(f"sum({COMPLETED})"), "out"),
                unit=PER_SECOND,
                empty="No worker reports",
                width=8,
                height=6,
                legend_right=True,
                overrides=(limit_line("^in$", colours.BLUE), coloured("^out$", colours.GREEN)),
                links=(Link("Queues", Uid.QUEUES),),
            ),
            timeseries(
                "Ends of attempts",
                "How attempts end, stacked. Orange that grows is something behind the tasks that"
                " refuses: the mail server, a lock. Red is lost for now: dead letters.",
                Query(rate("celery_task_succeeded_total"), "succeeded"),
                Query(rate("celery_task_retried_total"), "retried"),
                Query(rate("celery_task_failed_total"), "failed"),
                Query(rate("celery_task_worker_lost_total"), "process lost"),
                unit=PER_SECOND,
                empty="No worker reports",
                width=8,
                height=6,
                stacked=True,
                legend_right=True,
                overrides=STATE_COLOURS,
                links=(Link("Tasks", Uid.TASKS),),
            ),
            table(
                "Queues",
                "Each queue now. Time to drain: at the pace of the last ten minutes.",
                {"queue_name": "Queue"},
                tuple(
                    Column(
                        title=column.title,
                        expr=every_queue(column.expr),
                        unit=column.unit,
                        thresholds=column.thresholds,
                        words=column.words,
                        decimals=column.decimals,
                        width=132,
                    )
                    for column in (
                        Column(title="Waiting", expr=LENGTH, unit=COUNT, decimals=0),
                        Column(title="Oldest", expr=OLDEST, unit=SECONDS, decimals=1),
                        Column(title="Target", expr=TARGET, unit=SECONDS),
                        Column(
                            title="Of target",
                            expr=f"{OLDEST} / {TARGET}",
                            unit=RATIO,
                            thresholds=_PROMISE,
                            decimals=0,
                        ),
                        Column(title="In", expr=ARRIVING, unit=PER_SECOND, decimals=2),
                        Column(title="Out", expr=COMPLETED, unit=PER_SECOND, decimals=2),
                        Column(title="Time to drain", expr=DRAIN, unit=SECONDS, words=_DRAINING),
                        Column(
                            title="Busy slots",
                            expr="max by (queue_name)"
                            f" (queue_name:celery_worker_busy:ratio{{{SELECTED}}})",
                            unit=RATIO,
                            decimals=0,
                        ),
                    )
                ),
                label_widths={"Queue": 140},
                sort_by="Of target",
                empty="The exporter reports no queue",
                width=16,
                height=6,
                links={
                    "Queue": (Link("This queue", Uid.QUEUES, {"queue_name": CELL.format("Queue")}),)
                },
            ),
            timeseries(
                "Answers of the web",
                "How long requests take: half of them, and all but one in twenty. Both rise"
                " together when the database is slow or locked.",
                *(
                    Query(
                        f"histogram_quantile({quantile}, sum by (le)"
                        f" (rate({_LATENCY}{{{SELECTED}}}[$__rate_interval])))",
                        f"p{round(quantile * 100)}",
                    )
                    for quantile in (0.5, 0.95)
                ),
                unit=SECONDS,
                empty="No requests",
                width=8,
                height=6,
                legend_right=True,
                overrides=(coloured("p50", colours.SKY), coloured("p95", colours.BLUE)),
                links=(Link("Web and database", Uid.WEB_DATABASE),),
            ),
        ),
    )


def dashboard() -> Dashboard:
    """Return the dashboard that people open first."""
    return Dashboard(
        uid=Uid.OVERVIEW,
        title="Overview",
        description="Is work flowing, and within promise?",
        rows=(_promise(), _parts(), _flow()),
        refresh="10s",
    )

"""Schedule: did every periodic task go out on time, and once?"""

from __future__ import annotations

from typing import Final

from deploy.grafana.dashboards import colours
from deploy.grafana.dashboards.absence import absent, or_absent
from deploy.grafana.dashboards.builder import (
    CLICKED_QUEUE,
    COUNT,
    QUANTILE_COLOURS,
    QUEUE_COLOURS,
    RATIO,
    SECONDS,
    SELECTED,
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
    stat,
    state_timeline,
    table,
    timeseries,
)
from deploy.grafana.dashboards.expressions import ENTRY_AGE, ENTRY_INTERVAL, OVERDUE

#: One beat sends; another, if there is one, stands by.
_SENDERS: Final[dict[int, tuple[str, str]]] = {
    0: ("nobody", colours.BAD),
    1: ("one beat", colours.GOOD),
    2: ("two beats", colours.BAD),
    3: ("three beats", colours.BAD),
}
_ROLES: Final[dict[int, tuple[str, str]]] = {
    0: ("stands by", colours.UNKNOWN),
    1: ("sends", colours.GOOD),
}

_LAG: Final = f"celery_beat_schedule_lag_seconds_bucket{{{SELECTED}}}"

_LATE: Final = Thresholds(
    "beat looks at its schedule every 5 seconds, so more than 10 is not its habit",
    warning=10,
    bad=60,
)


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return Dashboard(
        uid=Uid.SCHEDULE,
        title="Schedule",
        description="Did every periodic task go out on time, and only once?",
        rows=(
            Row("Is the schedule kept right now?", _now()),
            Row("Which entry is late, failing or silent?", (_entries(),)),
            Row("How late does beat send?", _lag()),
            Row("Does what was sent come through, and who sends?", _through()),
        ),
    )


def _now() -> tuple[Panel, ...]:
    return (
        stat(
            "Beat's last look",
            "Seconds since a beat last looked at its schedule. It looks every 5 seconds. If this "
            "grows, nothing periodic starts any more: retention, canaries, clean-ups.",
            Query(
                or_absent(f"time() - max(celery_beat_last_tick_timestamp_seconds{{{SELECTED}}})")
            ),
            unit=SECONDS,
            decimals=0,
            thresholds=Thresholds("CeleryBeatStalled fires at 65 s", warning=30, bad=65),
            words=absent("no beat"),
        ),
        stat(
            "Who sends",
            "How many beats hold the lock and send. With none, nothing is sent; with two, "
            "everything is sent twice. CeleryBeatStalled and CeleryBeatDuplicated watch it.",
            Query(or_absent(f"sum(celery_beat_leader{{{SELECTED}}})")),
            unit=COUNT,
            words={**_SENDERS, **absent("no beat")},
        ),
        stat(
            "Standing by",
            "Beats that wait to take over when the one that sends goes away. None is in order; "
            "it only means that a restart of beat is a short pause of the schedule.",
            Query(
                or_absent(
                    f"count(celery_beat_leader{{{SELECTED}}} == 0)"
                    f" or 0 * count(celery_beat_leader{{{SELECTED}}})"
                )
            ),
            unit=COUNT,
            words=absent("no beat"),
        ),
        stat(
            "Overdue entries",
            "Entries that were last sent longer ago than one and a half of their intervals and "
            "half a minute. The table below names them.",
            Query(or_absent(f"count({OVERDUE}) or 0 * sum(celery_beat_entries{{{SELECTED}}})")),
            unit=COUNT,
            thresholds=Thresholds("every entry has its time", bad=1),
            words=absent("no beat"),
        ),
        stat(
            "Lag, p95",
            "95 % of the occurrences in the time range went out no later than this after they "
            "were due.",
            Query(or_absent(f"histogram_quantile(0.95, sum by (le) (rate({_LAG}[$__range])))")),
            unit=SECONDS,
            thresholds=_LATE,
            words=absent("nothing sent", colours.UNKNOWN),
        ),
        stat(
            "Not sent",
            "Occurrences in the time range that could not be sent: the broker or the database was "
            "away. Beat tries again; durable ones are sent by the relay. Look at Broker next.",
            Query(
                or_absent(
                    f"round(sum(increase(celery_beat_publish_failures_total{{{SELECTED}}}[$__range])))"
                )
            ),
            unit=COUNT,
            thresholds=Thresholds("CeleryBeatPublishFailed fires at the first", warning=1),
            words=absent("no beat"),
            links=(Link("Is the broker in order?", Uid.BROKER),),
        ),
    )


def _entries() -> Panel:
    return table(
        "Entries of the schedule",
        "Every enabled entry. Part of interval is the time since it was last sent, divided by its "
        "interval: 100 % is the moment at which it is due. Sent and Not sent are counted over the "
        "time range. An entry that is always sent and whose effect is missing is a matter of its "
        "task: look at Tasks.",
        {"entry": "Entry"},
        (
            Column(title="Interval", expr=ENTRY_INTERVAL, unit=SECONDS, width=140),
            Column(title="Last sent before", expr=ENTRY_AGE, unit=SECONDS, width=160, decimals=0),
            Column(
                title="Part of interval",
                expr=f"({ENTRY_AGE}) / {ENTRY_INTERVAL}",
                unit=RATIO,
                thresholds=Thresholds(
                    "an entry is due at 100 %; a minute's entry is seen up to a scrape too late",
                    warning=1.5,
                    bad=2,
                ),
                width=160,
                decimals=0,
            ),
            Column(
                title="Sent",
                expr="round(sum by (entry)"
                f" (increase(celery_beat_sent_total{{{SELECTED}}}[$__range])))",
                unit=COUNT,
                width=110,
            ),
            Column(
                title="Not sent",
                expr="round(sum by (entry)"
                f" (increase(celery_beat_publish_failures_total{{{SELECTED}}}[$__range])))",
                unit=COUNT,
                thresholds=Thresholds("CeleryBeatPublishFailed", warning=1),
                width=110,
            ),
        ),
        sort_by="Part of interval",
        height=13,
        empty="no beat holds a schedule",
        links={"Entry": (Link("Its tasks", Uid.TASKS),)},
    )


def _lag() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Lag",
            "Seconds from the moment an entry was due to the moment it was sent, over ten minutes. "
            "A rising p99 with a steady p50 is a slow database or a beat without processor time.",
            *(
                Query(
                    f"histogram_quantile({share}, sum by (le) (rate({_LAG}[10m])))",
                    f"p{round(share * 100)}",
                )
                for share in (0.5, 0.95, 0.99)
            ),
            unit=SECONDS,
            thresholds=_LATE,
            width=8,
            height=9,
            overrides=QUANTILE_COLOURS,
            empty="nothing was sent",
        ),
        heatmap(
            "Occurrences by lag",
            "How many occurrences went out how late: the darker, the more. All belong into the "
            "rows below 10 seconds.",
            Query(f"sum by (le) (increase({_LAG}[$__rate_interval]))", interval="1m"),
            unit=SECONDS,
            width=8,
            height=9,
            empty="nothing was sent",
        ),
        timeseries(
            "Sent and not sent",
            "Occurrences in each minute. A gap is a time without a beat that sends.",
            Query(
                f"round(sum(increase(celery_beat_sent_total{{{SELECTED}}}[1m])))",
                "sent",
                interval="1m",
            ),
            Query(
                f"round(sum(increase(celery_beat_publish_failures_total{{{SELECTED}}}[1m])))",
                "failed",
                interval="1m",
            ),
            unit=COUNT,
            width=8,
            height=9,
            bars=True,
            stacked=True,
            overrides=(coloured("^sent", colours.BLUE), coloured("^failed", colours.BAD)),
            empty="no beat",
        ),
    )


def _through() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Age of the last canary",
            "Beat sends a small durable task through every queue each minute. Seconds since the "
            "last one came through: one number for beat, ledger, broker and worker together. If "
            "one queue grows, look at Queues; if all do, look at beat above and at Broker.",
            Query(
                "time() - (max by (queue_name)"
                f" (celery_canary_last_success_timestamp_seconds{{{SELECTED}}}) > 0)",
                "{{queue_name}}",
            ),
            unit=SECONDS,
            thresholds=Thresholds("CeleryCanaryMissing fires at 300 s", bad=300),
            legend_right=True,
            overrides=QUEUE_COLOURS,
            empty="no canary has come through yet",
            links=(Link("Its queue", Uid.QUEUES, {"queue_name": CLICKED_QUEUE}),),
        ),
        state_timeline(
            "Which beat sends",
            "Every beat, and whether it sends or stands by. Exactly one sends at any time; the "
            "change from one to another takes seconds.",
            Query(f"max by (instance) (celery_beat_leader{{{SELECTED}}})", "{{instance}}"),
            words=_ROLES,
            width=12,
            height=8,
            empty="no beat",
        ),
    )

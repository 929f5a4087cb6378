"""Broker: can work be lost, run twice, or be refused?"""

from __future__ import annotations

from typing import Final

from deploy.grafana.dashboards import colours
from deploy.grafana.dashboards.absence import absent, or_absent
from deploy.grafana.dashboards.builder import (
    AT_LEAST_ONE,
    BYTES,
    CELL,
    CLICKED_QUEUE,
    CLICKED_TASK,
    COUNT,
    PER_SECOND,
    QUEUE_COLOURS,
    QUEUE_NAME,
    RATIO,
    SECONDS,
    SELECTED,
    STATE_COLOURS,
    Column,
    Dashboard,
    Link,
    Panel,
    Query,
    Row,
    Thresholds,
    Uid,
    coloured,
    limit_line,
    stat,
    state_timeline,
    table,
    timeseries,
)
from deploy.grafana.dashboards.expressions import BROKER_MEMORY, OF_QUEUES

_ANSWERS: Final[dict[int, tuple[str, str]]] = {
    0: ("down", colours.BAD),
    1: ("up", colours.GOOD),
}
_FINE: Final[dict[int, tuple[str, str]]] = {0: ("failed", colours.BAD), 1: ("fine", colours.GOOD)}
_STAT_HEIGHT: Final = 3


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return Dashboard(
        uid=Uid.BROKER,
        title="Broker",
        description="Can work be lost, run twice, or be refused?",
        variables=(QUEUE_NAME,),
        rows=(
            Row("Is the broker safe right now?", _now()),
            Row("Could a message run twice?", _twice()),
            Row("Is everything published that should be?", _published()),
            Row("Does the broker have room?", _room()),
            Row("What waits for a person?", _decisions()),
            Row("Are its data on disk, and can these numbers be trusted?", _trust()),
        ),
    )


def _now() -> tuple[Panel, ...]:
    return (
        stat(
            "Broker",
            "Whether Redis answered the last scrape of celery-exporter. While it is down jobs are "
            "still accepted and kept in the database; nothing runs. RedisDown watches it.",
            Query(or_absent(f"min(celery_broker_up{{{SELECTED}}})")),
            unit=COUNT,
            words={**_ANSWERS, **absent("no exporter")},
            height=_STAT_HEIGHT,
        ),
        stat(
            "Memory of its limit",
            "Used memory, as a part of maxmemory. At 100 % Redis refuses new messages; the relay "
            "keeps them in the database until there is room.",
            Query(BROKER_MEMORY),
            unit=RATIO,
            decimals=0,
            thresholds=Thresholds("RedisMemoryHigh fires at 85 %", warning=0.7, bad=0.85),
            height=_STAT_HEIGHT,
            words={-1: ("no limit set", colours.UNKNOWN), -2: ("unknown", colours.BAD)},
        ),
        stat(
            "When memory is full",
            "What Redis does at its limit. Only noeviction is safe: any other policy throws "
            "messages away. RedisBrokerWrongPolicy and RedisBrokerEvicting watch it.",
            Query(
                or_absent(
                    f'count(redis_instance_info{{{SELECTED}, maxmemory_policy="noeviction"}})'
                    f" / count(redis_instance_info{{{SELECTED}}})"
                    f" or 0 * count(redis_instance_info{{{SELECTED}}})"
                )
            ),
            unit=COUNT,
            words={
                0: ("evicts", colours.BAD),
                1: ("refuses", colours.GOOD),
                **absent("no exporter"),
            },
            height=_STAT_HEIGHT,
        ),
        stat(
            "Evicted keys",
            "Keys that Redis threw away in the time range to make room. Each may have been a "
            "queue.",
            Query(
                or_absent(f"round(sum(increase(redis_evicted_keys_total{{{SELECTED}}}[$__range])))")
            ),
            unit=COUNT,
            thresholds=Thresholds("RedisBrokerEvicting fires at the first", bad=1),
            height=_STAT_HEIGHT,
            words=absent("no exporter"),
        ),
        stat(
            "Past visibility timeout",
            "Messages that a worker took and did not acknowledge within the visibility timeout. "
            "They should have been handed to another worker.",
            Query(or_absent(f"sum(celery_broker_unacked_past_visibility{{{SELECTED}}})")),
            unit=COUNT,
            thresholds=Thresholds(
                "CeleryMessagesPastVisibilityTimeout: nobody restores them", bad=1
            ),
            height=_STAT_HEIGHT,
            words=absent("no exporter"),
        ),
        stat(
            "Due after the timeout",
            "Messages in the hands of workers whose eta is later than the visibility timeout "
            "allows: they will run more than once. Durable tasks wait in the database instead.",
            Query(or_absent(f"sum(celery_broker_eta_beyond_visibility{{{SELECTED}}})")),
            unit=COUNT,
            thresholds=Thresholds("CeleryEtaBeyondVisibilityTimeout fires at the first", warning=1),
            height=_STAT_HEIGHT,
            words=absent("no exporter"),
        ),
        stat(
            "Last write to disk",
            "Whether the last write of the append-only file succeeded. Without it a restart of "
            "Redis loses its queues; the relay publishes durable tasks again.",
            Query(or_absent(f"min(redis_aof_last_write_status{{{SELECTED}}})")),
            unit=COUNT,
            words={**_FINE, **absent("no exporter")},
            height=_STAT_HEIGHT,
        ),
        stat(
            "Relay's last round",
            "Seconds since the relay last finished a round. It publishes retries, etas, and what "
            "was lost on its way to the broker.",
            Query(
                or_absent(f"time() - max(celery_relay_last_round_timestamp_seconds{{{SELECTED}}})")
            ),
            unit=SECONDS,
            decimals=0,
            thresholds=Thresholds("CeleryRelayStalled fires at 60 s", warning=30, bad=60),
            height=_STAT_HEIGHT,
            words=absent("no relay"),
        ),
        stat(
            "Overdue deliveries",
            "Durable tasks that the relay should have looked at two minutes ago.",
            Query(or_absent(f"sum(celery_deliveries_overdue{{{SELECTED}}})")),
            unit=COUNT,
            thresholds=Thresholds("CeleryDeliveriesOverdue", bad=1),
            height=_STAT_HEIGHT,
            words=absent("no exporter"),
        ),
        stat(
            "Losses of data",
            "Times in the time range that the broker came back without its data, and everything "
            "was published again. Nothing durable is lost; plain tasks are.",
            Query(
                or_absent(
                    f"round(sum(increase(celery_relay_broker_data_losses_total{{{SELECTED}}}[$__range])))"
                )
            ),
            unit=COUNT,
            thresholds=Thresholds("CeleryBrokerLostItsData fires at the first", warning=1),
            height=_STAT_HEIGHT,
            words=absent("no relay"),
        ),
        stat(
            "Dead letters",
            "Durable tasks that failed for good and wait for a person to replay or discard them.",
            Query(
                or_absent(
                    f"sum(celery_dead_letters{{{SELECTED}}})"
                    f" or 0 * max(celery_database_up{{{SELECTED}}})"
                )
            ),
            unit=COUNT,
            thresholds=Thresholds("somebody has to look at each", warning=1),
            height=_STAT_HEIGHT,
            words=absent("no exporter"),
            links=(Link("Which tasks fail?", Uid.TASKS),),
        ),
        stat(
            "Quarantined messages",
            "Messages that were refused: not signed, altered, or malformed. A few come from a "
            "wrong key; many from somebody who can write to Redis.",
            Query(or_absent(f"sum(celery_quarantined_messages{{{SELECTED}}})")),
            unit=COUNT,
            thresholds=Thresholds("CeleryMessagesQuarantined: none is expected", warning=1),
            height=_STAT_HEIGHT,
            words=absent("no exporter"),
        ),
    )


def _twice() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Messages in the hands of workers",
            "Delivered and not acknowledged. As many as workers run and prefetch; if this grows "
            "while nothing is started, workers hold messages and do not work: look at Workers.",
            Query(f"sum(celery_broker_unacked{{{SELECTED}}})", "unacknowledged"),
            Query(
                f"sum(celery_broker_unacked_past_visibility{{{SELECTED}}})",
                "past visibility timeout",
            ),
            unit=COUNT,
            width=8,
            overrides=(coloured("^unack", colours.BLUE), coloured("^past", colours.BAD)),
            empty="no exporter",
            links=(Link("Which worker holds them?", Uid.WORKERS),),
        ),
        timeseries(
            "Age of the oldest of them",
            "Against the visibility timeout, the dashed line: at the line the message is given to "
            "a second worker. Durable tasks are held back by the ledger then; plain tasks run "
            "twice.",
            Query(f"max(celery_broker_unacked_oldest_age_seconds{{{SELECTED}}})", "oldest"),
            Query(
                f"max(celery_broker_visibility_timeout_seconds{{{SELECTED}}})",
                "visibility timeout",
            ),
            unit=SECONDS,
            width=8,
            overrides=(coloured("^oldest", colours.BLUE), limit_line("timeout$")),
            empty="no exporter",
        ),
        timeseries(
            "Messages that wait for their eta",
            "In the hands of workers, found by a scan of the unacknowledged messages. Those due "
            "later than the visibility timeout allows will run more than once.",
            Query(f"sum(celery_broker_eta_backlog{{{OF_QUEUES}}})", "wait for their eta"),
            Query(
                f"sum(celery_broker_eta_beyond_visibility{{{OF_QUEUES}}})",
                "due after the timeout",
            ),
            unit=COUNT,
            width=8,
            overrides=(
                coloured("^wait", colours.OLIVE),
                coloured("^due after", colours.BAD),
                AT_LEAST_ONE,
            ),
            empty="no exporter",
        ),
    )


def _published() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Durable tasks by state",
            "What the ledger says, also while the broker is down. Waiting without running is a "
            "stop; both together are load.",
            Query(f'sum by (state) (celery_deliveries{{{OF_QUEUES}, state!="dead"}})', "{{state}}"),
            unit=COUNT,
            width=6,
            height=9,
            stacked=True,
            overrides=STATE_COLOURS,
            empty="no exporter",
            links=(Link("Which queue waits?", Uid.QUEUES),),
        ),
        timeseries(
            "Age of the longest waiting durable task",
            "Seconds since it was due or was published last. Right also while the broker is down, "
            "when the age of messages is not known.",
            Query(
                f"max by (queue_name) (celery_delivery_oldest_waiting_age_seconds{{{OF_QUEUES}}})",
                "{{queue_name}}",
            ),
            unit=SECONDS,
            width=9,
            height=9,
            legend_right=True,
            overrides=QUEUE_COLOURS,
            empty="no exporter",
            links=(Link("Its queue", Uid.QUEUES, {"queue_name": CLICKED_QUEUE}),),
        ),
        timeseries(
            "Published by the relay",
            "Retries, etas, and messages that were lost on their way, each second. Failed rounds "
            "mean that the database or the broker was away; set aside means that no code has the "
            "task, or that it cannot be encoded (CeleryRelayCannotPublish).",
            Query(
                "sum by (queue_name)"
                f" (rate(celery_relay_published_total{{{OF_QUEUES}}}[$__rate_interval]))",
                "{{queue_name}}",
            ),
            Query(
                f"sum(rate(celery_relay_round_failures_total{{{SELECTED}}}[$__rate_interval]))",
                "failed rounds",
            ),
            Query(
                f"sum(rate(celery_relay_unpublishable_total{{{SELECTED}}}[$__rate_interval]))",
                "set aside",
            ),
            unit=PER_SECOND,
            width=9,
            height=9,
            legend_right=True,
            overrides=(
                *QUEUE_COLOURS,
                coloured("^failed", colours.BAD),
                coloured("^set aside", colours.WARNING),
                AT_LEAST_ONE,
            ),
            empty="no relay",
        ),
    )


def _room() -> tuple[Panel, ...]:
    return (
        timeseries(
            "Memory",
            "Used by data, resident in the process, and the limit. Resident far above used is "
            "fragmentation; used that only grows is a queue that nobody empties.",
            Query(f"sum(redis_memory_used_bytes{{{SELECTED}}})", "used"),
            Query(f"sum(redis_memory_used_rss_bytes{{{SELECTED}}})", "resident"),
            Query(f"sum(redis_memory_max_bytes{{{SELECTED}}} > 0)", "limit"),
            unit=BYTES,
            width=8,
            height=9,
            overrides=(
                coloured("^used", colours.BLUE),
                coloured("^resident", colours.SKY),
                limit_line("^limit"),
            ),
            empty="no exporter",
        ),
        timeseries(
            "Clients",
            "Connections to Redis. Blocked ones wait for a message, as idle workers do: that is "
            "in order. RedisRejectedConnections fires when Redis turns somebody away.",
            Query(f"sum(redis_connected_clients{{{SELECTED}}})", "connected"),
            Query(f"sum(redis_blocked_clients{{{SELECTED}}})", "blocked"),
            unit=COUNT,
            width=8,
            height=9,
            overrides=(coloured("^connected", colours.BLUE), coloured("^blocked", colours.OLIVE)),
            empty="no exporter",
        ),
        timeseries(
            "Refused, evicted, expired",
            "Each second. Refused connections: too many clients. Evicted keys: lost messages. "
            "Expired keys are in order: they are notes with an end.",
            Query(
                f"sum(rate(redis_rejected_connections_total{{{SELECTED}}}[$__rate_interval]))",
                "refused connections",
            ),
            Query(
                f"sum(rate(redis_evicted_keys_total{{{SELECTED}}}[$__rate_interval]))",
                "evicted keys",
            ),
            Query(
                f"sum(rate(redis_expired_keys_total{{{SELECTED}}}[$__rate_interval]))",
                "expired keys",
            ),
            unit=PER_SECOND,
            width=8,
            height=9,
            overrides=(
                coloured("^refused", colours.WARNING),
                coloured("^evicted", colours.BAD),
                coloured("^expired", colours.UNKNOWN),
                AT_LEAST_ONE,
            ),
            empty="no exporter",
        ),
    )


def _decisions() -> tuple[Panel, ...]:
    return (
        table(
            "Dead letters",
            "By task. Look at one with `manage.py deadletters list` or in the admin, repair the "
            "cause, then replay or discard. CeleryDeadLettersGrowing watches the number.",
            {"name": "Task"},
            (
                Column(
                    title="Dead letters",
                    expr=f"sum by (name) (celery_dead_letters{{{SELECTED}}} > 0)",
                    unit=COUNT,
                    thresholds=Thresholds("somebody has to look at each", warning=1),
                    width=140,
                ),
            ),
            sort_by="Dead letters",
            width=12,
            height=7,
            empty="No dead letters.",
            links={"Task": (Link("How it fails", Uid.TASKS, {"name": CELL.format("Task")}),)},
        ),
        timeseries(
            "Dead letters and quarantined messages",
            "How many wait for a decision. A step is an incident; a slope is one that goes on.",
            Query(f"sum by (name) (celery_dead_letters{{{SELECTED}}} > 0)", "dead: {{name}}"),
            Query(f"sum(celery_quarantined_messages{{{SELECTED}}})", "quarantined"),
            unit=COUNT,
            height=7,
            overrides=(coloured("^quarantined", colours.PURPLE), AT_LEAST_ONE),
            empty="no exporter",
            links=(Link("How it fails", Uid.TASKS, {"name": CLICKED_TASK}),),
        ),
    )


def _trust() -> tuple[Panel, ...]:
    return (
        state_timeline(
            "Writes to disk",
            "Whether the last write, and the last rewrite, of the append-only file succeeded. "
            "RedisPersistenceFailing watches both.",
            Query(f"min(redis_aof_last_write_status{{{SELECTED}}})", "last write"),
            Query(f"min(redis_aof_last_bgrewrite_status{{{SELECTED}}})", "last rewrite"),
            words=_FINE,
            width=8,
            height=8,
            empty="no exporter",
        ),
        table(
            "Sources of these numbers",
            "What celery-exporter reads. Numbers of a source that was last read long ago are old: "
            "CeleryMetricsStale watches it.",
            {"source": "Source"},
            (
                Column(
                    title="Read before",
                    expr="time() - max by (source)"
                    f" (celery_exporter_last_success_timestamp_seconds{{{SELECTED}}})",
                    unit=SECONDS,
                    thresholds=Thresholds(
                        "CeleryMetricsStale fires at 120 s, for the scan, which is made once a "
                        "minute, at 300 s",
                        warning=90,
                        bad=120,
                    ),
                    decimals=0,
                ),
                Column(
                    title="Took",
                    expr=f"max by (source) (celery_exporter_read_duration_seconds{{{SELECTED}}})",
                    unit=SECONDS,
                ),
            ),
            sort_by="Read before",
            width=8,
            height=8,
            empty="no exporter",
        ),
        timeseries(
            "Time to read",
            "Seconds that reading each source took. It grows with the number of messages in the "
            "hands of workers, not with the length of queues.",
            Query(
                f"max by (source) (celery_exporter_read_duration_seconds{{{SELECTED}}})",
                "{{source}}",
            ),
            unit=SECONDS,
            width=8,
            height=8,
            overrides=(
                coloured("^broker$", colours.BLUE),
                coloured("^broker_scan", colours.SKY),
                coloured("^database", colours.OLIVE),
            ),
            empty="no exporter",
        ),
    )

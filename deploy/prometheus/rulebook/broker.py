"""Is Redis there, and does it keep what it was given?"""

from __future__ import annotations

from deploy.prometheus.rulebook.pace import MINUTE, Pace
from deploy.prometheus.rulebook.promql import held
from deploy.prometheus.rulebook.rule import CRITICAL, WARNING, Alert, Group


def group(pace: Pace) -> Group:
    """Return the alerts of the broker."""
    return Group(
        "celeriac.broker",
        (
            _down(pace),
            _evicting(pace),
            _wrong_policy(pace),
            _memory_high(pace),
            _rejected_connections(pace),
            _persistence_failing(pace),
            _past_visibility(pace),
            _eta_beyond_visibility(pace),
        ),
        area="broker",
    )


def since_start(counter: str, seconds: float, pace: Pace) -> str:
    """Return how much a counter of the Redis server grew.

    An exporter that starts late meets a large number, so a new series alone proves nothing; a
    server that started within the window does.
    """
    window = pace.window(seconds)
    return (
        f"max by (namespace) (\n  increase({counter}[{window}]) > 0\n"
        f"  or ({counter} > 0 and on (namespace, instance) "
        f"redis_uptime_in_seconds < {pace.age(seconds)})\n)"
    )


def _down(pace: Pace) -> Alert:
    return Alert(
        "RedisDown",
        CRITICAL,
        "The broker does not answer: submissions are accepted, nothing is worked on",
        # Two witnesses: the server's exporter, and ours with its own account. One that reaches it
        # is enough: this alert silences others. Their jobs differ, so `or` keeps both.
        "max by (namespace) (redis_up or celery_broker_up) == 0",
        summary="Redis is down",
        description="Redis answers neither its exporter nor the Celery exporter. Work is accepted "
        "and kept in PostgreSQL; none is done.",
        dashboard="broker",
        hold=pace.hold(MINUTE),
    )


def _evicting(pace: Pace) -> Alert:
    return Alert(
        "RedisBrokerEvicting",
        CRITICAL,
        "Redis throws keys away to save memory: messages are lost",
        since_start("redis_evicted_keys_total", 5 * MINUTE, pace),
        summary="Redis throws messages away",
        description="Redis threw {{ $value | printf `%.0f` }} keys away within five minutes. A key "
        "may be a whole queue.",
        dashboard="broker",
    )


def _wrong_policy(pace: Pace) -> Alert:
    return Alert(
        "RedisBrokerWrongPolicy",
        WARNING,
        "Redis may throw keys away when its memory is full (maxmemory-policy is not noeviction)",
        "max by (namespace, maxmemory_policy) (\n"
        '  redis_instance_info{maxmemory_policy!~"noeviction|"}\n) == 1',
        summary="Redis may throw messages away",
        description="maxmemory-policy of Redis is {{ $labels.maxmemory_policy }}: when its memory "
        "is full it throws messages away. It must be noeviction.",
        dashboard="broker",
        hold=pace.hold(MINUTE),
    )


def _memory_high(pace: Pace) -> Alert:
    return Alert(
        "RedisMemoryHigh",
        WARNING,
        "Redis uses more than 85 % of its memory; at 100 % it refuses messages",
        # 85 %: at the demo's rate the rest lasts for minutes. Without maxmemory (0) no share.
        "max by (namespace) (redis_memory_used_bytes / (redis_memory_max_bytes > 0)) > 0.85",
        summary="Redis is nearly full",
        description="Redis uses {{ $value | humanizePercentage }} of maxmemory; when it is full it "
        "refuses new messages.",
        dashboard="broker",
        hold=pace.hold(5 * MINUTE),
    )


def _rejected_connections(pace: Pace) -> Alert:
    return Alert(
        "RedisRejectedConnections",
        WARNING,
        "Redis refused connections because maxclients was reached",
        since_start("redis_rejected_connections_total", 5 * MINUTE, pace),
        summary="Redis refuses connections",
        description="Redis refused {{ $value | printf `%.0f` }} connections within five minutes: "
        "maxclients was reached.",
        dashboard="broker",
    )


def _persistence_failing(pace: Pace) -> Alert:
    return Alert(
        "RedisPersistenceFailing",
        WARNING,
        "Redis cannot write to its disk: after a restart messages would be missing",
        "\nor\n".join(
            f"min by (namespace) ({status}) == 0"
            for status in (
                "redis_aof_last_write_status",
                "redis_aof_last_bgrewrite_status",
                "redis_rdb_last_bgsave_status",
            )
        ),
        summary="Redis cannot save its data",
        description="The last write of Redis to its append-only file or snapshot failed (disk "
        "full, or no memory to fork). After a restart messages would be missing.",
        dashboard="broker",
        hold=pace.hold(MINUTE),
    )


def _past_visibility(pace: Pace) -> Alert:
    past = held("celery_broker_unacked_past_visibility", pace, by="namespace")
    return Alert(
        "CeleryMessagesPastVisibilityTimeout",
        CRITICAL,
        "Messages were delivered, never acknowledged, and nobody gives them to another worker",
        f"{past} > 0",
        summary="Lost messages are not delivered again",
        description="Messages unacknowledged for longer than the visibility timeout: "
        "{{ $value | printf `%.0f` }}. Every worker looks for them every few seconds, so none "
        "does.",
        dashboard="broker",
        # Workers sweep every five seconds (unacked_restore_interval).
        hold=pace.hold(2 * MINUTE),
    )


def _eta_beyond_visibility(pace: Pace) -> Alert:
    beyond = held("celery_broker_eta_beyond_visibility", pace)
    return Alert(
        "CeleryEtaBeyondVisibilityTimeout",
        WARNING,
        "Plain messages are due later than the visibility timeout: they will run more than once",
        f"{beyond} > 0",
        summary="Tasks are scheduled too far ahead for the broker",
        description="Messages of {{ $labels.queue_name }} with an eta beyond the visibility "
        "timeout: {{ $value | printf `%.0f` }}. Each will run more than once. Durable tasks have "
        "no such limit.",
        dashboard="broker",
        hold=pace.hold(MINUTE),
        dashboard_variables=("queue_name",),
    )

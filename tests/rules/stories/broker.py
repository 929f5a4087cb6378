"""Stories of Redis."""

from tests.rules.story import Fires, Quiet, Story, flat, nothing, now, rising

_EVICTED = 'redis_evicted_keys_total{instance="x1"}'
_REJECTED = 'redis_rejected_connections_total{instance="x1"}'
_UPTIME = 'redis_uptime_in_seconds{instance="x1"}'
_DOWN = (
    "Redis answers neither its exporter nor the Celery exporter. Work is accepted and kept in "
    "PostgreSQL; none is done."
)
_NOT_SAVED = (
    "The last write of Redis to its append-only file or snapshot failed (disk full, or no memory "
    "to fork). After a restart messages would be missing."
)

_SEEN = 'redis_up{job="redis", instance="redis-exporter"}'
_SEEN_BY_OURS = 'celery_broker_up{job="celery-exporter", instance="exporter"}'

STORIES: list[Story] = [
    Fires(
        "it does not answer its exporter",
        "RedisDown",
        {_SEEN: f"{flat(1, 5)} {flat(0, 10)} {flat(1, 5)}"},
        at=6.25,
        not_before=5.75,
        resolved_at=15.25,
        description=_DOWN,
    ),
    Fires(
        "its exporter is gone, and ours sees it",
        "RedisDown",
        {_SEEN: f"{flat(1, 3)} stale", _SEEN_BY_OURS: f"{flat(1, 5)} {flat(0, 10)}"},
        at=6.25,
        not_before=5.75,
        description=_DOWN,
    ),
    Quiet(
        "a restart of less than a minute, which both see",
        "RedisDown",
        {
            _SEEN: f"{flat(1, 5)} {flat(0, 0.75)} {flat(1, 10)}",
            _SEEN_BY_OURS: f"{flat(1, 5)} {flat(0, 0.75)} {flat(1, 10)}",
        },
        until=14,
    ),
    Quiet(
        "the account of one exporter breaks, then that of the other",
        "RedisDown",
        {
            _SEEN: f"{flat(0, 10)} {flat(1, 10)}",
            _SEEN_BY_OURS: f"{flat(1, 10)} {flat(0, 10)}",
        },
        until=19,
    ),
    Fires(
        "keys are thrown away",
        "RedisBrokerEvicting",
        {_EVICTED: f"{flat(0, 10)} {flat(1, 10)}", _UPTIME: now(20, from_minute=1000)},
        at=10.5,
        not_before=9.75,
        resolved_at=16,
        description="Redis threw 1 keys away within five minutes. A key may be a whole queue.",
    ),
    Fires(
        "a Redis that has just started throws keys away before its first scrape",
        "RedisBrokerEvicting",
        {_EVICTED: f"{nothing(10)} {flat(1, 10)}", _UPTIME: f"{nothing(10)} {now(10)}"},
        at=11,
        description="Redis threw 1 keys away within five minutes. A key may be a whole queue.",
    ),
    Quiet(
        "an exporter that starts finds old evictions; Redis restarts without any",
        "RedisBrokerEvicting",
        {
            _EVICTED: f"{nothing(10)} {flat(7, 10)} {flat(0, 10)}",
            _UPTIME: f"{nothing(10)} {now(10, from_minute=1000)} {now(10)}",
        },
        until=29,
    ),
    Fires(
        "it may evict",
        "RedisBrokerWrongPolicy",
        {'redis_instance_info{maxmemory_policy="allkeys-lru"}': flat(1, 5)},
        at=1.5,
        not_before=0.75,
        labels={"maxmemory_policy": "allkeys-lru"},
        description="maxmemory-policy of Redis is allkeys-lru: when its memory is full it throws "
        "messages away. It must be noeviction.",
    ),
    Quiet(
        "noeviction, and another policy for half a minute",
        "RedisBrokerWrongPolicy",
        {
            'redis_instance_info{maxmemory_policy="noeviction"}': f"{flat(1, 5)} stale",
            'redis_instance_info{maxmemory_policy="volatile-lru"}': f"{nothing(5)} {flat(1, 0.5)} stale",
            'redis_instance_info{role="master"}': flat(1, 10),
        },
        until=9,
    ),
    Fires(
        "86 % of its memory",
        "RedisMemoryHigh",
        {"redis_memory_used_bytes": flat(86e6, 10), "redis_memory_max_bytes": flat(1e8, 10)},
        at=5.25,
        not_before=4.75,
        description="Redis uses 86% of maxmemory; when it is full it refuses new messages.",
    ),
    Quiet(
        "85 %, or no limit",
        "RedisMemoryHigh",
        {
            'redis_memory_used_bytes{instance="x1"}': flat(85e6, 10),
            'redis_memory_max_bytes{instance="x1"}': flat(1e8, 10),
            'redis_memory_used_bytes{namespace="b"}': flat(9e9, 10),
            'redis_memory_max_bytes{namespace="b"}': flat(0, 10),
        },
        until=10,
    ),
    Fires(
        "connections are refused",
        "RedisRejectedConnections",
        {_REJECTED: f"{flat(0, 10)} {flat(1, 10)}"},
        at=11,
        not_before=9.75,
        resolved_at=16,
        description="Redis refused 1 connections within five minutes: maxclients was reached.",
    ),
    Quiet(
        "refusals of long ago, a new exporter, a restart",
        "RedisRejectedConnections",
        {
            _REJECTED: f"{flat(5, 10)} {flat(0, 10)}",
            'redis_rejected_connections_total{instance="x2"}': f"{nothing(5)} {flat(5, 15)}",
            'redis_uptime_in_seconds{instance="x2"}': f"{nothing(5)} {now(15, from_minute=99)}",
        },
        until=19,
    ),
    *(
        Fires(
            f"{status} says so",
            "RedisPersistenceFailing",
            {f'{status}{{instance="x1"}}': f"{flat(1, 5)} {flat(0, 10)}"},
            at=6.25,
            not_before=5.75,
            description=_NOT_SAVED,
        )
        for status in (
            "redis_aof_last_write_status",
            "redis_aof_last_bgrewrite_status",
            "redis_rdb_last_bgsave_status",
        )
    ),
    Quiet(
        "one write fails, and the next one works",
        "RedisPersistenceFailing",
        {
            "redis_aof_last_write_status": f"{flat(1, 5)} {flat(0, 0.75)} {flat(1, 10)}",
            "redis_rdb_last_bgsave_status": flat(1, 15),
            "redis_aof_last_bgrewrite_status": flat(1, 15),
        },
        until=14,
    ),
    Fires(
        "nobody restores them",
        "CeleryMessagesPastVisibilityTimeout",
        {"celery_broker_unacked_past_visibility": f"{flat(0, 5)} {flat(1, 10)}"},
        at=7.25,
        not_before=6.75,
        description="Messages unacknowledged for longer than the visibility timeout: 1. Every "
        "worker looks for them every few seconds, so none does.",
    ),
    Quiet(
        "they are restored at the next sweep",
        "CeleryMessagesPastVisibilityTimeout",
        {"celery_broker_unacked_past_visibility": " ".join(["0 0 4 4"] * 10)},
        until=10,
    ),
    Fires(
        "an eta too far ahead, two exporters",
        "CeleryEtaBeyondVisibilityTimeout",
        {
            'celery_broker_eta_beyond_visibility{queue_name="default", instance="a"}': flat(1, 5),
            'celery_broker_eta_beyond_visibility{queue_name="default", instance="b"}': flat(1, 5),
            'celery_broker_eta_beyond_visibility{queue_name="mail", instance="a"}': flat(0, 5),
        },
        at=1.5,
        not_before=0.75,
        labels={"queue_name": "default"},
        description="Messages of default with an eta beyond the visibility timeout: 1. Each will run "
        "more than once. Durable tasks have no such limit.",
    ),
    Quiet(
        "none, however many wait for an eta that is near",
        "CeleryEtaBeyondVisibilityTimeout",
        {
            'celery_broker_eta_beyond_visibility{queue_name="default"}': flat(0, 10),
            'celery_broker_eta_backlog{queue_name="default"}': rising(0, 60, 10),
        },
        until=10,
    ),
]

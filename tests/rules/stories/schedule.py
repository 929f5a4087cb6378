"""Stories of beat."""

from tests.rules.story import Fires, Quiet, Story, flat, nothing, now

_TICK = 'celery_beat_last_tick_timestamp_seconds{instance="b1"}'
_LEADER = 'celery_beat_leader{instance="b1"}'
_STANDBY = 'celery_beat_leader{instance="b2"}'
_STANDBY_TICK = 'celery_beat_last_tick_timestamp_seconds{instance="b2"}'
_NO_TASK = "or longer; no periodic task is sent."

STORIES: list[Story] = [
    Fires(
        "it serves metrics, and its loop hangs",
        "CeleryBeatStalled",
        {_TICK: f"{now(5)} {flat(285, 10)}", _LEADER: flat(1, 15)},
        at=8,
        not_before=6.5,
        description=f"No leading beat has looked at the schedule for 3m 15s {_NO_TASK}",
    ),
    Fires(
        "the only one vanishes",
        "CeleryBeatStalled",
        {_TICK: f"{now(5)} stale", _LEADER: f"{flat(1, 5)} stale"},
        at=6.5,
        not_before=5.75,
        description=f"No leading beat has looked at the schedule for 1m 5s {_NO_TASK}",
    ),
    Fires(
        "the leader is gone, and the other one stands by for ever",
        "CeleryBeatStalled",
        {
            _TICK: f"{now(5)} stale",
            _LEADER: f"{flat(1, 5)} stale",
            _STANDBY_TICK: now(15),
            _STANDBY: flat(0, 15),
        },
        at=6.5,
        not_before=5.75,
        description=f"No leading beat has looked at the schedule for 1m 5s {_NO_TASK}",
    ),
    Fires(
        "the leader hangs and keeps the lock, and the other one stands by and looks",
        "CeleryBeatStalled",
        {
            _TICK: f"{now(5)} {flat(285, 10)}",
            _LEADER: flat(1, 15),
            _STANDBY_TICK: now(15),
            _STANDBY: flat(0, 15),
        },
        at=8,
        not_before=6.5,
        description=f"No leading beat has looked at the schedule for 3m 15s {_NO_TASK}",
    ),
    Fires(
        "it is missing in one of two namespaces",
        "CeleryBeatStalled",
        {
            'up{namespace="test", job="celery-relay", instance="relay"}': flat(1, 15),
            'celery_beat_last_tick_timestamp_seconds{namespace="live", instance="b1"}': now(15),
        },
        at=2,
        namespace="test",
        description=f"No leading beat has looked at the schedule for 1m 5s {_NO_TASK}",
    ),
    Quiet(
        "the leader is killed, and the other one takes over within a minute",
        "CeleryBeatStalled",
        {
            _TICK: f"{now(5)} stale",
            _LEADER: f"{flat(1, 5)} stale",
            _STANDBY_TICK: now(15),
            _STANDBY: f"{flat(0, 5.75)} {flat(1, 10)}",
        },
        until=14,
    ),
    Quiet(
        "a tick that takes a minute; a restart",
        "CeleryBeatStalled",
        {
            _TICK: f"{now(5)} {flat(285, 1)} {now(4, from_minute=6)} {nothing(0.75)} "
            f"{now(5, from_minute=10.75)}",
            _LEADER: f"{flat(1, 10)} {nothing(0.75)} {flat(1, 6)}",
        },
        until=15,
    ),
    Quiet(
        "another application, in a namespace without Celery, is called web too",
        "CeleryBeatStalled",
        {
            'up{namespace="shop", job="web", instance="web"}': flat(1, 15),
            _TICK: now(15),
            _LEADER: flat(1, 15),
        },
        until=14,
    ),
    Fires(
        "two lead",
        "CeleryBeatDuplicated",
        {
            _TICK: now(15),
            _LEADER: flat(1, 15),
            _STANDBY_TICK: now(15),
            _STANDBY: f"{flat(0, 5)} {flat(1, 10)}",
        },
        at=6.25,
        not_before=5.75,
        description="Beats that lead at the same time: 2. Each of them sends every periodic task.",
    ),
    Quiet(
        "one leads in each namespace, one stands by, and a hand-over is seen twice",
        "CeleryBeatDuplicated",
        {
            _TICK: now(15),
            _LEADER: f"{flat(1, 6)} {flat(0, 9)}",
            _STANDBY_TICK: now(15),
            _STANDBY: f"{flat(0, 5.25)} {flat(1, 10)}",
            'celery_beat_last_tick_timestamp_seconds{namespace="test", instance="b1"}': now(15),
            'celery_beat_leader{namespace="test", instance="b1"}': flat(1, 15),
        },
        until=14,
    ),
    Quiet(
        "the leader hangs, and another takes over when the lock has run out",
        "CeleryBeatDuplicated",
        {
            _TICK: f"{now(5)} {flat(285, 10)}",
            _LEADER: flat(1, 15),
            _STANDBY_TICK: now(15),
            _STANDBY: f"{flat(0, 5.75)} {flat(1, 10)}",
        },
        until=14,
    ),
    Fires(
        "one occurrence could not be sent (born at 1)",
        "CeleryBeatPublishFailed",
        {
            'celery_beat_publish_failures_total{entry="nightly"}': f"{nothing(20)} {flat(1, 40)}",
            'celery_beat_publish_failures_total{entry="hourly"}': flat(0, 60),
        },
        at=20.5,
        not_before=19.75,
        resolved_at=36,
        labels={"entry": "nightly"},
        description="nightly could not be sent 1 times in 15 minutes.",
    ),
    Quiet(
        "failures of long ago, and a restart",
        "CeleryBeatPublishFailed",
        {
            'celery_beat_publish_failures_total{entry="nightly"}': f"{flat(2, 30)} {nothing(1)} {flat(0, 30)}",
        },
        until=60,
    ),
]

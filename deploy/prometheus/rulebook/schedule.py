"""Does periodic work go out, and once?"""

from __future__ import annotations

from deploy.prometheus.rulebook.pace import MINUTE, Pace
from deploy.prometheus.rulebook.promql import gone, grown
from deploy.prometheus.rulebook.rule import CRITICAL, WARNING, Alert, Group

#: Seconds between two looks at the schedule (CELERY_BEAT_MAX_LOOP_INTERVAL, config.settings).
BEAT_INTERVAL_SECONDS = 5


def group(pace: Pace) -> Group:
    """Return the alerts of the schedule."""
    return Group(
        "celeriac.schedule",
        (_stalled(pace), _duplicated(pace), _publish_failed(pace)),
        area="schedule",
    )


def _stalled(pace: Pace) -> Alert:
    series = "celery_beat_last_tick_timestamp_seconds"
    patience = pace.age(MINUTE, fact=BEAT_INTERVAL_SECONDS)
    return Alert(
        "CeleryBeatStalled",
        CRITICAL,
        "No beat looks at the schedule, or none leads: no periodic task is sent",
        # One that stands by looks too, and sends nothing: its ticks do not count.
        f"time() - max by (namespace) (\n"
        f"  {series} unless on (namespace, instance) celery_beat_leader == 0\n) > {patience}\nor\n"
        # All stand by: the leader is gone and nobody took over.
        f"{patience} + (max by (namespace) (celery_beat_leader) == 0)\nor\n"
        f"{gone(series, patience, pace)}",
        summary="The schedule stands still",
        description="No leading beat has looked at the schedule for "
        "{{ $value | humanizeDuration }} or longer; no periodic task is sent.",
        dashboard="schedule",
        hold=pace.hold(MINUTE),
    )


def _duplicated(pace: Pace) -> Alert:
    tick = "celery_beat_last_tick_timestamp_seconds"
    fresh = pace.age(MINUTE, fact=BEAT_INTERVAL_SECONDS)
    return Alert(
        "CeleryBeatDuplicated",
        CRITICAL,
        "More than one beat leads: the lock does not hold, and periodic work is sent twice",
        # One that hangs still says that it leads after another has taken over.
        "sum by (namespace) (\n  celery_beat_leader\n"
        f"  and on (namespace, instance) time() - {tick} < {fresh}\n) > 1",
        summary="More than one beat sends periodic tasks",
        description="Beats that lead at the same time: {{ $value | printf `%.0f` }}. Each of them "
        "sends every periodic task.",
        dashboard="schedule",
        # A scrape may still show the old leader just after a hand-over.
        hold=pace.hold(MINUTE),
    )


def _publish_failed(pace: Pace) -> Alert:
    failures = grown("celery_beat_publish_failures_total", 15 * MINUTE, pace)
    return Alert(
        "CeleryBeatPublishFailed",
        WARNING,
        "Beat could not send an occurrence of a periodic task",
        f"sum by (namespace, entry) ({failures}) > 0",
        summary="A periodic task could not be sent",
        description="{{ $labels.entry }} could not be sent {{ $value | printf `%.0f` }} times in "
        "15 minutes.",
        dashboard="schedule",
    )

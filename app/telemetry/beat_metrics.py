"""What beat says of its schedule (``telemetry.schedulers``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry

from telemetry.instruments import counter, gauge, histogram
from telemetry.metrics_server import REGISTRY


def occurrence_after(schedule: Any, moment: datetime) -> datetime:
    """Return when a schedule (interval, crontab, sunrise, a date) wants to run after a moment."""
    # A crontab with a zone of its own reads the moment as it is.
    local = moment.astimezone(schedule.tz)
    remaining: timedelta = schedule.remaining_estimate(local)
    return datetime.now(UTC) + remaining


def interval_seconds(schedule: Any) -> float | None:
    """Return the seconds between the next two occurrences; None for what happens once."""
    every = getattr(schedule, "run_every", None)
    if every is not None:
        return float(every.total_seconds())
    first = occurrence_after(schedule, datetime.now(UTC))
    second = occurrence_after(schedule, first)
    # Not exactly: each of them was computed from a clock that went on in between.
    seconds = round((second - first).total_seconds())
    return float(seconds) if seconds > 0 else None


def due_moment(entry: Any, not_before: datetime | None = None) -> datetime:
    """Return when an entry (``django_celery_beat.schedulers.ModelEntry``) is due next.

    That is after its last run, or after ``not_before`` if that is later.
    """
    last = max(entry.last_run_at, not_before or entry.last_run_at)
    due = occurrence_after(entry.schedule, last)
    starts = entry.model.start_time
    return max(due, starts) if starts else due


class BeatMetrics:
    """The metrics of a beat. It stands by until told otherwise."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tick = gauge("celery_beat_last_tick_timestamp_seconds", registry)
        self._leader = gauge("celery_beat_leader", registry)
        self._entries = gauge("celery_beat_entries", registry)
        self._last_sent = gauge("celery_beat_entry_last_sent_timestamp_seconds", registry)
        self._interval = gauge("celery_beat_entry_interval_seconds", registry)
        self._sent = counter("celery_beat_sent_total", registry)
        self._failures = counter("celery_beat_publish_failures_total", registry)
        self._lag = histogram("celery_beat_schedule_lag_seconds", registry)
        self._held: set[str] = set()

    def ticked(self) -> None:
        """Note that it has looked at its schedule, or for the right to."""
        self._tick.set_to_current_time()

    def leads(self) -> None:
        """Note that this beat sends."""
        self._leader.set(1)

    def stands_by(self) -> None:
        """Note that this beat sends nothing. What it knows of its entries stays, and grows old."""
        self._leader.set(0)

    def holds(self, entries: Mapping[str, Any]) -> None:
        """Take a new schedule: name -> entry. Its counters begin at 0, and others' gauges end."""
        self._entries.set(len(entries))
        for name in self._held - entries.keys():
            self._last_sent.remove(name)
            self._interval.remove(name)
        self._held = set(entries)
        for name, entry in entries.items():
            self._sent.labels(name)
            self._failures.labels(name)
            self._last_sent.labels(name).set(entry.last_run_at.timestamp())
            self._note_interval(entry)

    def sent(self, entry: Any, *, due: datetime) -> None:
        """Note that an occurrence of an entry was sent now, and was due at a moment."""
        now = datetime.now(UTC)
        self._sent.labels(entry.name).inc()
        self._last_sent.labels(entry.name).set(now.timestamp())
        self._lag.observe(max(0.0, (now - due).total_seconds()))
        self._note_interval(entry)

    def not_sent(self, names: Iterable[str]) -> None:
        """Note that an occurrence of each of these entries could not be sent."""
        for name in names:
            self._failures.labels(name).inc()

    def _note_interval(self, entry: Any) -> None:
        seconds = interval_seconds(entry.schedule)
        if seconds is not None:
            self._interval.labels(entry.name).set(seconds)


@cache
def of_this_process() -> BeatMetrics:
    """Return the metrics of the beat that this process is; made when first asked for."""
    return BeatMetrics(REGISTRY)

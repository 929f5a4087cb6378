"""The id of an occurrence: the same for every beat that sends it, another one for the next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from celery.schedules import crontab, schedule
from hypothesis import example, given
from hypothesis import strategies as st

from delivery.leadership import IDLE_LIMIT_SECONDS
from telemetry.schedulers import LEADER_SECONDS, STANDBY_SECONDS, occurrence_id

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def test_within_a_slot_it_is_the_same_and_in_the_next_another() -> None:
    often = schedule(timedelta(seconds=10))
    first = occurrence_id("often", often, NOON)

    assert occurrence_id("often", often, NOON + timedelta(seconds=9.99)) == first
    assert occurrence_id("often", often, NOON + timedelta(seconds=10)) != first
    assert occurrence_id("other", often, NOON) != first


def test_a_crontab_has_a_slot_each_minute_in_whatever_zone() -> None:
    nightly = crontab(minute="0", hour="12")
    first = occurrence_id("nightly", nightly, NOON)

    berlin = NOON.astimezone(timezone(timedelta(hours=1)))
    assert occurrence_id("nightly", nightly, berlin + timedelta(seconds=59)) == first
    assert occurrence_id("nightly", nightly, NOON + timedelta(seconds=60)) != first


@example(every=0.3, start=datetime(2026, 1, 1))  # noqa: DTZ001
@given(
    every=st.floats(min_value=0.1, max_value=86_400),
    start=st.datetimes(min_value=datetime(2026, 1, 1), max_value=datetime(2030, 1, 1)),  # noqa: DTZ001
)
def test_two_runs_of_an_interval_never_share_a_slot(every: float, start: datetime) -> None:
    step = timedelta(seconds=every)
    moment = start.replace(tzinfo=UTC)
    ids = {occurrence_id("often", schedule(step), moment + number * step) for number in range(20)}

    assert len(ids) == 20


def test_a_leader_shows_itself_more_often_than_its_session_may_be_idle() -> None:
    assert 2 * LEADER_SECONDS < IDLE_LIMIT_SECONDS
    assert STANDBY_SECONDS < IDLE_LIMIT_SECONDS

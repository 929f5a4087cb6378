"""Settings of a beat whose lock has another number: it does not see the one that leads."""

from alert_settings import *  # noqa: F403 - all but one are the same

CELERY_BEAT_SCHEDULER = "alert_causes.second_beat:UnlockedScheduler"

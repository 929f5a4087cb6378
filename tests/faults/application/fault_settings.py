"""The real settings, and on top of them the app through which the fault suite submits work."""

from config.settings import *  # noqa: F403 - the settings under test are all of them
from config.settings import CELERY_BEAT_SCHEDULE, INSTALLED_APPS

INSTALLED_APPS.append("fault_effects")
ROOT_URLCONF = "fault_effects.urls"
#: Seconds between two ticks: short enough to count many of them in one test.
TICK_SECONDS = 2.0
CELERY_BEAT_SCHEDULE["faults-tick"] = {
    "task": "faults.tick",
    "schedule": TICK_SECONDS,
    "options": {"expires": 60.0},
}

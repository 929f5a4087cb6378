"""The real settings, and on top of them the app whose tasks and views cause alerts."""

from config.settings import *  # noqa: F403 - the settings under test are all of them
from config.settings import INSTALLED_APPS

INSTALLED_APPS.append("alert_causes")
ROOT_URLCONF = "alert_causes.urls"

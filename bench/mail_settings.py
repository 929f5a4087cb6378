"""The project's settings with the mail backend that has a bug."""

from config.settings import *  # noqa: F403 - the settings that are measured are all of them

EMAIL_BACKEND = "bench.mail.Backend"

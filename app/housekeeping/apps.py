"""Housekeeping as a Django app."""

from django.apps import AppConfig


class HousekeepingConfig(AppConfig):
    """Periodic work."""

    name = "housekeeping"

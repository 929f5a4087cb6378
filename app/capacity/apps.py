"""The capacity workload as a Django app."""

from django.apps import AppConfig


class CapacityConfig(AppConfig):
    """The capacity planner."""

    name = "capacity"

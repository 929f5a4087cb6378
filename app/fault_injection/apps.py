"""Faults on purpose as a Django app."""

from django.apps import AppConfig


class FaultInjectionConfig(AppConfig):
    """Faults on purpose."""

    name = "fault_injection"

"""Telemetry as a Django app."""

from django.apps import AppConfig


class TelemetryConfig(AppConfig):
    """What processes say about themselves."""

    name = "telemetry"

"""The console as a Django app."""

from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    """The page people open first, and the HTTP API."""

    name = "console"

"""The relay role: publishes what is due until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
from argparse import ArgumentParser
from importlib import import_module
from typing import Any

from celery import current_app
from django.conf import settings
from django.core.management.base import BaseCommand

from delivery.relay import Relay
from telemetry import heartbeat, metrics_server, presence, sent_messages, tracing
from telemetry.relay_metrics import RelayMetrics


class Command(BaseCommand):
    """Run the relay and note for the probe that it goes round."""

    help = "Publishes deliveries that are due or whose message was lost (delivery.relay)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take modules of tasks, as the worker does."""
        parser.add_argument("--include", action="append", default=[], help="a module with tasks")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until a signal comes."""
        for module in options["include"]:
            import_module(module)
        relay = Relay(current_app, RelayMetrics(current_app, metrics_server.REGISTRY))
        sent_messages.count(current_app, metrics_server.REGISTRY)
        presence.begin(settings.SERVICE_NAME)
        tracing.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: relay.stop())
        metrics_server.serve()
        try:
            relay.run()
        finally:
            heartbeat.forget()

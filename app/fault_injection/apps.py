"""Faults on purpose as a Django app."""

from typing import Any

from celery import signals
from django.apps import AppConfig
from django.conf import settings


class FaultInjectionConfig(AppConfig):
    """Faults on purpose."""

    name = "fault_injection"

    def ready(self) -> None:
        """Teach workers to pause, if faults are wanted; only workers load the code for it."""
        signals.celeryd_init.connect(prepare_worker, dispatch_uid="fault-injection")


def prepare_worker(instance: Any, **_: Any) -> None:
    """Give a worker that is about to start the commands that break it, unless they are off."""
    if settings.FAULT_INJECTION:
        from fault_injection import pausing  # noqa: PLC0415 - it imports Celery's worker

        pausing.install(instance.app)

"""Traces for an OpenTelemetry collector, where ``OTEL_EXPORTER_OTLP_ENDPOINT`` names one.

Elsewhere nothing of OpenTelemetry is imported, in no process (docs/decisions/0027). What is sent,
and how, is in ``telemetry.spans``.
"""

from __future__ import annotations

from django.conf import settings


def install() -> None:
    """Have this program make spans, if that is on. Before it forks, and before it serves."""
    if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
        from telemetry import spans  # noqa: PLC0415 - only where it is on

        spans.install()


def start() -> None:
    """Have this process send its spans, if that is on. After the fork: it starts a thread.

    Pool processes of a worker, and beat, do it by themselves.
    """
    if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
        from telemetry import spans  # noqa: PLC0415 - as above

        spans.start()

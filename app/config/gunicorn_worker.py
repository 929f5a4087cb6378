"""The process in which gunicorn runs the ASGI application (why uvicorn: docs/decisions/0006)."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

from django.conf import settings
from uvicorn_worker import UvicornWorker

from telemetry import presence, tracing


class Worker(UvicornWorker):
    """Uvicorn under gunicorn: gunicorn restarts what dies, uvicorn speaks HTTP and WebSocket."""

    CONFIG_KWARGS: dict[str, Any] = {
        # Django has no ASGI lifespan.
        "lifespan": "off",
        # Progress messages are small; clients have nothing to say.
        "ws_max_size": 64 * 1024,
        # Most are small; compressing each for each client would cost more than it saves.
        "ws_per_message_deflate": False,
        # Open WebSockets must not hold up a restart: their clients reconnect.
        "timeout_graceful_shutdown": 15,
        # django-structlog logs each request, with its id.
        "access_log": False,
        "server_header": False,
    }

    def init_signals(self) -> None:
        """Leave by an exception, so that ``run`` can tidy up.

        Uvicorn raises the signal that ended it once more, for the handler that was there before;
        by default the process would end on the spot.
        """
        super().init_signals()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)

    def run(self) -> None:
        """Serve until told to stop, and be seen meanwhile."""
        tracing.start()
        presence.begin(settings.SERVICE_NAME)
        presence.note(presence.SERVING)
        try:
            super().run()
        finally:
            presence.end()

    async def callback_notify(self) -> None:
        """Tell gunicorn, and whoever else looks, that the loop turns (every ``timeout`` / 2)."""
        presence.note(presence.SERVING)
        from telemetry import web_metrics  # noqa: PLC0415 - only once Django is ready

        web_metrics.note_pool()
        await super().callback_notify()


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)

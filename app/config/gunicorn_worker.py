"""The process in which gunicorn runs the ASGI application (why uvicorn: docs/decisions/0006)."""

from __future__ import annotations

from typing import Any

from uvicorn_worker import UvicornWorker


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

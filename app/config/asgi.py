"""HTTP and WebSocket entry point of the web service."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django_application = get_asgi_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402 - needs the apps to be loaded
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.conf import settings  # noqa: E402
from django.urls import path  # noqa: E402

from console.authentication import caller_of_scope, origin_checked_for_sessions  # noqa: E402
from console.request_size import RequestSizeLimit  # noqa: E402
from jobs.live import JobConsumer  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": RequestSizeLimit(django_application, settings.MAX_REQUEST_BYTES),
        "websocket": origin_checked_for_sessions(
            AuthMiddlewareStack(
                URLRouter(
                    [
                        path(
                            "ws/jobs/<uuid:job_id>",
                            JobConsumer.as_asgi(identify=caller_of_scope),
                        )
                    ]
                )
            )
        ),
    }
)

"""HTTP and WebSocket entry point of the web service."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter  # noqa: E402 - needs the apps to be loaded
from django.conf import settings  # noqa: E402
from django.urls import path  # noqa: E402

from console.authentication import caller_of_scope  # noqa: E402
from console.request_size import RequestSizeLimit  # noqa: E402
from console.sockets import web_sockets  # noqa: E402
from jobs.consumers import JobConsumer  # noqa: E402
from telemetry import web_metrics  # noqa: E402

web_metrics.begin()

jobs = JobConsumer.as_asgi(identify=caller_of_scope)
application = ProtocolTypeRouter(
    {
        "http": RequestSizeLimit(
            django_application, settings.MAX_REQUEST_BYTES, settings.MAX_UPLOADS_BYTES
        ),
        "websocket": web_sockets([path("ws/jobs", jobs), path("ws/jobs/<uuid:job_id>", jobs)]),
    }
)

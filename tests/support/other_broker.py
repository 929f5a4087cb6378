"""Another broker for what this process publishes."""

from __future__ import annotations

import pytest
from celery import current_app


def publish_to(url: str, patch: pytest.MonkeyPatch) -> None:
    """Have this process publish to a broker of its own, until the patch is undone.

    Celery keeps the pools of both: without them, what follows would publish there too.
    """
    patch.setattr(current_app.conf, "broker_write_url", url)
    patch.setattr(current_app.amqp, "_producer_pool", None)
    patch.setattr(current_app, "_pool", None)

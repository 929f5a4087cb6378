"""Errors for a Sentry (or a server that speaks its protocol), where ``SENTRY_DSN`` names one.

Elsewhere nothing of it is imported. Reported are exceptions that nobody expected: of a view, and of
the attempt at a task that was its last. What is tried again is no report, or a mail server that is
away for an hour would be thousands of them. Failures are taken from Celery's signal, which a task
that succeeds never sends; Sentry's own integration wraps each task (docs/decisions/0027).
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any, Final

import structlog
from billiard.exceptions import TimeLimitExceeded
from celery import signals
from django.conf import settings

#: Seconds that a process that stops waits for its last reports to be sent.
STOP_SECONDS: Final = 2
#: Of the log's context, what a report says as tags, to be searched for.
TAGS: Final = ("request_id", "trace_id", "task_id", "parent_task_id", "job_id", "queue", "attempt")

#: Tasks that were reported as killed for their time limit.
_killed: deque[str] = deque(maxlen=100)


def install() -> None:
    """Have this program report its errors, if that is on; also the processes it forks later."""
    if not settings.SENTRY_DSN:
        return
    import sentry_sdk  # noqa: PLC0415 - only where it is on
    from sentry_sdk.integrations.atexit import AtexitIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.dedupe import DedupeIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.django import DjangoIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.excepthook import ExcepthookIntegration  # noqa: PLC0415

    sentry_sdk.init(
        dsn=settings.SENTRY_DSN,
        release=f"celeriac@{settings.VERSION}+{settings.REVISION}",
        environment=settings.SENTRY_ENVIRONMENT,
        integrations=[
            # No spans, no signals: it only has to see what a view raises.
            DjangoIntegration(middleware_spans=False, signals_spans=False, cache_spans=False),
            ExcepthookIntegration(),
            DedupeIntegration(),
            # Its own notice is text between the lines of the log.
            AtexitIntegration(callback=lambda _pending, _timeout: None),
        ],
        # The default ones report each line of the log at level error a second time, and note others
        # with addresses in them.
        default_integrations=False,
        auto_enabling_integrations=False,
        before_send=_with_context,
        # What people write, and who they are, stays here: no bodies, cookies, addresses, arguments.
        send_default_pii=False,
        max_request_body_size="never",
        include_local_variables=False,
        max_breadcrumbs=0,
        # Traces go another way (telemetry.tracing).
        traces_sample_rate=None,
        auto_session_tracking=False,
        send_client_reports=False,
        shutdown_timeout=STOP_SECONDS,
    )
    os.register_at_fork(after_in_child=_send_for_itself)
    signals.task_failure.connect(_report, weak=False, dispatch_uid="telemetry-error-reports")
    signals.worker_process_shutdown.connect(
        _send_what_is_left, weak=False, dispatch_uid="telemetry-error-reports"
    )


def _report(sender: Any, task_id: str, exception: BaseException, **_: Any) -> None:
    """Report a task that has failed for good, unless it says itself that it may (``throws``)."""
    import sentry_sdk  # noqa: PLC0415 - as above

    if isinstance(exception, getattr(sender, "throws", ())):
        return
    if isinstance(exception, TimeLimitExceeded):
        # Celery tells twice, when it kills the process and when that is gone.
        if task_id in _killed:
            return
        _killed.append(task_id)
    with sentry_sdk.new_scope() as scope:
        scope.set_transaction_name(sender.name, source="task")
        sentry_sdk.capture_exception(exception)


def _send_for_itself() -> None:
    """Give a forked process a way of its own to the server.

    Its parent's connection would mix the reports of both, its queue holds what the parent sends,
    and its locks may be held by a thread that is not here. Sentry's own start a new thread, and
    keep these.
    """
    import sentry_sdk  # noqa: PLC0415 - as above
    from sentry_sdk.transport import make_transport  # noqa: PLC0415 - as above

    client = sentry_sdk.get_client()
    if client.is_active():
        client.transport = make_transport(client.options)


def _send_what_is_left(**_: Any) -> None:
    """Do for a pool process what other processes do when they end."""
    import sentry_sdk  # noqa: PLC0415 - as above

    sentry_sdk.flush(STOP_SECONDS)


def _with_context(event: Any, _hint: dict[str, Any]) -> Any:
    """Say which request, task and service it was; leave out what may be about a person."""
    said = structlog.contextvars.get_contextvars()
    tags = {name: str(said[name]) for name in TAGS if name in said}
    event["tags"] = {**(event.get("tags") or {}), "service": settings.SERVICE_NAME, **tags}
    request = event.get("request")
    if request is not None:
        event["request"] = {name: request[name] for name in ("method", "url") if name in request}
    event.pop("user", None)
    return event

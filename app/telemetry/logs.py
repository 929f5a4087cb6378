"""Structured logs for every role: one line for each event, on standard output.

Context that is bound anywhere (request_id, task_id, job_id ...) is part of every later line of
the same request or task; django-structlog carries it from the web process to the worker.
"""

from __future__ import annotations

import logging.config
from typing import Any

import structlog
from structlog.typing import EventDict, Processor


def configure(options: dict[str, str]) -> None:
    """Configure structlog and the standard library's logging alike (Django's ``LOGGING_CONFIG``).

    Args:
        options: See ``standard_library_configuration``.
    """
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(options["service"]),
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(standard_library_configuration(options))
    # Warnings are lines of the log too, not text between them.
    logging.captureWarnings(capture=True)


def _shared(service: str) -> list[Processor]:
    """Return what happens to each event, whichever library it was logged with."""

    def add_service(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
    ]


def standard_library_configuration(options: dict[str, str]) -> dict[str, Any]:
    """Return the ``logging.config.dictConfig`` dictionary.

    Args:
        options: ``level`` (a logging level's name), ``format`` (``json`` or ``console``) and
            ``service`` (added to each line).
    """
    renderer: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(sort_keys=True)]
        if options["format"] == "json"
        else [structlog.dev.ConsoleRenderer()]
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": structlog.stdlib.ProcessorFormatter,
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    *renderer,
                ],
                "foreign_pre_chain": [*_shared(options["service"]), structlog.stdlib.ExtraAdder()],
            }
        },
        "handlers": {
            "output": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "line",
            }
        },
        "root": {"handlers": ["output"], "level": options["level"]},
        "loggers": {
            # Says everything a second time: django_structlog logs tasks with their ids.
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.app.trace": {"level": "WARNING"},
            # django_structlog logs each request. Errors stay: not all of them happen in a view.
            "django.request": {"level": "ERROR"},
            "django.server": {"level": "WARNING"},
            # billiard switches off propagation, and would print to standard error as text.
            "multiprocessing": {"handlers": ["output"], "propagate": False},
            # Gunicorn's worker hands this handler to uvicorn, which would log to nowhere without.
            "gunicorn.error": {"handlers": ["output"], "propagate": False},
        },
    }

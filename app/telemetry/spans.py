"""Makes spans of requests, tasks and SQL, and sends them by OTLP over HTTP (``telemetry.tracing``).

A trace begins with a request, or with a task that nobody asked for, and goes on through the ledger:
the row keeps the trace of its caller, so that it continues with a message that the relay publishes
an hour later.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

import structlog
from celery import current_app, signals
from celery.concurrency import prefork
from django.conf import settings
from django_structlog.celery.signals import bind_extra_task_metadata
from opentelemetry import context, propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.instrumentation.celery import utils as celery_spans
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanKind
from opentelemetry.util.re import parse_env_headers

from delivery import origin

logger = structlog.get_logger(__name__)

#: Where the trace of the caller is, in a delivery's options.
TRACE: Final = "trace"
#: Seconds that a batch may take to be sent, with retries. Its thread waits, and nobody else.
SEND_SECONDS: Final = 5.0
#: Seconds that a process that stops waits for its last spans to be sent.
STOP_SECONDS: Final = 2.0
#: Of the log's context, what a task's span says too.
SAID_BY_SPANS: Final = ("request_id", "task_id", "parent_task_id", "job_id")
#: What may begin a trace. SQL of threads that keep themselves busy may not.
BEGINNINGS: Final = frozenset({SpanKind.SERVER, SpanKind.PRODUCER, SpanKind.CONSUMER})
#: Loggers of the library that repeat themselves while the collector is away.
REPEATING: Final = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)


class WorkOnly(Sampler):
    """Samples what belongs to a request or a task as another sampler does, and drops the rest."""

    def __init__(self, work: Sampler) -> None:
        self._work = work

    def should_sample(  # noqa: PLR0917 - as the library calls it
        self,
        parent_context: context.Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Any = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        """Decide on a span that begins."""
        parent = trace.get_current_span(parent_context).get_span_context()
        if not parent.is_valid and kind not in BEGINNINGS:
            return SamplingResult(Decision.DROP)
        return self._work.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        """Name it, for people who debug."""
        return f"WorkOnly({self._work.get_description()})"


class OncePerOutage(logging.Filter):
    """Lets the first complaint about a collector that is away through, and no other."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a line is news."""
        if record.levelno < logging.WARNING:
            return True
        news, self.away = not self.away, True
        return news


_outage = OncePerOutage()


class Exporter(OTLPSpanExporter):
    """Sends spans; what cannot be sent in time is lost, and the log says so once."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, in the thread of the processor."""
        result = super().export(spans)
        if result is SpanExportResult.SUCCESS and _outage.away:
            _outage.away = False
            logger.info("traces_are_sent_again")
        return result


class Processor(BatchSpanProcessor):
    """Sends batches from a thread, and holds up nobody for long who stops."""

    def shutdown(self) -> None:
        """Send what is left, within ``STOP_SECONDS`` or not at all (the library's own: 30)."""
        self._batch_processor.shutdown(timeout_millis=int(STOP_SECONDS * 1000))


_provider: TracerProvider | None = None


def install() -> None:
    """Instrument Django, Celery and psycopg, and have deliveries keep the trace of their caller.

    Nothing is sent, and no thread runs, until ``start``.
    """
    # Behind the middleware that answers probes: nobody wants a trace of each.
    DjangoInstrumentor().instrument(middleware_position=1, request_hook=_begin_request)
    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]  # its class has none
    PsycopgInstrumentor().instrument()
    amqp: Any = current_app.amqp
    amqp.send_task_message = _ending_spans(amqp.send_task_message)
    bind_extra_task_metadata.connect(_begin_task, dispatch_uid="telemetry-spans")
    origin.carry(TRACE, origin.Carrier(_captured, _restored))
    signals.worker_process_init.connect(start, weak=False, dispatch_uid="telemetry-spans")
    signals.worker_process_shutdown.connect(stop, weak=False, dispatch_uid="telemetry-spans")
    signals.worker_ready.connect(_start_without_pool, weak=False, dispatch_uid="telemetry-spans")
    signals.beat_init.connect(start, weak=False, dispatch_uid="telemetry-spans")
    for name in REPEATING:
        logging.getLogger(name).addFilter(_outage)


def start(**_: Any) -> None:
    """Send the spans of this process from now on, until it ends."""
    global _provider  # noqa: PLW0603 - a process has one
    if _provider is not None:
        return
    sampler = ParentBased(TraceIdRatioBased(settings.OTEL_TRACES_SAMPLER_ARG))
    # Not its own end: that waits as long as the collector likes.
    _provider = TracerProvider(WorkOnly(sampler), _resource(), shutdown_on_exit=False)
    exporter = Exporter(
        f"{settings.OTEL_EXPORTER_OTLP_ENDPOINT.rstrip('/')}/v1/traces",
        headers=parse_env_headers(settings.OTEL_EXPORTER_OTLP_HEADERS, liberal=True),
        timeout=SEND_SECONDS,
    )
    _provider.add_span_processor(Processor(exporter))
    trace.set_tracer_provider(_provider)
    # Pool processes end without it, and get a signal instead.
    atexit.register(stop)


def stop(**_: Any) -> None:
    """Send what is left. Spans that end later are lost."""
    if _provider is not None:
        _provider.shutdown()


def _start_without_pool(sender: Any, **_: Any) -> None:
    """Start in a worker whose tasks run in its main process (threads)."""
    if not isinstance(sender.pool, prefork.TaskPool):
        start()


def _resource() -> Resource:
    return Resource.create(
        {
            "service.name": settings.SERVICE_NAME,
            "service.namespace": "celeriac",
            "service.version": f"{settings.VERSION}+{settings.REVISION}",
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        }
    )


def _begin_request(span: trace.Span, _request: Any) -> None:
    _name_trace(span)


def _begin_task(**_: Any) -> None:
    span = trace.get_current_span()
    _name_trace(span)
    said = structlog.contextvars.get_contextvars()
    span.set_attributes({name: said[name] for name in SAID_BY_SPANS if name in said})


def _name_trace(span: trace.Span) -> None:
    """Have the log name the trace, if it is one that is sent."""
    if span.is_recording():
        name = trace.format_trace_id(span.get_span_context().trace_id)
        structlog.contextvars.bind_contextvars(trace_id=name)


def _ending_spans(send: Callable[..., Any]) -> Callable[..., Any]:
    """Return Celery's function that publishes; it also ends the span of a failed publication.

    The instrumentation does it in the signal after publishing alone: without it the span would stay
    the current one of this thread, parent of whatever comes next, and never be sent.
    """

    @wraps(send)
    def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
        token = context.attach(context.get_current())
        try:
            return send(producer, name, message, **options)
        except BaseException as error:
            _end_publication(name, message.headers["id"], error)
            raise
        finally:
            context.detach(token)

    return send_task_message


def _end_publication(name: str, task_id: str, error: BaseException) -> None:
    task = current_app.tasks.get(name)
    found = celery_spans.retrieve_context(task, task_id, is_publish=True)
    if found is None:
        return
    celery_spans.detach_context(task, task_id, is_publish=True)
    _span, activation, _token = found
    activation.__exit__(type(error), error, error.__traceback__)


def _captured() -> dict[str, str]:
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


@contextmanager
def _restored(carrier: Mapping[str, Any]) -> Iterator[None]:
    token = context.attach(propagate.extract(carrier, context.Context()))
    try:
        yield
    finally:
        context.detach(token)

"""The part of a worker that talks to the broker, made to note what it is doing."""

from __future__ import annotations

import time
from typing import Any, Final

from celery import bootsteps
from celery.worker.consumer import Consumer
from django.conf import settings
from prometheus_client import CollectorRegistry

from delivery.room import FullBrokerError
from telemetry import heartbeat, metrics_server, presence, worker_requests
from telemetry.worker_metrics import WorkerMetrics
from telemetry.worker_state import WorkerState

#: Seconds between two trials to consume from a broker that has no room for what that needs.
FULL_BROKER_PAUSE_SECONDS: Final = 2.0


class Heartbeat(bootsteps.StartStopStep):
    """Notes from the consumer's own loop, so a stuck loop stops the notes.

    A step of the *consumer*, because steps of the worker lose their timer at the first reconnect
    and never get it back. It starts after the consumer of tasks: "consuming" is then true.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self.timer: Any = None
        # The node's name, because all workers have the same role: worker-bulk@host.
        presence.begin(str(consumer.hostname).partition("@")[0])

    def start(self, consumer: Any) -> None:
        """Begin to note; called again after each reconnect."""
        consumer.is_connected = True
        self._note(consumer)
        self.timer = consumer.timer.call_repeatedly(
            heartbeat.INTERVAL_SECONDS, self._note, (consumer,)
        )

    def stop(self, consumer: Any) -> None:
        """Say that nothing is consumed; called when the connection is lost and at the end."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()
        consumer.is_connected = False
        heartbeat.note(heartbeat.RECONNECTING)

    def shutdown(self, consumer: Any) -> None:
        """Leave no file behind that says a stopped worker is alive."""
        heartbeat.forget()

    def _note(self, consumer: Any) -> None:
        # Asked each time: a worker can be told to pause, or to leave a queue alone.
        if consumer.paused:
            heartbeat.note(heartbeat.PAUSED)
        else:
            queues = [queue.name for queue in consumer.task_consumer.queues]
            heartbeat.note(heartbeat.CONSUMING, queues)


# The class is an attribute of an untyped one.
_Blueprint: Any = Consumer.Blueprint


class WatchedConsumer(Consumer):
    """Celery's consumer that also says what it does (``worker_consumer``).

    It notes each attempt to reconnect: without a broker the consumer's timers stand still, and only
    this tells a worker that waits for the broker from one that is stuck. And it serves the worker's
    metrics.

    Attributes:
        paused: Whether somebody has told it to take no messages; it may say so in its notes.
        is_connected: Whether it takes messages from the broker, unless it is paused.
        metrics: What it counts; None where metrics are served nowhere.
    """

    paused = False
    is_connected = False
    metrics: WorkerMetrics | None = None

    class Blueprint(_Blueprint):
        """Celery's steps and ours."""

        default_steps = [*_Blueprint.default_steps, Heartbeat]

    def start(self) -> None:
        """Serve the metrics, then consume.

        Not earlier: the pool has its processes by now, and they do not hold the port.
        """
        if settings.METRICS_PORT:
            self._serve_metrics(metrics_server.REGISTRY)
        super().start()

    def add_task_queue(self, queue: Any, *arguments: Any, **options: Any) -> Any:
        """Take messages from one more queue (``celery control add_consumer``)."""
        added = super().add_task_queue(queue, *arguments, **options)
        self._give_birth()
        return added

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Count a message whose task is unknown here; Celery makes no request of it."""
        if self.metrics is not None:
            self.metrics.queue(str(message.delivery_info["routing_key"])).met_unknown_task()
        super().on_unknown_task(body, message, exc)

    def _serve_metrics(self, registry: CollectorRegistry) -> None:
        self.metrics = WorkerMetrics(registry, settings.QUEUE_WAIT_TARGETS)
        worker_requests.install(self.metrics)
        registry.register(WorkerState(self))
        self._give_birth()
        metrics_server.serve()

    def _give_birth(self) -> None:
        """Make the series of all tasks that may come, before the first one does."""
        if self.metrics is None:
            return
        router = self.app.amqp.router
        tasks = {name: str(router.route({}, name)["queue"].name) for name in self.app.tasks}
        self.metrics.give_birth(tasks, list(self.app.amqp.queues.consume_from))

    def ensure_connected(self, connection: Any) -> Any:
        """Connect, noting each failed attempt (at most some 35 s apart)."""
        establish = connection.ensure_connection

        def ensure_connection(report: Any, *arguments: Any, **options: Any) -> Any:
            def note_and_report(*details: Any) -> Any:
                heartbeat.note(heartbeat.RECONNECTING)
                return report(*details)

            return establish(note_and_report, *arguments, **options)

        connection.ensure_connection = ensure_connection
        return super().ensure_connected(connection)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Leave a full broker in peace for a moment: it lets one connect, and Celery is at once."""
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, FullBrokerError):
            heartbeat.note(heartbeat.RECONNECTING)
            time.sleep(FULL_BROKER_PAUSE_SECONDS)

"""The part of a worker that talks to the broker, made to note what it is doing."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer

from telemetry import heartbeat, presence


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
        self._note(consumer)
        self.timer = consumer.timer.call_repeatedly(
            heartbeat.INTERVAL_SECONDS, self._note, (consumer,)
        )

    def stop(self, consumer: Any) -> None:
        """Say that nothing is consumed; called when the connection is lost and at the end."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()
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
    """Celery's consumer that also notes each attempt to reconnect (``worker_consumer``).

    Without a broker the consumer's timers stand still, and only this tells a worker that waits
    for the broker from one that is stuck.

    Attributes:
        paused: Whether somebody has told it to take no messages; it may say so in its notes.
    """

    paused = False

    class Blueprint(_Blueprint):
        """Celery's steps and ours."""

        default_steps = [*_Blueprint.default_steps, Heartbeat]

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

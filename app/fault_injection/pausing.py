"""A worker that is alive and takes no messages, for some seconds.

Loaded in workers only, and only where ``FAULT_INJECTION`` is true.
"""

from __future__ import annotations

import time
from typing import Any, Final

import structlog
from celery import bootsteps
from celery.worker.control import control_command

from telemetry import heartbeat

logger = structlog.get_logger(__name__)

#: A worker that was told to pause for longer refuses.
LONGEST_PAUSE_SECONDS: Final = 300.0


class Pausing(bootsteps.StartStopStep):
    """Pauses the consumer of tasks, until its own clock says that it is over.

    The consumer stays connected and subscribed; only asking for messages stops. So a paused worker
    is what a stuck one looks like from outside. Messages that it holds already are worked on, and
    one more if it was just asking. A lost connection does not end the pause: it is applied to the
    next one, for what is left of it. If the worker ends, so does the pause.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.pausing = self
        self._consumer = consumer
        self._until = 0.0
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Go on pausing after a reconnect, or note that it is over."""
        if consumer.paused:
            self._apply()

    def stop(self, consumer: Any) -> None:
        """Forget the timer, which ends with the connection."""
        self._forget_timer()

    def pause(self, seconds: float) -> None:
        """Take no messages for so many seconds from now."""
        self._until = time.monotonic() + seconds
        self._consumer.paused = True
        logger.warning("worker_paused", seconds=seconds)
        self._apply()

    def resume(self) -> None:
        """Take messages again; harmless if it does so already."""
        self._forget_timer()
        if not self._consumer.paused:
            return
        self._consumer.paused = False
        vars(self._qos()).pop("can_consume", None)
        queues = [queue.name for queue in self._consumer.task_consumer.queues]
        heartbeat.note(heartbeat.CONSUMING, queues)
        logger.warning("worker_resumed")

    def _apply(self) -> None:
        self._forget_timer()
        left = self._until - time.monotonic()
        if left <= 0:
            self.resume()
            return
        # What kombu asks before each BRPOP; on this connection's object, so nobody else notices.
        self._qos().can_consume = lambda: False
        self._timer = self._consumer.timer.call_after(left, self.resume)
        heartbeat.note(heartbeat.PAUSED)

    def _qos(self) -> Any:
        return self._consumer.task_consumer.channel.qos

    def _forget_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def pause_consuming(state: Any, seconds: float, **_: Any) -> dict[str, str]:
    """Take no messages for some seconds."""
    if not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST_PAUSE_SECONDS:
        return {"error": f"seconds must be more than 0 and at most {LONGEST_PAUSE_SECONDS:g}"}
    state.consumer.pausing.pause(float(seconds))
    return {"ok": f"paused for {seconds:g} s"}


def resume_consuming(state: Any, **_: Any) -> dict[str, str]:
    """Take messages again."""
    state.consumer.pausing.resume()
    return {"ok": "consuming"}


def install(app: Any) -> None:
    """Give the workers of this process the step and its two commands."""
    app.steps["consumer"].add(Pausing)
    control_command(args=[("seconds", float)], signature="<seconds>")(pause_consuming)
    control_command()(resume_consuming)

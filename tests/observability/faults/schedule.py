"""What happens to beat and the relay."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.embedded.servers import free_port
from tests.observability.faults.fault import Fault, expected, frozen, stopped
from tests.observability.victim import Victim


@contextmanager
def _relay_stopped(victim: Victim) -> Iterator[None]:
    with stopped(victim, "relay"):
        # Only the relay publishes what is due later.
        victim.publish("causes.succeed", options={"countdown": 1})
        yield


@contextmanager
def _second_beat(victim: Victim) -> Iterator[None]:
    """Start a beat that does not see the lock of the first, where Prometheus finds it."""
    port = free_port()
    configuration = victim.stack.state / "monitoring" / "prometheus.yml"
    text = configuration.read_text(encoding="utf-8")
    first = f"127.0.0.1:{victim.stack.values['BEAT_METRICS_PORT']}"
    environment = {
        **victim.stack.runtime._environment,
        "DJANGO_SETTINGS_MODULE": "second_beat_settings",
        "METRICS_PORT": str(port),
        "HEARTBEAT_FILE": str(victim.stack.state / "run" / "second-beat.heartbeat"),
    }
    with (victim.stack.state / "logs" / "second-beat.log").open("wb") as log:
        beat = subprocess.Popen(
            victim.stack.runtime._processes.entrypoint("beat"),
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    found = text.replace(f'"{first}"', f'"{first}", "127.0.0.1:{port}"')
    assert found != text
    try:
        configuration.write_text(found, encoding="utf-8")
        _reload(victim)
        yield
    finally:
        configuration.write_text(text, encoding="utf-8")
        _reload(victim)
        beat.terminate()
        beat.wait(30)


def _reload(victim: Victim) -> None:
    os.kill(victim.target._pid("prometheus"), signal.SIGHUP)


@contextmanager
def _arguments_do_not_fit(victim: Victim) -> Iterator[None]:
    victim.post("/causes/schedule", {"exists": True})
    try:
        yield
    finally:
        victim.post("/causes/schedule", {"exists": False})


RELAY_STOPPED = Fault(
    "the relay is stopped",
    _relay_stopped,
    (expected("CeleryRelayStalled"), expected("CeleryDeliveriesOverdue", queue_name="default")),
)
BEAT_FROZEN = Fault(
    "beat is there and does nothing (SIGSTOP)",
    lambda victim: frozen(victim, "beat"),
    (expected("CeleryBeatStalled"),),
)
SECOND_BEAT = Fault(
    "a second beat does not see the lock of the first",
    _second_beat,
    (expected("CeleryBeatDuplicated"),),
)
MISFIT = Fault(
    "somebody enters a periodic task whose arguments do not fit",
    _arguments_do_not_fit,
    (expected("CeleryBeatPublishFailed", entry="misfit"),),
)

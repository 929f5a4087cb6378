"""Orders to workers, by Celery's remote control; signed like every message."""

from __future__ import annotations

from typing import Any, Final

import structlog
from celery import current_app
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from fault_injection.errors import FaultError

logger = structlog.get_logger(__name__)

#: The service whose workers are paused: it consumes what people wait for.
SERVICE: Final = "worker"
#: Seconds in which workers answer.
ANSWER_SECONDS: Final = 1.0


def workers_pause(seconds: float) -> list[str]:
    """Have the service's workers take no messages for so many seconds; returns their names.

    Raises:
        FaultError: The broker is away, or no worker obeyed.
    """
    answers = _ask("pause_consuming", seconds=seconds)
    obeyed = [name for name, answer in answers.items() if "ok" in answer]
    if not obeyed:
        said = "; ".join(f"{name}: {answer.get('error')}" for name, answer in answers.items())
        raise FaultError(
            f"No worker of the service {SERVICE!r} has paused ({said or 'none answered'}). Does it "
            "run, with FAULT_INJECTION=true?"
        )
    return obeyed


def workers_resume() -> None:
    """Have the service's workers take messages again.

    One that does not hear it goes on by its own clock.
    """
    try:
        _ask("resume_consuming")
    except FaultError as error:
        logger.warning("workers_resume_by_themselves", error=str(error))


def _ask(command: str, **arguments: Any) -> dict[str, dict[str, Any]]:
    try:
        answers = current_app.control.broadcast(
            command,
            arguments=arguments,
            pattern=f"{SERVICE}@*",
            matcher="glob",  # type: ignore[arg-type]  # kombu takes its name
            reply=True,
            timeout=ANSWER_SECONDS,
        )
    except (OperationalError, RedisError, OSError) as error:
        raise FaultError(f"The broker cannot be reached: {error!r}.") from error
    return {name: answer for each in answers or [] for name, answer in each.items()}

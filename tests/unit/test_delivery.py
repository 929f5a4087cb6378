"""The retry policy and the guards, without a broker."""

from __future__ import annotations

from typing import Any

import pytest
from celery.utils.time import get_exponential_backoff_interval
from kombu.transport.redis import Transport
from redis.exceptions import ConnectionError as RedisConnectionError

from delivery import celery_guards, transport
from delivery.errors import PermanentError, TransientError
from delivery.tasks import BaseTask


def test_waits_grow_have_jitter_and_a_ceiling() -> None:
    def waits(retries: int) -> list[int]:
        return [
            get_exponential_backoff_interval(
                factor=BaseTask.retry_backoff,
                retries=retries,
                maximum=BaseTask.retry_backoff_max,
                full_jitter=BaseTask.retry_jitter,
            )
            for _ in range(300)
        ]

    assert max(waits(2)) <= 4
    assert len(set(waits(6))) > 20, "full jitter spreads them"
    assert max(waits(30)) <= BaseTask.retry_backoff_max


def test_what_may_pass_is_tried_again_and_what_cannot_is_not() -> None:
    assert issubclass(ConnectionResetError, BaseTask.autoretry_for)
    assert issubclass(TransientError, BaseTask.autoretry_for)
    assert not issubclass(ValueError, BaseTask.autoretry_for)
    assert PermanentError in BaseTask.dont_autoretry_for


def test_guards_refuse_versions_they_were_not_written_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celery_guards, "_installed", False)
    monkeypatch.setattr(celery_guards, "GUARDED_VERSIONS", {"celery": "5.6.0"})

    with pytest.raises(RuntimeError, match=r"celery_guards was checked with .*5\.6\.0"):
        celery_guards.install()


def test_a_channel_without_a_connection_is_a_connection_error_not_a_crash() -> None:
    class Closed(transport.GuardedChannel):
        def __init__(self) -> None:
            self.connection: Any = None

    with pytest.raises(RedisConnectionError, match="connection is closed"):
        Closed()._connparams()


def test_every_channel_is_a_guarded_one() -> None:
    celery_guards.install()

    assert Transport.Channel is transport.GuardedChannel

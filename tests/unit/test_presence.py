"""A process keeps its row without ever waiting for the database; real processes: integration."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest
from django.db import connection

from telemetry import presence
from tests.support.roles import wait_until


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have connections accepted by something that never answers, like a frozen PostgreSQL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setitem(connection.settings_dict, "PORT", str(server.getsockname()[1]))
        monkeypatch.setitem(connection.settings_dict, "HOST", "127.0.0.1")
        yield


def test_a_database_that_never_answers_holds_up_neither_notes_nor_the_end(
    silent_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "GOODBYE_SECONDS", 0.2)
    keeper = presence.Keeper("frozen")
    began = time.monotonic()
    for number in range(1000):
        keeper.note(presence.SERVING, [str(number)])
    noted = time.monotonic()
    keeper.end()

    assert noted - began < 1
    assert time.monotonic() - noted < 2
    keeper.end()


def test_nothing_is_written_while_no_note_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(presence, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(presence, "STUCK_AFTER_SECONDS", 0.5)
    monkeypatch.setattr(presence.Keeper, "_write", lambda _, statement: written.append(statement))
    keeper = presence.Keeper("stuck")

    def writes_while_noted() -> bool:
        keeper.note(presence.SERVING)
        return len(written) > 1

    wait_until(writes_while_noted, what="it writes")
    wait_until(lambda: time.monotonic() - keeper._noted_at > 1, what="the loop is stuck")
    before = len(written)
    # Many times the interval in which it would write.
    time.sleep(0.2)
    assert len(written) == before

    keeper.note(presence.SERVING)
    wait_until(lambda: len(written) > before, what="it goes on")
    keeper.end()
    assert written[-1] == presence.REMOVE


def test_a_child_leaves_the_row_to_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_keeper", presence.Keeper("parent"))
    child = os.fork()
    if child == 0:
        os._exit(0 if presence._keeper is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert presence._keeper is not None


def test_a_process_that_has_not_begun_notes_nothing() -> None:
    presence.note(presence.SERVING)
    presence.end()
    assert presence._keeper is None

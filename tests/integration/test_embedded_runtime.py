"""The private servers of the embedded runtime: they start, keep data, and survive kill -9."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from deploy.embedded import leftovers
from deploy.embedded.process import PROCESS_MARKER, STACK_MARKER
from deploy.embedded.servers import (
    PostgresServer,
    RedisServer,
    ServerError,
    free_port,
    running,
    wait_until_ready,
)

PASSWORD = 'it\'s a "pass\\word" %d'


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path / "postgres", free_port(), PASSWORD)
    yield server
    server.remove()
    assert not server.home.exists()


@pytest.fixture
def redis(tmp_path: Path) -> RedisServer:
    return RedisServer(tmp_path / "redis", free_port(), PASSWORD)


def execute(server: PostgresServer, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server.url) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_postgres_keeps_data_over_a_restart(postgres: PostgresServer) -> None:
    with running(postgres):
        execute(postgres, "CREATE TABLE kept AS SELECT 7 AS number")
    with running(postgres):
        assert execute(postgres, "SELECT number FROM kept") == [(7,)]


def test_postgres_starts_again_after_kill_9(postgres: PostgresServer) -> None:
    with running(postgres):
        execute(postgres, "CREATE TABLE kept AS SELECT 7 AS number")
        lock = postgres.data / "postmaster.pid"
        main = psutil.Process(int(lock.read_text().split()[0]))
        # The main process first: without it nobody tidies up after the others.
        for process in [main, *main.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    assert lock.exists()
    with running(postgres):
        assert execute(postgres, "SELECT number FROM kept") == [(7,)]


def test_postgres_initialises_again_when_the_first_attempt_was_cut_short(
    postgres: PostgresServer,
) -> None:
    (postgres.home / "data.draft" / "half").mkdir(parents=True)
    with running(postgres):
        assert execute(postgres, "SELECT 1") == [(1,)]


def test_postgres_says_what_to_do_about_another_password(postgres: PostgresServer) -> None:
    with running(postgres):
        pass
    other = PostgresServer(postgres.directory, postgres.port, "another")
    with pytest.raises(ServerError, match="created with another one"), running(other):
        pass


def test_redis_keeps_data_and_wants_its_password(redis: RedisServer) -> None:
    with running(redis):
        assert redis.probe() is None
        stranger = RedisServer(redis.directory, redis.port, "wrong")
        assert "WRONGPASS" in str(stranger.probe())
        assert not any(PASSWORD in part for part in redis.command)
    assert (redis.directory / "redis.conf").stat().st_mode & 0o777 == 0o600
    with running(redis):
        assert redis.probe() is None


def test_a_server_that_does_not_answer_is_named(redis: RedisServer) -> None:
    with pytest.raises(ServerError, match=r"redis does not answer after 0\.2 s"):
        wait_until_ready(redis, 0.2)


def test_leftovers_are_found_by_their_mark_and_stopped(
    tmp_path: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STACK_MARKER, str(tmp_path))
    monkeypatch.setenv(PROCESS_MARKER, "redis")
    with running(redis):
        found = leftovers.find(tmp_path)
        assert [process.pid for process in found] != []
        assert os.getpid() not in [process.pid for process in found]
        assert leftovers.listening_ports(tmp_path) == {redis.port}

        began = time.monotonic()
        leftovers.stop(tmp_path)

        assert leftovers.find(tmp_path) == []
        assert time.monotonic() - began < 10

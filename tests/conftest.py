"""Fixtures: a real PostgreSQL, a real Redis, a real mail server, real roles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError
from django.core.management.commands import flush
from django.db import OperationalError
from redis import Redis

from delivery.queue_lists import lists_of
from deploy.embedded.servers import PostgresServer, RedisServer, running
from deploy.embedded.servers.redis import READERS
from tests.support import environment
from tests.support.mail_sink import MailSink, running_mail_sink
from tests.support.roles import DURABLE_TASKS, Role, running_relay, running_worker, wait_until

#: Times that the tables are emptied after a test, while roles are in the middle of something.
FLUSHES = 5


@pytest.fixture(scope="session", autouse=True)
def patient_flush() -> Iterator[None]:
    """Empty the tables again when PostgreSQL has ended that because of a deadlock.

    Roles run beside the tests. One that has read a table and wants another waits for the flush,
    which has that one and waits for the first: either may be the one that PostgreSQL ends.
    """
    once = flush.Command.handle

    def handle(self: Any, **options: Any) -> None:
        for _ in range(FLUSHES - 1):
            try:
                once(self, **options)
            except CommandError as error:
                if not isinstance(error.__cause__, OperationalError):
                    raise
            else:
                return
        once(self, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush.Command, "handle", handle)
        yield


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Run a PostgreSQL of our own."""
    server = PostgresServer(
        tmp_path_factory.mktemp("postgres"), environment.POSTGRES_PORT, environment.PASSWORD
    )
    with running(server):
        yield server
    # Root's temporary folders are closed to the server's account, so the data may lie elsewhere.
    server.remove()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(postgres: PostgresServer) -> None:
    """Have pytest-django wait for the server."""


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Run a Redis of our own."""
    server = RedisServer(
        tmp_path_factory.mktemp("redis"),
        environment.REDIS_PORT,
        environment.PASSWORD,
        dict.fromkeys(READERS, environment.PASSWORD),
    )
    with running(server):
        yield server


@pytest.fixture(scope="session")
def mail_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailSink]:
    """Run the mail sink."""
    log_file = tmp_path_factory.mktemp("mail") / "mail.log"
    with running_mail_sink(log_file, environment.MAIL_PORT, environment.MAIL_WEB_PORT) as sink:
        yield sink


@pytest.fixture
def mails(mail_server: MailSink, settings: Any) -> MailSink:
    """Return the mail sink, empty; this process sends there too (pytest-django would not)."""
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    mail_server.clear()
    return mail_server


@pytest.fixture(scope="session")
def role_settings(django_db_setup: None, redis: RedisServer) -> dict[str, str]:
    """Return the environment in which roles use the tests' own database."""
    url = f"postgres://celeriac:{environment.PASSWORD}@127.0.0.1:{environment.POSTGRES_PORT}"
    return {"DATABASE_URL": f"{url}/test_celeriac"}


@pytest.fixture(scope="module")
def worker_process(
    role_settings: dict[str, str],
    mail_server: MailSink,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Role]:
    """Run a real worker for the tests of a module that only need work to be done.

    Not for longer: other modules run workers of their own, and count what those do.
    """
    directory = tmp_path_factory.mktemp("worker")
    settings = {
        **role_settings,
        "WORKER_CONCURRENCY": "2",
        "FAULT_INJECTION": "true",
        "MAIL_SINK_URL": mail_server.url,
    }
    with running_worker(directory, tasks=DURABLE_TASKS, **settings) as role:
        yield role


@pytest.fixture(scope="module")
def relay_process(
    role_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Role]:
    """Run a real relay, but not beside modules that look at rows as they are left."""
    directory = tmp_path_factory.mktemp("relay")
    with running_relay(directory, tasks=DURABLE_TASKS, **role_settings) as role:
        yield role


def broker_is_idle(client: Redis) -> bool:
    """Whether no message waits and none is in the hands of a worker."""
    lists = [name for queue in settings.QUEUE_WAIT_TARGETS for name in lists_of(queue)]
    return not any(client.llen(name) for name in lists) and not client.hlen("unacked")


@pytest.fixture
def broker(redis: RedisServer) -> Iterator[Redis]:
    """Return a client of the broker."""
    with Redis.from_url(f"{redis.url}/0") as client:
        yield client


@pytest.fixture
def empty_broker(broker: Redis) -> Redis:
    """Forget the messages that earlier tests have left, and return the broker.

    The rows behind them are deleted; and where the worker of a test does not consume their queue,
    it would never be idle.
    """
    lists = [name for queue in settings.QUEUE_WAIT_TARGETS for name in lists_of(queue)]
    broker.delete(*lists, "unacked", "unacked_index")
    return broker


@pytest.fixture
def worker(
    worker_process: Role, relay_process: Role, empty_broker: Redis, transactional_db: None
) -> Iterator[Role]:
    """Return the worker, with a relay beside it. Afterwards wait: the tables are emptied then."""
    yield worker_process
    wait_until(lambda: broker_is_idle(empty_broker), timeout=60, what="the worker is idle")

"""The accounts of exporters: what they may read, and that they may do nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import yaml
from django.core.management import call_command
from django.db import connection
from psycopg import errors
from redis import Redis
from redis.exceptions import NoPermissionError

from delivery.models import Delivery
from deploy.embedded.servers import RedisServer
from deploy.embedded.servers.redis import CELERY_EXPORTER, READERS, SERVER_EXPORTER
from exporter import ledger
from telemetry import reading_accounts
from tests.support import environment
from tests.support.roles import ROOT

PASSWORDS = {
    account.password_variable: environment.PASSWORD for account in reading_accounts.ACCOUNTS
}


def url_of(account: str, password: str = environment.PASSWORD) -> str:
    return (
        f"postgres://{account}:{password}@127.0.0.1:{environment.POSTGRES_PORT}"
        f"/{connection.settings_dict['NAME']}"
    )


@pytest.fixture
def accounts(transactional_db: None) -> list[str]:
    """Have the accounts made, twice: the second time they are there already."""
    reading_accounts.prepare(PASSWORDS)
    return reading_accounts.prepare(PASSWORDS)


@pytest.fixture
def celery_exporter(accounts: list[str]) -> Iterator[psycopg.Connection[Any]]:
    """Return a session of the exporter's account that does not keep itself from writing."""
    with psycopg.connect(url_of("celery_exporter"), autocommit=True) as session:
        session.execute("SET default_transaction_read_only = off")
        yield session


def test_the_migrate_role_makes_both_and_a_new_password_replaces_the_old_one(
    accounts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert accounts == ["celery_exporter", "postgres_exporter"]
    monkeypatch.setenv("CELERY_EXPORTER_PASSWORD", "changed")
    call_command("prepare_database", verbosity=0)

    with psycopg.connect(url_of("celery_exporter", "changed")) as session:
        assert session.execute("SHOW default_transaction_read_only").fetchone() == ("on",)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url_of("celery_exporter"))
    psycopg.connect(url_of("postgres_exporter")).close()


def test_the_celery_exporter_may_ask_all_its_questions(accounts: list[str]) -> None:
    reader = ledger.Ledger(url_of("celery_exporter"))
    try:
        assert reader.read().quarantined == 0
    finally:
        reader.close()


FORBIDDEN_STATEMENTS: list[Any] = [
    "SELECT args FROM delivery_delivery",
    "SELECT result, error FROM delivery_delivery",
    "SELECT content FROM delivery_quarantinedmessage",
    "SELECT * FROM auth_user",
    "SELECT address FROM newsletters_recipient",
    "SELECT 1 FROM django_session",
    "UPDATE delivery_delivery SET state = 'succeeded'",
    "DELETE FROM delivery_quarantinedmessage",
    "INSERT INTO telemetry_presence (name) VALUES ('x')",
    "SELECT id FROM delivery_delivery FOR UPDATE",
    "TRUNCATE delivery_delivery",
    "CREATE TABLE mine (number int)",
    "SELECT pg_read_file('postgresql.conf')",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "ALTER ROLE celery_exporter SUPERUSER",
    "SET ROLE celeriac",
]


def test_the_celery_exporter_may_read_and_write_nothing_else(
    celery_exporter: psycopg.Connection[Any],
) -> None:
    for statement in FORBIDDEN_STATEMENTS:
        with pytest.raises(errors.InsufficientPrivilege):
            celery_exporter.execute(statement)


def test_it_loses_what_it_could_read_before(celery_exporter: psycopg.Connection[Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("GRANT SELECT ON auth_user TO celery_exporter")
    celery_exporter.execute("SELECT count(*) FROM auth_user")
    reading_accounts.prepare(PASSWORDS)

    with pytest.raises(errors.InsufficientPrivilege):
        celery_exporter.execute("SELECT count(*) FROM auth_user")


def test_the_server_exporter_sees_statistics_and_no_row(accounts: list[str]) -> None:
    with psycopg.connect(url_of("postgres_exporter"), autocommit=True) as session:
        row = session.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE query IS NOT NULL"
        ).fetchone()
        assert row is not None and row[0] > 0
        for statement in (
            "SELECT 1 FROM delivery_delivery",
            "SELECT 1 FROM auth_user",
            "SELECT rolpassword FROM pg_authid",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                session.execute(statement)


def test_the_number_of_connections_is_limited(accounts: list[str]) -> None:
    sessions = [psycopg.connect(url_of("celery_exporter")) for _ in range(5)]
    try:
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            psycopg.connect(url_of("celery_exporter"))
    finally:
        for session in sessions:
            session.close()


@pytest.fixture
def owner_without_rights(transactional_db: None) -> Iterator[None]:
    """Work as the owner of the tables on a managed server: one that may not make roles."""
    with connection.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS plain_owner")
        cursor.execute("CREATE ROLE plain_owner")
        cursor.execute("GRANT celeriac TO plain_owner")
        cursor.execute("SET ROLE plain_owner")
    yield
    with connection.cursor() as cursor:
        cursor.execute("RESET ROLE")
        cursor.execute("DROP ROLE plain_owner")


def drop_accounts() -> None:
    with connection.cursor() as cursor:
        for account in reading_accounts.ACCOUNTS:
            cursor.execute(f"DROP OWNED BY {account.name}")
            cursor.execute(f"DROP ROLE {account.name}")


def test_without_the_right_to_make_roles_the_log_says_what_to_run(
    accounts: list[str], request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    drop_accounts()
    request.getfixturevalue("owner_without_rights")

    assert reading_accounts.prepare(PASSWORDS) == []
    log = caplog.text
    assert "CREATE ROLE" in log and "celery_exporter" in log and "pg_monitor" in log
    assert environment.PASSWORD not in log


def test_without_that_right_an_account_that_exists_still_gets_its_rights(
    celery_exporter: psycopg.Connection[Any], request: pytest.FixtureRequest
) -> None:
    question: Any = "SELECT count(queue) FROM delivery_delivery"
    with connection.cursor() as cursor:
        cursor.execute("REVOKE SELECT (queue) ON delivery_delivery FROM celery_exporter")
    with pytest.raises(errors.InsufficientPrivilege):
        celery_exporter.execute(question)
    request.getfixturevalue("owner_without_rights")

    assert reading_accounts.prepare(PASSWORDS) == ["celery_exporter", "postgres_exporter"]
    assert celery_exporter.execute(question).fetchone() == (0,)


def test_without_passwords_nothing_is_made(accounts: list[str]) -> None:
    drop_accounts()

    assert reading_accounts.prepare({}) == []
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE '%exporter'")
        assert cursor.fetchone() == (0,)


# --- Redis ---------------------------------------------------------------------------------------


FORBIDDEN_TO_THE_CELERY_EXPORTER: list[Any] = [
    "LPUSH default x",
    "RPOP default",
    "DEL default",
    "SET key value",
    "HSET unacked tag x",
    "FLUSHALL",
    "PUBLISH channel x",
    "SUBSCRIBE channel",
    "CONFIG GET *",
    "CONFIG SET maxmemory 1",
    "ACL LIST",
    "KEYS *",
    "EVAL return 0",
    "SHUTDOWN",
    "MONITOR",
    "CLIENT LIST",
]


def test_the_celery_exporter_only_reads_the_broker(redis: RedisServer) -> None:
    with Redis.from_url(redis.url_of(CELERY_EXPORTER), protocol=2, driver_info=None) as client:
        assert client.llen("default") >= 0
        for command in FORBIDDEN_TO_THE_CELERY_EXPORTER:
            with pytest.raises(NoPermissionError):
                client.execute_command(*command.split())


FORBIDDEN_TO_THE_SERVER_EXPORTER: list[Any] = [
    "LLEN default",
    "LRANGE default 0 -1",
    "GET key",
    "SCAN 0",
    "SET key value",
    "FLUSHALL",
    "CONFIG SET maxmemory-policy allkeys-lru",
    "SLOWLOG GET",
    "ACL LIST",
    "MONITOR",
    "EVAL return 0",
]


def test_the_server_exporter_sees_no_content_of_the_broker(redis: RedisServer) -> None:
    with Redis.from_url(redis.url_of(SERVER_EXPORTER), protocol=2, driver_info=None) as client:
        assert client.info("memory")["used_memory"] > 0
        assert environment.PASSWORD not in client.config_get("*").values()
        for command in FORBIDDEN_TO_THE_SERVER_EXPORTER:
            with pytest.raises(NoPermissionError):
                client.execute_command(*command.split())


def test_compose_gives_the_same_rights() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    script = compose["services"]["redis"]["command"][-1]
    lines = re.sub(r'"\s*\\\n\s*"', " ", script).splitlines()
    users = [re.fullmatch(r'\s*echo "user (\S+) on >\S+ (.+)"', line) for line in lines]

    assert {user[1]: user[2] for user in users if user} == {"default": "~* &* +@all", **READERS}


def test_no_exporter_gets_a_secret_of_the_application() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    for name in (
        "celery-exporter", "redis-exporter", "postgres-exporter", "upstream-exporter",
    ):  # fmt: skip
        text = str(compose["services"][name]["environment"])
        assert not re.search(r"REDIS_PASSWORD\}|POSTGRES_PASSWORD|SECRET_KEY|SIGNING|TOKENS", text)


def test_the_table_of_columns_is_about_columns_that_exist() -> None:
    names = {column.name for column in Delivery._meta.get_fields() if hasattr(column, "column")}
    assert set(reading_accounts.ACCOUNTS[0].columns["delivery_delivery"]) <= names
    assert not {"args", "kwargs", "result", "error"} & set(
        reading_accounts.ACCOUNTS[0].columns["delivery_delivery"]
    )
    assert "CELERY_EXPORTER_PASSWORD" not in os.environ, "tests give passwords themselves"


def test_the_manual_says_what_makes_the_accounts(transactional_db: None) -> None:
    connection.ensure_connection()
    manual = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").replace('"', "")
    for account in reading_accounts.ACCOUNTS:
        for statement in reading_accounts.statements(account, exists=False, password="..."):
            text = statement.as_string(connection.connection).replace('"', "")
            assert f"    {text};\n" in manual

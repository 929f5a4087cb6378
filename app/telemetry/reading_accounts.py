"""Accounts of PostgreSQL that only read: for the celery-exporter and the server's own exporter.

The migrate role makes them, so that neither exporter needs the application's account. An account
may read exactly what stands here; a test tries more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from django.db import ProgrammingError, connection, transaction
from psycopg import sql

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """One role of PostgreSQL.

    Attributes:
        name: Of the role.
        password_variable: Environment variable with its password; unset: it is left alone.
        connections: How many it may have at the same time.
        memberships: Roles of PostgreSQL whose rights it has.
        columns: What it may read, by table.
    """

    name: str
    password_variable: str
    connections: int
    memberships: tuple[str, ...] = ()
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)


ACCOUNTS: Final = (
    Account(
        name="celery_exporter",
        password_variable="CELERY_EXPORTER_PASSWORD",  # noqa: S106 - the name of a variable
        # One for each exporter; another while the server has not noticed that the first is gone.
        connections=5,
        # The columns of app/exporter/ledger.py: no arguments, results, errors or addresses.
        columns={
            "delivery_delivery": (
                "queue", "task", "state", "due_at", "created_at", "dispatched_at", "finished_at",
            ),
            "delivery_quarantinedmessage": ("received_at",),
            "telemetry_presence": ("service", "state", "queues", "seen_at"),
            "housekeeping_canary": ("queue", "succeeded_at"),
        },
    ),
    Account(
        name="postgres_exporter",
        password_variable="SERVER_EXPORTERS_PASSWORD",  # noqa: S106
        connections=5,
        # Statistics and settings of the server; rows of no table.
        memberships=("pg_monitor",),
    ),
)  # fmt: skip

#: Settings of their sessions. A session can change them; what it may read is up to the grants.
SESSION: Final = {
    "default_transaction_read_only": "on",
    "statement_timeout": "5s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "10s",
}

#: Tables of this database that are ours to give rights on.
OWN_TABLES: Final = """
SELECT current_schema(), relname FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
    AND pg_has_role(relowner, 'USAGE')
"""


def prepare(passwords: Mapping[str, str]) -> list[str]:
    """Make or update each account whose password is there, and give it its rights.

    A database whose owner may not make roles (a managed server) is no failure: the log says what
    somebody who may has to run, and from then on each call gives the rights.

    Args:
        passwords: By variable.

    Returns:
        Names of the accounts that exist and have their rights now.
    """
    return [
        account.name
        for account in ACCOUNTS
        if (password := passwords.get(account.password_variable))
        and _prepare_role(account, password)
        and _grant(account)
    ]


def statements(account: Account, *, exists: bool, password: str) -> list[sql.SQL | sql.Composed]:
    """Return what makes or updates a role; needs the right to make roles."""
    role = sql.Identifier(account.name)
    made: list[sql.SQL | sql.Composed] = [
        sql.SQL("{verb} ROLE {role} LOGIN CONNECTION LIMIT {limit} PASSWORD {password}").format(
            verb=sql.SQL("ALTER" if exists else "CREATE"),
            role=role,
            limit=sql.Literal(account.connections),
            password=sql.Literal(password),
        )
    ]
    made += [
        sql.SQL("ALTER ROLE {role} SET {name} = {value}").format(
            role=role, name=sql.Identifier(name), value=sql.Literal(value)
        )
        for name, value in SESSION.items()
    ]
    made += [
        sql.SQL("GRANT {group} TO {role}").format(group=sql.Identifier(group), role=role)
        for group in account.memberships
    ]
    return made


def _prepare_role(account: Account, password: str) -> bool:
    """Make or update the role; returns whether it exists."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)", [account.name])
        (exists,) = cursor.fetchone()
        server: Any = connection.connection.pgconn
        # So that the password is in no log of the server, whatever it logs.
        hashed = server.encrypt_password(
            password.encode(), account.name.encode(), b"scram-sha-256"
        ).decode()
        try:
            with transaction.atomic():
                for statement in statements(account, exists=exists, password=hashed):
                    cursor.execute(statement)
        except ProgrammingError as error:  # insufficient privilege
            advice = "; ".join(
                statement.as_string(connection.connection)
                for statement in statements(account, exists=exists, password="...")  # noqa: S106
            )
            logger.warning(
                "reading_account_not_made",
                account=account.name,
                error=str(error).strip(),
                exists=exists,
                do=f"run as somebody who may make roles: {advice}; "
                "then run the migrate role again (docs/operations.md, Accounts that only read)",
            )
            return bool(exists)
    return True


def _grant(account: Account) -> bool:
    """Give the role what it may read here, and take what it could read before."""
    role = sql.Identifier(account.name)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(OWN_TABLES)
            tables = {name: sql.Identifier(schema, name) for schema, name in cursor.fetchall()}
            if tables:
                cursor.execute(
                    sql.SQL("REVOKE ALL ON {tables} FROM {role}").format(
                        tables=sql.SQL(", ").join(tables.values()), role=role
                    )
                )
            for table, columns in account.columns.items():
                if table in tables:
                    cursor.execute(
                        sql.SQL("GRANT SELECT ({columns}) ON {table} TO {role}").format(
                            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
                            table=tables[table],
                            role=role,
                        )
                    )
    except ProgrammingError as error:  # insufficient privilege
        logger.warning("reading_account_not_granted", account=account.name, error=str(error))
        return False
    return True

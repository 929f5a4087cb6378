"""Takes one order from standard input: rows in one commit, then a message for each of them."""

from __future__ import annotations

import json
import os
import sys

import psycopg

from tests.faults.plain.application import record


def main() -> None:
    """Do what a view with ``transaction.on_commit`` and ``delay`` does."""
    order = json.load(sys.stdin)
    with psycopg.connect(os.environ["PLAIN_DATABASE_URL"]) as connection:
        connection.cursor().executemany(
            "INSERT INTO fault_submissions (run, number) VALUES (%s, %s)",
            [(order["run"], number) for number in order["numbers"]],
        )
    if order["crash"]:
        os._exit(1)
    for number in order["numbers"]:
        record.delay(order["run"], number, **order["options"])


if __name__ == "__main__":
    main()

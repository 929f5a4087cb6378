"""What ten million finished deliveries cost the ledger's statements: nothing, by their plans.

    python -m bench.ledger_plans --rows 10000000

starts a PostgreSQL of its own, asks it to explain the real statements with an empty table and with
a full one, and prints the plans' node types, milliseconds and pages side by side. A test does the
same with fewer rows, and asserts what must stay true.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from bench.project import own_database

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

#: Bytes on disk of a finished row and its entries in the indexes, measured with ten million.
BYTES_PER_ROW: Final = 320
#: How often a statement is explained; the fastest counts.
REPETITIONS: Final = 5

#: Ten days of finished rows, as a busy project has them: some tasks on some queues.
FINISHED_ROWS: Final = """
INSERT INTO delivery_delivery (
    id, task, args, kwargs, queue, options, state, attempts, failures, interruptions, max_failures,
    due_at, created_at, dispatched_at, started_at, finished_at, worker, result, error, position)
SELECT gen_random_uuid(), 'bench.task_' || n %% 20, jsonb_build_array(n), '{}',
    (ARRAY['default', 'mail', 'bulk', 'maintenance'])[1 + n %% 4], '{"context": {}}',
    CASE WHEN n %% 1000 = 0 THEN 'cancelled' ELSE 'succeeded' END, 1, 0, 0, 9,
    moment, moment, moment, moment, moment, 'worker@bench:1', to_jsonb(n), '', 0
FROM generate_series(1, %(rows)s) AS n,
    LATERAL (SELECT now() - n * interval '10 days' / %(rows)s AS moment) AS clock
"""
GROUPS: Final = """
INSERT INTO delivery_group (id, size, remaining, created_at, finished_at)
SELECT gen_random_uuid(), 10, 0, now(), now() FROM generate_series(1, %s)
"""
#: Open rows that are due, and a chord of as many members whose last one is about to end.
DUE_ROWS: Final = """
INSERT INTO delivery_delivery (
    id, task, args, kwargs, queue, options, state, attempts, failures, interruptions, max_failures,
    due_at, created_at, dispatched_at, worker, error, group_id, position)
SELECT gen_random_uuid(), 'bench.task_' || n %% 20, jsonb_build_array(n), '{}',
    (ARRAY['default', 'mail', 'bulk', 'maintenance'])[1 + n %% 4], '{"context": {}}',
    CASE WHEN n = 1 THEN 'running' ELSE 'dispatched' END, (n = 1)::int, 0, 0, 9,
    now() - n * interval '1 ms', now(), now(), '', '', %s, n
FROM generate_series(1, %s) AS n
"""
DEAD_ROWS: Final = """
UPDATE delivery_delivery SET state = 'dead', error = 'ValueError: broken'
WHERE id IN (SELECT id FROM delivery_delivery WHERE state = 'succeeded' LIMIT %s)
"""


def fill(connection: BaseDatabaseWrapper, finished: int, due: int) -> None:
    """Fill the ledger with finished rows and with open ones that are due.

    Args:
        connection: Of a database whose ledger may be written to; not within a transaction.
        finished: Rows that have ended; at most ``due`` of them become dead letters.
        due: Open rows. All are members of one group, and one of them is running.
    """
    from delivery.models import Group  # noqa: PLC0415 - needs Django's settings

    group = Group.objects.create(size=due, remaining=due, body=None)
    with connection.cursor() as cursor:
        cursor.execute(GROUPS, [finished // 100])
        cursor.execute(FINISHED_ROWS, {"rows": finished})
        cursor.execute(DEAD_ROWS, [min(due, finished)])
        cursor.execute(DUE_ROWS, [group.id, due])
        cursor.execute("VACUUM (ANALYZE) delivery_delivery, delivery_group")


def statements(connection: BaseDatabaseWrapper) -> dict[str, str]:
    """Return the statements whose cost must not depend on finished rows, as the code makes them.

    Each is what really runs: the functions of the ledger, of retention and of the admin are called
    in a transaction that is rolled back, and the first statement that reads or writes rows is kept.
    The ledger must have what ``fill`` leaves there.
    """
    from delivery import ledger  # noqa: PLC0415
    from delivery.models import Delivery, State  # noqa: PLC0415
    from housekeeping import services  # noqa: PLC0415

    waiting = Delivery.objects.filter(state=State.DISPATCHED).first()
    running_one = Delivery.objects.filter(state=State.RUNNING).first()
    if waiting is None or running_one is None or running_one.group_id is None:
        raise ValueError("fill() leaves a waiting and a running delivery; they are not there")
    group_id = running_one.group_id
    claim = ledger.Claim(
        running_one.id, running_one.attempts, running_one.failures, 9, running_one.group_id
    )
    dead_letters = Delivery.objects.filter(state=State.DEAD).order_by("-finished_at")
    calls: dict[str, Callable[[], object]] = {
        "claim": lambda: ledger.claim(waiting.id, "worker@bench:1"),
        "succeed": lambda: ledger.succeed(claim, 1),
        "renew": lambda: ledger.renew(claim),
        "hold": lambda: ledger.hold_pending("bench.task", within=1.0),
        "join": lambda: ledger.join(group_id),
        "results of a group": lambda: ledger._results(group_id, "list"),  # noqa: SLF001
        "relay: what is due": lambda: ledger.take_due({}, 200),
        "relay: when next": lambda: ledger.seconds_until_next(10),
        "dispatch again": ledger.dispatch_everything_again,
        "dead letters": lambda: list(dead_letters[:100]),
        "retention": lambda: list(services.old_deliveries().values_list("pk", flat=True)[:500]),
        "result of a task": lambda: Delivery.objects.filter(id=waiting.id).first(),
    }
    return {name: _first_statement(connection, call) for name, call in calls.items()}


class _Found(Exception):  # noqa: N818 - ends a call early
    """The statement was seen."""


def _first_statement(connection: BaseDatabaseWrapper, call: Callable[[], object]) -> str:
    """Return the first statement of a call that reads or writes rows, with its values written in.

    It is not executed, so that the next call meets the same rows.
    """
    from django.db import transaction  # noqa: PLC0415

    found: list[str] = []

    def stop(execute: Any, sql: str, parameters: Any, many: Any, context: dict[str, Any]) -> Any:
        if sql.lstrip().startswith(("SELECT", "UPDATE", "INSERT", "DELETE")):
            found.append(context["cursor"].mogrify(sql, parameters or None))
            raise _Found
        return execute(sql, parameters, many, context)

    with suppress(_Found), transaction.atomic(), connection.execute_wrapper(stop):
        call()
    if not found:
        raise ValueError("the call has made no statement")
    return found[0]


@dataclass(frozen=True)
class Cost:
    """What a statement costs.

    Attributes:
        milliseconds: Of the fastest of some executions, planning left out.
        pages: Of 8 kB, read or found in memory by that execution.
        nodes: Types of the plan's nodes that touch tables, with their indexes.
    """

    milliseconds: float
    pages: int
    nodes: list[str]


def explain(connection: BaseDatabaseWrapper, statement: str) -> Cost:
    """Execute a statement some times, undo it each time, and return what it costs."""
    from django.db import transaction  # noqa: PLC0415 - needs Django's settings

    costs = []
    for _ in range(REPETITIONS):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}")
            (document,) = cursor.fetchone()
            transaction.set_rollback(True)
        top = (json.loads(document) if isinstance(document, str) else document)[0]
        plan = top["Plan"]
        costs.append(
            Cost(
                top["Execution Time"],
                plan["Shared Hit Blocks"] + plan["Shared Read Blocks"],
                list(_scans(plan)),
            )
        )
    return min(costs, key=lambda cost: cost.milliseconds)


def _scans(plan: dict[str, Any]) -> Iterator[str]:
    """Yield the nodes of a plan that look at a table or an index."""
    if "Scan" in plan["Node Type"]:
        place = plan.get("Index Name") or plan.get("Relation Name", "")
        yield f"{plan['Node Type']} {place}".strip()
    for below in plan.get("Plans", []):
        yield from _scans(below)


def main() -> None:
    """Print the costs in an empty and in a full table side by side."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="finished deliveries")
    parser.add_argument("--due", type=int, default=200, help="open deliveries that are due")
    arguments = parser.parse_args()
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < arguments.rows * BYTES_PER_ROW * 2:
        sys.exit(f"{arguments.rows} rows need {arguments.rows * BYTES_PER_ROW * 2 / 1e9:.0f} GB")

    with own_database() as connection:
        costs: list[dict[str, Cost]] = []
        for finished in (0, arguments.rows):
            with connection.cursor() as cursor:
                cursor.execute("TRUNCATE delivery_delivery, delivery_group")
            began = monotonic()
            fill(connection, finished, arguments.due)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_total_relation_size('delivery_delivery')")
                (size,) = cursor.fetchone()
            print(
                f"{finished:,} finished: {size / 1e6:,.0f} MB, {monotonic() - began:.0f} s to fill"
            )
            costs.append(
                {name: explain(connection, sql) for name, sql in statements(connection).items()}
            )
    _print_costs(*costs)


def _print_costs(empty: dict[str, Cost], full: dict[str, Cost]) -> None:
    print(f"\n{'statement':22}{'ms':>8}{'full':>8}{'pages':>8}{'full':>8}  looks at (full)")
    for name, cost in empty.items():
        filled = full[name]
        print(
            f"{name:22}{cost.milliseconds:8.2f}{filled.milliseconds:8.2f}"
            f"{cost.pages:8}{filled.pages:8}  {', '.join(filled.nodes)}"
        )


if __name__ == "__main__":
    main()

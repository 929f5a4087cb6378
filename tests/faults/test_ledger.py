"""The suite's own book-keeping: it must see what it is there to see."""

from __future__ import annotations

import math

from deploy.embedded.servers import PostgresServer
from tests.faults.ledger import Count, Ledger
from tests.faults.report import Row, table


def test_losses_doubles_and_what_nobody_asked_for_are_counted(postgres: PostgresServer) -> None:
    ledger = Ledger(postgres.url)
    ledger.ask(
        """
        INSERT INTO fault_submissions (run, number)
            VALUES ('run', 1), ('run', 2), ('run', 3), ('other', 4);
        INSERT INTO fault_effects (run, number, at)
            VALUES ('run', 1, to_timestamp(10)), ('run', 2, to_timestamp(20)),
                   ('run', 2, to_timestamp(30)), ('run', 2, to_timestamp(25)),
                   ('run', 7, to_timestamp(15)), ('other', 4, to_timestamp(99));
        """
    )
    assert ledger.count("run") == Count(submitted=3, lost=1, doubled=2, unasked=1, last_effect=30.0)
    assert ledger.effects("run") == 3
    assert ledger.count("nothing") == Count(0, 0, 0, 0, 0.0)


def test_the_table_names_what_failed() -> None:
    rows = [
        Row("redis killed", "containers", 1000, 0, 0, 3.21),
        Row("chaos", "embedded", 20, 3, 1, math.nan, passed=False),
    ]
    assert table(rows).splitlines() == [
        "target      fault         tasks  lost  doubled  recovered in",
        "------------------------------------------------------------",
        "containers  redis killed   1000     0        0         3.2 s",
        "embedded    chaos            20     3        1                FAILED",
    ]

"""What breaks in the web role."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tests.observability.faults.fault import Fault, expected, repeating, stopped
from tests.observability.victim import Victim


@contextmanager
def _view_fails(victim: Victim) -> Iterator[None]:
    with repeating(partial(victim.get, "/causes/fail")):
        yield


@contextmanager
def _view_dawdles(victim: Victim) -> Iterator[None]:
    with repeating(partial(victim.get, "/causes/slow"), threads=6):
        yield


@contextmanager
def _migration_is_missing(victim: Victim) -> Iterator[None]:
    """Take the note of the last migration away, as in a database that was restored from before."""
    with victim.session() as session:
        row = session.execute(
            "DELETE FROM django_migrations WHERE id = (SELECT max(id) FROM django_migrations)"
            " RETURNING app, name, applied"
        ).fetchone()
        assert row
        try:
            # Web processes learn it from their readiness probe, like those of a load balancer.
            with repeating(partial(victim.get, "/readyz")):
                yield
        finally:
            session.execute(
                "INSERT INTO django_migrations (app, name, applied) VALUES (%s, %s, %s)", row
            )
            for _ in range(20):  # each process hears of it
                victim.get("/readyz")


DOWN = Fault("web is stopped", lambda victim: stopped(victim, "web"), (expected("DjangoDown"),))
FAILING_VIEW = Fault(
    "a view raises an exception, four times a second",
    _view_fails,
    (expected("DjangoErrorBudgetBurnFast"), expected("DjangoErrorBudgetBurnSlow")),
)
SLOW_VIEW = Fault(
    "a view takes 1.6 s",
    _view_dawdles,
    (expected("DjangoLatencyHigh"),),
)
MISSING_MIGRATION = Fault(
    "the database does not have the last migration",
    _migration_is_missing,
    (expected("DjangoMigrationsUnapplied"),),
)

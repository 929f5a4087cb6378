"""How often a caller may ask: token buckets in PostgreSQL, so that no broker is needed.

In ``jobs`` because its HTTP routes are what is limited, and because the layers above (the API that
asks, housekeeping that tidies up) may not import each other. It knows callers only by a name.

A bucket is one moment: when it will be full again (GCRA, "generic cell rate algorithm": a bucket
of ``burst`` tokens that gains one every ``60 / per_minute`` seconds). One statement takes a token,
by the database's clock, so all web processes share the bucket, whatever their clocks say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from django.db import connection
from django.db.models import QuerySet
from django.db.models.functions import Now

from jobs.models import RateBucket


class RateLimitedError(Exception):
    """The caller has to wait.

    Attributes:
        seconds: Whole seconds until the next request would be let in, at least 1.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"Too many requests; try again in {seconds} s.")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Rate:
    """How much a bucket gives.

    Attributes:
        per_minute: Tokens that come back in a minute; 0: no limit.
        burst: Tokens of a full bucket: requests that may come at once. At least 1.
    """

    per_minute: int
    burst: int

    @property
    def interval(self) -> float:
        """Seconds in which one token comes back."""
        return 60 / self.per_minute


def take(name: str, rate: Rate) -> None:
    """Take one token of a caller's bucket. A refusal takes nothing, so asking on costs no time.

    Args:
        name: Of the bucket, at most 200 characters.
        rate: What the bucket gives.

    Raises:
        RateLimitedError: It is empty.
    """
    if not rate.per_minute:
        return
    values: dict[str, str | float] = {
        "name": name,
        "interval": rate.interval,
        "capacity": rate.interval * rate.burst,
    }
    with connection.cursor() as cursor:
        # A statement that waited for another one's row began earlier, hence greatest(). Without a
        # row in the answer the condition was false: nothing was written.
        cursor.execute(
            """
            INSERT INTO jobs_ratebucket AS bucket (name, full_at)
            VALUES (%(name)s, statement_timestamp() + make_interval(secs => %(interval)s))
            ON CONFLICT (name) DO UPDATE SET full_at =
                greatest(bucket.full_at, statement_timestamp())
                + make_interval(secs => %(interval)s)
            WHERE greatest(bucket.full_at, statement_timestamp())
                    + make_interval(secs => %(interval)s)
                <= statement_timestamp() + make_interval(secs => %(capacity)s)
            RETURNING 1
            """,
            values,
        )
        if cursor.fetchone() is not None:
            return
        cursor.execute(
            """
            SELECT extract(epoch FROM full_at - statement_timestamp())::float8
                + %(interval)s - %(capacity)s
            FROM jobs_ratebucket WHERE name = %(name)s
            """,
            values,
        )
        row = cursor.fetchone()
    raise RateLimitedError(max(1, math.ceil(row[0] if row else rate.interval)))


def give_back(name: str, rate: Rate) -> None:
    """Put one token back: what was asked for should not count."""
    if not rate.per_minute:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE jobs_ratebucket SET full_at = full_at - make_interval(secs => %s)"
            " WHERE name = %s",
            [rate.interval, name],
        )


def full_buckets() -> QuerySet[RateBucket]:
    """Return buckets that are full: a row that does not exist says the same."""
    return RateBucket.objects.filter(full_at__lt=Now()).order_by("full_at")

"""The kinds of job. A workload registers its kind in ``AppConfig.ready``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Q


def named_by_first_argument(job_id: UUID) -> Q:
    """Return the condition for deliveries of tasks that get the job's id first (``JobTask``)."""
    return Q(args__0=str(job_id))


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of job.

    Attributes:
        name: As in ``Job.kind``.
        enqueue: Enters the job's first task; runs in the transaction that stores the job.
        release: Closes what is left of a job that ended before all of it was done (cancelled or
            failed); runs in that transaction.
        reopen: Undoes ``release`` for a failed job whose task is replayed; runs in that
            transaction.
        deliveries: Returns the condition for the deliveries that work for a job.
    """

    name: str
    enqueue: Callable[[UUID], None]
    release: Callable[[UUID], None]
    reopen: Callable[[UUID], None]
    deliveries: Callable[[UUID], Q] = named_by_first_argument


_kinds: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Make a kind known.

    Raises:
        ValueError: Another kind has the same name.
    """
    if kind.name in _kinds and _kinds[kind.name] != kind:
        raise ValueError(f"a kind of job named {kind.name!r} is registered already")
    _kinds[kind.name] = kind


def kind_named(name: str) -> Kind | None:
    """Return a kind by its name; None when the app that registered it is not installed any more."""
    return _kinds.get(name)

"""Groups, chords and chains whose joins are rows of the ledger.

They take Celery signatures (``task.s(...)``, ``task.si(...)``) of durable tasks. A member is
counted in the transaction that commits its success, so one that arrives twice is counted once, and
no crash can come between the last member and the body. All is entered in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final
from uuid import UUID, uuid4

from celery import current_app
from celery.canvas import Signature
from django.db import transaction

from delivery import ledger, publishing
from delivery.ledger import Entry
from delivery.models import Group

#: Rows for each statement.
BATCH: Final = 1000


def group(signatures: Iterable[Signature[Any]]) -> Group:
    """Enter tasks that may run side by side; returns their group.

    Its rows are ``group.members`` (in order, by ``position``); ``group.finished_at`` is set when
    the last one has succeeded, ``group.failed_at`` when the first one has failed for good.

    Raises:
        TypeError: One is not the signature of a durable task.
        ValueError: One has a ``task_id`` that is known already.
    """
    return _enter_group([_entry(signature) for signature in signatures])


def chord(
    signatures: Iterable[Signature[Any]],
    body: Signature[Any],
    on_error: Signature[Any] | None = None,
) -> UUID:
    """Enter a group whose body runs once all members have succeeded; returns the body's id.

    The body gets the list of their results as its first argument, in the order of the signatures;
    ``body.si(...)`` gets nothing. If members fail for good, the body does not run, and ``on_error``
    runs once, with the first failed member's id and error (``si``: without). A member that is
    replayed and succeeds then still leads to the body. A chord without members runs its body.

    Raises:
        TypeError: One is not the signature of a durable task.
    """
    then = _following(body, "list")
    failed = None if on_error is None else _following(on_error, "list")
    members = [_entry(signature) for signature in signatures]
    if members:
        _enter_group(members, then, failed)
    else:
        arguments: list[Any] = [] if body.immutable else [[]]
        _enter([replace(then, args=[*arguments, *then.args])])
    return then.id


def chain(*signatures: Signature[Any]) -> UUID:
    """Enter tasks that run one after the other; returns the id of the last.

    Each gets the result of the one before as its first argument (``si``: nothing). One that fails
    for good ends the chain; replaying it goes on.

    Raises:
        TypeError: One is not the signature of a durable task.
        ValueError: There is none.
    """
    if not signatures:
        raise ValueError("a chain needs at least one signature")
    for signature in signatures:
        if getattr(signature, "options", {}).get("task_id"):
            raise TypeError(f"{signature!r} has a task_id: a known one would end the chain there")
    entries = [_following(signature, "one") for signature in signatures]
    with transaction.atomic():
        # A group of one for each step but the last, from the end: a step's body is the next one.
        following = entries[-1]
        for entry in reversed(entries[:-1]):
            step = Group.objects.create(size=1, remaining=1, body=following.as_json())
            following = replace(entry, group_id=step.id)
        _enter([following])
    return entries[-1].id


def _enter_group(
    members: list[Entry], body: Entry | None = None, on_error: Entry | None = None
) -> Group:
    with transaction.atomic():
        joined = Group.objects.create(
            id=uuid4(),
            size=len(members),
            remaining=len(members),
            body=body and body.as_json(),
            on_error=on_error and on_error.as_json(),
        )
        _enter(
            [
                replace(member, group_id=joined.id, position=position)
                for position, member in enumerate(members)
            ]
        )
        if joined.members.count() < joined.size:
            raise ValueError("a member's task_id is known already: the group would never end")
    return joined


def _enter(entries: list[Entry]) -> None:
    for first in range(0, len(entries), BATCH):
        publishing.publish_after_commit(ledger.enter(entries[first : first + BATCH]))


def _following(signature: Signature[Any], takes: str) -> Entry:
    """Return what a signature stands for that gets results, so that arguments are missing yet."""
    entry = _entry(signature, check_arguments=False)
    return replace(entry, takes_results="nothing" if signature.immutable else takes)


def _entry(signature: Signature[Any], **options: Any) -> Entry:
    task: Any = current_app.tasks.get(getattr(signature, "task", ""))
    if task is None or not getattr(task, "is_durable", False):
        raise TypeError(f"{signature!r} is not the signature of a durable task")
    entry: Entry = task.entry(signature.args, signature.kwargs, **options, **signature.options)
    return entry

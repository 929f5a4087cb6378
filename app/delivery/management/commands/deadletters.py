"""``manage.py deadletters``: look at dead letters, replay them, discard them."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db.models import QuerySet
from kombu.utils.json import JSONEncoder

from delivery import ledger
from delivery.models import Delivery, State

#: Dead letters that one transaction decides on.
BATCH = 500


class Command(BaseCommand):
    """List, show, replay or discard."""

    help = "Dead letters: deliveries that failed for good. Kept until replayed or discarded."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take an action and what it is for."""
        actions = parser.add_subparsers(dest="action", required=True)
        listing = actions.add_parser("list", help="newest first, one line each")
        listing.add_argument("--task", help="only of this task")
        listing.add_argument("--limit", type=int, default=50)
        show = actions.add_parser("show", help="everything that is known of one, as JSON")
        show.add_argument("id", type=UUID)
        for action, text in [
            ("replay", "give them all their attempts again"),
            ("discard", "give them up; retention deletes them later"),
        ]:
            decide = actions.add_parser(action, help=text)
            decide.add_argument("id", type=UUID, nargs="*")
            decide.add_argument("--task", help="all of this task")
            decide.add_argument("--all", action="store_true", help="all there are")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what was asked."""
        match options["action"]:
            case "list":
                self._list(options["task"], options["limit"])
            case "show":
                self._show(options["id"])
            case action:
                decide = ledger.replay if action == "replay" else ledger.discard
                ids = self._chosen(options)
                number = sum(
                    decide(ids[first : first + BATCH]) for first in range(0, len(ids), BATCH)
                )
                self.stdout.write(f"{number} dead letter(s): {action} done.")

    def _list(self, task: str | None, limit: int) -> None:
        letters = _dead(task).order_by("-finished_at")
        for letter in letters[:limit]:
            reason = letter.error.splitlines()[0][:100] if letter.error else ""
            self.stdout.write(
                f"{letter.id}  {letter.finished_at:%Y-%m-%d %H:%M:%S}  {letter.task}  {reason}"
            )
        self.stdout.write(f"{letters.count()} dead letter(s).")

    def _show(self, letter_id: UUID) -> None:
        values = Delivery.objects.filter(id=letter_id).values().first()
        if values is None:
            raise CommandError(f"There is no delivery {letter_id}.")
        self.stdout.write(json.dumps(_plain(dict(values)), indent=2))

    def _chosen(self, options: dict[str, Any]) -> list[UUID]:
        ids, task, everything = options["id"], options["task"], options["all"]
        if sum(map(bool, (ids, task, everything))) != 1:
            raise CommandError("Name ids, or --task, or --all.")
        if ids:
            unknown = set(ids) - set(_dead().filter(id__in=ids).values_list("id", flat=True))
            if unknown:
                names = ", ".join(map(str, sorted(unknown)))
                raise CommandError(f"No dead letter, so nothing was done: {names}")
            return list(ids)
        return list(_dead(task).values_list("id", flat=True))


def _dead(task: str | None = None) -> QuerySet[Delivery]:
    letters = Delivery.objects.filter(state=State.DEAD)
    return letters.filter(task=task) if task else letters


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Write times and ids as text; arguments as they stand in the message."""
    written = {
        name: value if isinstance(value, list | dict | int | None) else str(value)
        for name, value in values.items()
    }
    plain: dict[str, Any] = json.loads(json.dumps(written, cls=JSONEncoder))
    return plain

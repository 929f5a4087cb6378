"""Reads JSON bodies strictly: what two readers could understand differently is refused."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from django.http import HttpRequest
from ninja.parser import Parser


class StrictParser(Parser):
    """JSON as RFC 8259 has it, in UTF-8: no NaN or Infinity, no name twice in an object."""

    def parse_body(self, request: HttpRequest) -> Any:
        """Return the content of the body. Whatever is raised here, ninja answers 400.

        Raises:
            ValueError: It is no such JSON.
            RecursionError: It is nested too deeply.
        """
        return json.loads(
            request.body.decode("utf-8"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_object_without_repetitions,
        )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _object_without_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a name twice")
    return found

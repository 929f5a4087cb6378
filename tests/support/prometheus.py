"""A running Prometheus, asked as Grafana asks it."""

from __future__ import annotations

import json
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

#: Seconds in which it answers.
ANSWER_SECONDS = 20.0
#: ``label_values(metric{...}, label)``: no PromQL, but what Grafana makes variables of.
LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+),\s*(?P<label>\w+)\)")


@dataclass(frozen=True)
class Prometheus:
    """The HTTP API at an address."""

    url: str

    def instant(self, expression: str) -> list[float]:
        """Return the present value of each series, without those that are not a number."""
        result = self._ask("query", query=expression)
        samples = [result["result"]] if result["resultType"] == "scalar" else [
            series["value"] for series in result["result"]
        ]  # fmt: skip
        return _numbers(samples)

    def over(self, expression: str, seconds: float, step: float) -> list[float]:
        """Return all values of all series in the last seconds, without those that are no number."""
        now = time.time()
        result = self._ask("query_range", query=expression, start=now - seconds, end=now, step=step)
        return _numbers([sample for series in result["result"] for sample in series["values"]])

    def label_values(self, query: str) -> list[str]:
        """Return what a variable ``label_values(metric{...}, label)`` offers."""
        match = LABEL_VALUES.fullmatch(query)
        assert match, query
        found: list[str] = self._ask(f"label/{match['label']}/values", **{"match[]": match[1]})
        return found

    def _ask(self, path: str, **parameters: Any) -> Any:
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=ANSWER_SECONDS) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.read().decode()}\n{parameters}") from None


def _numbers(samples: list[list[Any]]) -> list[float]:
    return [value for _, text in samples if not math.isnan(value := float(text))]

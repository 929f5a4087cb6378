"""What a big number says when nothing answers: a word of its own, never a reassuring colour.

Without data Grafana draws the colour of the best value. So such a query answers -1, which no
series of ours has, and that has a word.
"""

from __future__ import annotations

from deploy.grafana.dashboards import colours


def or_absent(expression: str) -> str:
    """Return the expression, or -1 where it has no answer."""
    return f"({expression}) or on () vector(-1)"


def absent(word: str, colour: str = colours.BAD) -> dict[int, tuple[str, str]]:
    """Return the word for -1, to be merged with other words."""
    return {-1: (word, colour)}

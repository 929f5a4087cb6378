"""Only the rules that one alert needs: evaluating all of them for each story takes minutes."""

from __future__ import annotations

from dataclasses import replace

from deploy.prometheus.rulebook import book
from deploy.prometheus.rulebook.pace import Pace
from deploy.prometheus.rulebook.rule import Group, Recording


def rules_for(alert: str) -> tuple[Group, ...]:
    """Return the groups with this alert, and with every recording that it is made of."""
    groups = book.groups(Pace())
    every = {rule.name: rule for group in groups for rule in group.rules}
    wanted, open_names = set(), [alert]
    while open_names:
        name = open_names.pop()
        wanted.add(name)
        open_names += [
            rule.name
            for rule in every.values()
            if isinstance(rule, Recording)
            and rule.name in every[name].expression
            and rule.name not in wanted
        ]
    narrowed = (
        replace(group, rules=tuple(rule for rule in group.rules if rule.name in wanted))
        for group in groups
    )
    return tuple(group for group in narrowed if group.rules)

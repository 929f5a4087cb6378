"""Faults on demand: random ones as Mailpit's "chaos" has them, and addresses that always fail."""

import random
import re
from collections import OrderedDict
from dataclasses import asdict, dataclass, field, fields
from typing import Self

# Attempts are remembered for this many deferred addresses; the oldest are forgotten.
_REMEMBERED_ADDRESSES = 100_000

_REJECT = re.compile(r"reject-(?P<code>[45]\d\d)([-+.].*)?", re.IGNORECASE)
_DEFER = re.compile(r"defer-(?P<code>4\d\d)-(?P<attempts>\d{1,6})([-+.].*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Trigger:
    """Answers with `ErrorCode` (400 to 599) in `Probability` percent of the cases (0 to 100)."""

    # Named as in Mailpit's API, of which this is a part.
    ErrorCode: int = 451
    Probability: int = 0

    @classmethod
    def from_json(cls, name: str, value: object, default: Self) -> Self:
        """Read one trigger. ValueError says what is wrong with it."""
        if not isinstance(value, dict):
            raise ValueError(  # noqa: TRY004 - all that can be wrong is one kind of error
                f"{name} must be an object with ErrorCode and Probability"
            )
        error_code = value.get("ErrorCode", default.ErrorCode)
        probability = value.get("Probability", 0)
        if type(error_code) is not int or not 400 <= error_code <= 599:
            raise ValueError(f"{name}.ErrorCode must be a whole number from 400 to 599")
        if type(probability) is not int or not 0 <= probability <= 100:
            raise ValueError(f"{name}.Probability must be a whole number from 0 to 100 (percent)")
        return cls(error_code, probability)

    def fires(self) -> bool:
        """Whether this attempt fails, by chance."""
        return self.Probability > 0 and random.random() * 100 < self.Probability  # noqa: S311


@dataclass(frozen=True, slots=True)
class Triggers:
    """The random faults now in force, one for each step of an SMTP conversation."""

    Sender: Trigger = field(default_factory=Trigger)
    Recipient: Trigger = field(default_factory=Trigger)
    Authentication: Trigger = field(default_factory=lambda: Trigger(ErrorCode=535))

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read the body of PUT /api/v1/chaos; a trigger left out is off. ValueError if wrong."""
        names = [item.name for item in fields(cls)]
        if not isinstance(value, dict) or not set(value) <= set(names):
            raise ValueError(f"the body must be an object with any of: {', '.join(names)}")
        defaults = cls()
        return cls(
            **{
                name: Trigger.from_json(name, value[name], getattr(defaults, name))
                for name in names
                if name in value
            }
        )

    def to_json(self) -> dict[str, dict[str, int]]:
        """As GET /api/v1/chaos answers."""
        return asdict(self)


class RecipientRules:
    """Recipients that fail by their name, at any domain.

    reject-550@...    always answered with 550 (any code from 400 to 599)
    defer-451-2@...   answered with 451 at the first 2 attempts, then accepted
    Either may go on after "-", "+" or ".": reject-550+order-7@example.org.
    """

    def __init__(self) -> None:
        """Start with no attempt remembered."""
        self._attempts: OrderedDict[str, int] = OrderedDict()

    def error_code(self, address: str) -> int | None:
        """The SMTP code to refuse this attempt with, or None to accept it."""
        local_part = address.rpartition("@")[0]
        if match := _REJECT.fullmatch(local_part):
            return int(match["code"])
        if match := _DEFER.fullmatch(local_part):
            attempts = self._attempts[address] = self._attempts.get(address, 0) + 1
            if len(self._attempts) > _REMEMBERED_ADDRESSES:
                self._attempts.popitem(last=False)
            if attempts <= int(match["attempts"]):
                return int(match["code"])
        return None

"""What can go wrong when something is to go wrong."""

from __future__ import annotations

from delivery.errors import PermanentError


class FaultError(Exception):
    """A fault could not be started or ended; the text says why, for the person who asked."""


class UnknownFaultError(LookupError):
    """The catalogue has no fault of this name."""


class FaultsAreOffError(PermanentError):
    """``FAULT_INJECTION`` is not set; nothing is broken on purpose here."""

    def __init__(self) -> None:
        super().__init__("Faults on purpose are switched off (FAULT_INJECTION).")

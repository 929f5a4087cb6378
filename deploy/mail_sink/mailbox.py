"""The accepted mails, newest kept, bounded by number and by bytes."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """One accepted mail as it came in; `identifier` is unique within this process."""

    identifier: str
    received_at: datetime
    sender: str
    recipients: tuple[str, ...]
    content: bytes


@dataclass(frozen=True, slots=True)
class MailboxCounters:
    """Totals since the start. `accepted_bytes` counts mail contents only."""

    accepted: int = 0
    accepted_bytes: int = 0
    dropped: int = 0
    deleted: int = 0


class Mailbox:
    """Keeps the newest mails in memory. Safe to use from several threads."""

    def __init__(self, *, maximum_mails: int, maximum_bytes: int) -> None:
        """Bound the mailbox. ValueError when a bound is not positive."""
        if maximum_mails < 1 or maximum_bytes < 1:
            raise ValueError("the mailbox must have room for at least one mail and one byte")
        self._maximum_mails = maximum_mails
        self._maximum_bytes = maximum_bytes
        self._mails: OrderedDict[str, ReceivedMail] = OrderedDict()
        self._bytes = 0
        self._numbers = itertools.count(1)
        self._accepted = 0
        self._accepted_bytes = 0
        self._dropped = 0
        self._deleted = 0
        self._lock = threading.Lock()

    def add(self, sender: str, recipients: Collection[str], content: bytes) -> ReceivedMail:
        """Store one mail; the oldest are dropped (and counted) while a bound is exceeded."""
        with self._lock:
            mail = ReceivedMail(
                identifier=f"{next(self._numbers):010d}",
                received_at=datetime.now(UTC),
                sender=sender,
                recipients=tuple(recipients),
                content=content,
            )
            self._mails[mail.identifier] = mail
            self._bytes += len(content)
            self._accepted += 1
            self._accepted_bytes += len(content)
            while len(self._mails) > self._maximum_mails or self._bytes > self._maximum_bytes:
                _, oldest = self._mails.popitem(last=False)
                self._bytes -= len(oldest.content)
                self._dropped += 1
            return mail

    def get(self, identifier: str) -> ReceivedMail | None:
        """The mail with this identifier, or None when it is unknown, dropped or deleted."""
        with self._lock:
            return self._mails.get(identifier)

    def newest(self, *, start: int, limit: int) -> list[ReceivedMail]:
        """Up to `limit` mails, newest first, leaving out the `start` newest."""
        with self._lock:
            return list(itertools.islice(reversed(self._mails.values()), start, start + limit))

    def delete(self, identifiers: Collection[str] | None = None) -> None:
        """Delete these mails, or all without identifiers. Unknown identifiers are ignored."""
        with self._lock:
            for identifier in list(self._mails) if identifiers is None else identifiers:
                mail = self._mails.pop(identifier, None)
                if mail is not None:
                    self._bytes -= len(mail.content)
                    self._deleted += 1

    def counters(self) -> MailboxCounters:
        """Totals since the start."""
        with self._lock:
            return MailboxCounters(
                accepted=self._accepted,
                accepted_bytes=self._accepted_bytes,
                dropped=self._dropped,
                deleted=self._deleted,
            )

    def __len__(self) -> int:
        """The number of mails kept now."""
        with self._lock:
            return len(self._mails)

"""Where a page of the list ends: a cursor that stays good when its job is deleted."""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from django.db.models import Q, QuerySet

from jobs.models import Job

#: Microseconds since 1970 (as PostgreSQL keeps times), then the id: what the list is ordered by.
LAYOUT: Final = struct.Struct(">q16s")
#: Characters of a cursor. 24 bytes are 32 characters of base64, without any padding.
CURSOR_LENGTH: Final = 32
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place in the list right after a job. Clients hand it back as they got it."""

    created_at: datetime
    job_id: UUID

    @classmethod
    def after(cls, job: Job) -> Cursor:
        """Return the place after a job."""
        return cls(job.created_at, job.id)

    @classmethod
    def from_text(cls, text: str) -> Cursor:
        """Read what ``str()`` has written.

        Raises:
            ValueError: Nobody wrote that.
        """
        try:
            raw = base64.b64decode(text, altchars=b"-_", validate=True)
            microseconds, job_id = LAYOUT.unpack(raw)
            moment = EPOCH + microseconds * MICROSECOND
            if moment < EPOCH:
                raise ValueError  # noqa: TRY301 - told below, as every other fault
        except (binascii.Error, struct.error, OverflowError, ValueError):
            raise ValueError("not a cursor of this list") from None
        return cls(moment, UUID(bytes=job_id))

    def __str__(self) -> str:
        microseconds = (self.created_at - EPOCH) // MICROSECOND
        raw = LAYOUT.pack(microseconds, self.job_id.bytes)
        return base64.urlsafe_b64encode(raw).decode()

    def jobs_after(self, jobs: QuerySet[Job]) -> QuerySet[Job]:
        """Return the jobs, newest first, that come after this place."""
        return jobs.filter(
            Q(created_at__lt=self.created_at) | Q(created_at=self.created_at, id__lt=self.job_id)
        )

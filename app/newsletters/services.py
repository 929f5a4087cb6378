"""Creating a newsletter, sending its batches, and bringing its job to an end."""

from __future__ import annotations

import hashlib
import json
import smtplib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.utils import parseaddr
from typing import Final
from uuid import UUID

import structlog
from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.db import transaction
from django.db.models import Count, F, Q
from django.utils import timezone

from delivery.errors import TransientError
from jobs.models import Job, State
from jobs.services import job_finish, job_progress, job_recount, job_submit
from newsletters.models import Newsletter, Recipient, RecipientState

logger = structlog.get_logger(__name__)

KIND: Final = "newsletter"
MAXIMUM_RECIPIENTS: Final = 10_000
#: Seconds between two notes of progress by one batch.
PROGRESS_INTERVAL_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Batch:
    """Recipients of a newsletter from one position up to, not including, another."""

    newsletter_id: UUID
    first: int
    end: int

    def pending(self) -> Q:
        """Return the condition for recipients that still have to be dealt with."""
        return Q(
            newsletter_id=self.newsletter_id,
            position__gte=self.first,
            position__lt=self.end,
            state=RecipientState.PENDING,
        )


def unique_addresses(addresses: Iterable[str]) -> list[str]:
    """Return the addresses without repetitions (upper and lower case are the same), in order."""
    first: dict[str, str] = {}
    for address in addresses:
        first.setdefault(address.casefold(), address)
    return list(first.values())


def newsletter_submit(
    *,
    subject: str,
    body: str,
    recipients: Sequence[str],
    requested_by: str,
    idempotency_key: str | None = None,
) -> Job:
    """Store a newsletter with its recipients, to be sent after the commit.

    Raises:
        IdempotencyKeyReusedError: The key belongs to a different request.
    """
    addresses = unique_addresses(recipients)
    content = json.dumps([subject, body, addresses])

    def create(job: Job) -> None:
        newsletter = Newsletter.objects.create(job=job, subject=subject, body=body)
        Recipient.objects.bulk_create(
            [
                Recipient(newsletter=newsletter, position=position, address=address)
                for position, address in enumerate(addresses)
            ],
            batch_size=1000,
        )

    return job_submit(
        kind=KIND,
        total=len(addresses),
        requested_by=requested_by,
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        idempotency_key=idempotency_key,
        create_details=create,
    )


def newsletter_enqueue(job_id: UUID) -> None:
    """Have the newsletter sent if and when the current transaction commits."""
    from newsletters.tasks import send_newsletter  # noqa: PLC0415 - tasks build on services

    send_newsletter.delay_on_commit(str(job_id))


def newsletter_batches(job_id: UUID) -> list[Batch]:
    """Return the batches in which there is somebody left to write to."""
    size = settings.NEWSLETTER_BATCH_SIZE
    numbers = (
        Recipient.objects.filter(newsletter_id=job_id, state=RecipientState.PENDING)
        .annotate(batch=F("position") / size)
        .values_list("batch", flat=True)
        .distinct()
        .order_by("batch")
    )
    return [Batch(job_id, number * size, (number + 1) * size) for number in numbers]


def batch_send(batch: Batch, *, last_attempt: bool) -> None:
    """Write to everybody in the batch who is still pending, over one connection.

    Each recipient is locked while the mail is handed over and has its state committed at once.
    So a batch that is tried again, or runs twice at the same time, skips those who have their
    mail. Only where the process or the database dies between the server's yes and the commit is
    a mail sent again, with the same Message-ID.

    Args:
        batch: Whom to write to.
        last_attempt: Nobody will come back for what fails now: note it as failed.

    Raises:
        TransientError: Some may succeed later.
    """
    newsletter = Newsletter.objects.get(job_id=batch.newsletter_id)
    connection = get_connection()
    postponed: list[str] = []
    position = batch.first
    noted_at = time.monotonic()
    try:
        connection.open()
        while True:
            with transaction.atomic():
                recipient = _lock_next(batch, position)
                if recipient is None:
                    break
                position = recipient.position + 1
                reason = _send(connection, newsletter, recipient, last_attempt=last_attempt)
            if reason is not None:
                postponed.append(reason)
            if time.monotonic() - noted_at > PROGRESS_INTERVAL_SECONDS:
                newsletter_progress(batch.newsletter_id)
                noted_at = time.monotonic()
    except (OSError, smtplib.SMTPException) as error:
        # The server is away, or refuses to talk: nobody in the rest of the batch is to blame.
        postponed.append(_reason(error))
        if last_attempt:
            _fail_all(batch, _reason(error))
    finally:
        _close(connection)
    newsletter_progress(batch.newsletter_id)
    if postponed and not last_attempt:
        raise TransientError(f"{len(postponed)} postponed; last reason: {postponed[-1]}")


def newsletter_progress(job_id: UUID) -> None:
    """Count who has an end, and finish the job when all have.

    Counting is not adding: however often it is called, and by whomever at once, it is right. When
    the job ended before (cancelled, or failed), those who are left get no mail.
    """
    with transaction.atomic():
        # Of two batches that end at the same time, the second one to lock sees both.
        job = Job.objects.select_for_update().get(id=job_id)
        counts = Recipient.objects.filter(newsletter_id=job_id).aggregate(
            pending=Count("pk", filter=Q(state=RecipientState.PENDING)),
            sent=Count("pk", filter=Q(state=RecipientState.SENT)),
            failed=Count("pk", filter=Q(state=RecipientState.FAILED)),
        )
        done = counts["sent"] + counts["failed"]
        result = {"sent": counts["sent"], "failed": counts["failed"]}
        if not job.is_open:
            _cancel_pending(job_id)
            job_recount(job_id, done=done, result=result)
            return
        if counts["pending"]:
            job_progress(job_id, done=done)
            return
        nobody = counts["sent"] == 0 and job.total > 0
        job_finish(
            job_id,
            state=State.FAILED if nobody else State.SUCCEEDED,
            done=done,
            result=result,
            error=_first_error(job_id) if nobody else "",
        )


def newsletter_reopen(job_id: UUID) -> None:
    """Let recipients whose mails were cancelled with a failed job wait for them again."""
    cancelled = Recipient.objects.filter(newsletter_id=job_id, state=RecipientState.CANCELLED)
    cancelled.update(state=RecipientState.PENDING)


def _cancel_pending(job_id: UUID) -> None:
    """Note that recipients without a mail will not get one.

    A row that is locked is being written to at this moment; waiting for a mail server here would
    hold up the person who cancels. Its batch comes here again.
    """
    pending = Recipient.objects.select_for_update(skip_locked=True).filter(
        newsletter_id=job_id, state=RecipientState.PENDING
    )
    Recipient.objects.filter(pk__in=pending.values("pk")).update(state=RecipientState.CANCELLED)


def _lock_next(batch: Batch, position: int) -> Recipient | None:
    """Return the next pending recipient from a position on, with its row locked.

    Rows that another process holds are skipped: it writes to them right now. None at the end of
    the batch, or when the job is no longer running.
    """
    return (
        Recipient.objects.select_for_update(skip_locked=True, of=("self",))
        .filter(batch.pending(), position__gte=position, newsletter__job__state=State.RUNNING)
        .order_by("position")
        .first()
    )


def _send(
    connection: BaseEmailBackend,
    newsletter: Newsletter,
    recipient: Recipient,
    *,
    last_attempt: bool,
) -> str | None:
    """Hand one mail over and store the outcome; returns the reason if it has to be tried again.

    Raises:
        OSError, smtplib.SMTPException: The connection is of no use any more.
    """
    message = EmailMessage(
        subject=newsletter.subject,
        body=newsletter.body,
        to=[recipient.address],
        headers={"Message-ID": f"<{recipient.message_id}@{_sender_domain()}>"},
    )
    recipient.attempts += 1
    postponed = None
    try:
        connection.send_messages([message])
    except (smtplib.SMTPServerDisconnected, smtplib.SMTPConnectError):
        raise
    except (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused) as error:
        recipient.error = _reason(error)
        if _is_permanent(error) or last_attempt:
            recipient.state = RecipientState.FAILED
        else:
            postponed = recipient.error
    except ValueError as error:
        # The mail cannot even be written: this one is to blame, not the others.
        recipient.error = _reason(error)
        recipient.state = RecipientState.FAILED
    else:
        recipient.state = RecipientState.SENT
        recipient.sent_at = timezone.now()
        recipient.error = ""
    recipient.save(update_fields=["state", "attempts", "error", "sent_at"])
    return postponed


def _is_permanent(error: smtplib.SMTPException) -> bool:
    """Whether the server's answer is a final no (5xx, RFC 5321 §4.2.1)."""
    return 500 <= _status(error) < 600


def _status(error: smtplib.SMTPException) -> int:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return next(iter(error.recipients.values()))[0]
    return int(getattr(error, "smtp_code", 0))


def _reason(error: Exception) -> str:
    """Return the server's answer in one line of at most 500 characters."""
    answer: bytes | str
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code, answer = next(iter(error.recipients.values()))
    elif isinstance(error, smtplib.SMTPResponseException):
        code, answer = error.smtp_code, error.smtp_error
    else:
        return f"{type(error).__name__}: {error}"[:500]
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
    return f"{code} {' '.join(text.split())}"[:500]


def _fail_all(batch: Batch, reason: str) -> None:
    Recipient.objects.filter(batch.pending()).update(
        state=RecipientState.FAILED, attempts=F("attempts") + 1, error=reason
    )


def _sender_domain() -> str:
    return parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2] or "localhost"


def _first_error(job_id: UUID) -> str:
    failed = Recipient.objects.filter(newsletter_id=job_id, state=RecipientState.FAILED)
    return failed.order_by("position").values_list("error", flat=True).first() or ""


def _close(connection: BaseEmailBackend) -> None:
    """Close politely; a server that is gone already is no reason to try the batch again."""
    try:
        connection.close()
    except (OSError, smtplib.SMTPException) as error:
        logger.info("mail_connection_not_closed", error=repr(error))

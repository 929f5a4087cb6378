"""Creating a newsletter, sending its batches, and bringing its job to an end."""

from __future__ import annotations

import hashlib
import json
import smtplib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
from jobs.kinds import named_by_first_argument
from jobs.models import OPEN_STATES, Job, State
from jobs.services import job_finish, job_progress, job_recount, job_start, job_submit
from newsletters.models import Newsletter, Recipient, RecipientState

logger = structlog.get_logger(__name__)

KIND: Final = "newsletter"
MAXIMUM_RECIPIENTS: Final = 10_000
#: Seconds between two notes of progress by one batch.
PROGRESS_INTERVAL_SECONDS: Final = 0.5

PENDING: Final = Q(state=RecipientState.PENDING)


@dataclass(frozen=True, slots=True)
class Batch:
    """Recipients of a newsletter from one position up to, not including, another.

    Attributes:
        step: Positions from here to the batch that is sent after this one; 0: there is none. It
            is not looked up again, because every batch must be reached by exactly one other.
    """

    newsletter_id: UUID
    first: int
    end: int
    step: int = 0

    def members(self) -> Q:
        """Return the condition for its recipients."""
        return Q(newsletter_id=self.newsletter_id, position__gte=self.first, position__lt=self.end)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Recipients of several small newsletters, by their primary keys."""

    keys: Sequence[int]

    def members(self) -> Q:
        """Return the condition for its recipients."""
        return Q(pk__in=self.keys)


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
    waiting = len(addresses) < settings.NEWSLETTER_BUFFER_BELOW
    content = json.dumps([subject, body, addresses])

    def create(job: Job) -> None:
        newsletter = Newsletter.objects.create(job=job, subject=subject, body=body)
        Recipient.objects.bulk_create(
            [
                Recipient(
                    newsletter=newsletter, position=position, address=address, waiting=waiting
                )
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
    """Have the newsletter sent if and when the current transaction commits.

    A small one shares its batch with others; a larger one has batches of its own.
    """
    from newsletters import tasks  # noqa: PLC0415 - tasks build on services

    waiting = Recipient.objects.filter(PENDING, newsletter_id=job_id, waiting=True)
    keys = list(waiting.values_list("pk", flat=True))
    if keys:
        tasks.mix_waiting.flush_on_commit(keys)
    else:
        tasks.send_newsletter.delay_on_commit(str(job_id))


def newsletter_batches(job_id: UUID) -> list[Batch]:
    """Return the batches to begin with: those before which nobody is left to write to.

    At most ``NEWSLETTER_PARALLEL_BATCHES``; each has others following.
    """
    size, parallel = settings.NEWSLETTER_BATCH_SIZE, settings.NEWSLETTER_PARALLEL_BATCHES
    numbers = (
        Recipient.objects.filter(PENDING, newsletter_id=job_id)
        .annotate(batch=F("position") / size)
        .values_list("batch", flat=True)
        .distinct()
        .order_by("batch")
    )
    first: dict[int, int] = {}
    for number in numbers:
        first.setdefault(number % parallel, number)
    return [
        Batch(job_id, number * size, (number + 1) * size, step=parallel * size)
        for number in first.values()
    ]


def batch_following(batch: Batch) -> Batch | None:
    """Return the batch that is sent after this one; None when nobody is left from there on."""
    if not batch.step:
        return None
    following = replace(batch, first=batch.first + batch.step, end=batch.end + batch.step)
    left = Recipient.objects.filter(
        PENDING, newsletter_id=batch.newsletter_id, position__gte=following.first
    )
    return following if left.exists() else None


def recipients_mix(limit: int) -> list[int]:
    """Take recipients that wait out of the buffer, and begin their jobs; returns their keys.

    Oldest first. To be called in a transaction that also has them written to. Those that another
    process takes are left to it.
    """
    rows = list(
        Recipient.objects.select_for_update(skip_locked=True)
        .filter(PENDING, waiting=True)
        .order_by("pk")
        .values_list("pk", "newsletter_id")[:limit]
    )
    keys = [key for key, _ in rows]
    Recipient.objects.filter(pk__in=keys).update(waiting=False)
    # In order, so that two processes do not wait for each other; only those that nobody has begun.
    queued = (
        Job.objects.select_for_update()
        .filter(id__in={job_id for _, job_id in rows}, state=State.QUEUED)
        .order_by("id")
    )
    for job in queued:
        job_start(job.id)
    if rows:
        # A task for several jobs: from its id on, the log of each of them goes on.
        jobs = sorted({str(job_id) for _, job_id in rows})
        logger.info("recipients_mixed", jobs=jobs, recipients=len(rows))
    return keys


def mixture_jobs(mixture: Mixture, *, unfinished: bool = True) -> list[UUID]:
    """Return the jobs of its recipients, in a fixed order.

    Args:
        mixture: Whose jobs.
        unfinished: Only those with somebody in it who is left to be written to.
    """
    recipients = Recipient.objects.filter(mixture.members(), PENDING if unfinished else Q())
    jobs = recipients.values_list("newsletter_id", flat=True).distinct().order_by("newsletter_id")
    return list(jobs)


def batch_send(batch: Batch | Mixture, *, last_attempt: bool) -> None:
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
    connection = get_connection()
    postponed: list[str] = []
    newsletter: Newsletter | None = None
    key = 0
    written_to: set[UUID] = set()
    noted_at = time.monotonic()
    try:
        connection.open()
        while True:
            with transaction.atomic():
                recipient = _lock_next(batch, key)
                if recipient is None:
                    break
                key = recipient.pk
                if newsletter is None or newsletter.pk != recipient.newsletter_id:
                    newsletter = Newsletter.objects.get(pk=recipient.newsletter_id)
                reason = _send(connection, newsletter, recipient, last_attempt=last_attempt)
            written_to.add(newsletter.pk)
            if reason is not None:
                postponed.append(reason)
            if time.monotonic() - noted_at > PROGRESS_INTERVAL_SECONDS:
                _note_progress(written_to)
                written_to.clear()
                noted_at = time.monotonic()
    except (OSError, smtplib.SMTPException) as error:
        # The server is away, or refuses to talk: nobody in the rest of the batch is to blame.
        postponed.append(_reason(error))
        if last_attempt:
            _fail_all(batch, _reason(error))
    finally:
        _close(connection)
    # Also of those that an earlier attempt wrote to before it died.
    open_ones = Q(newsletter__job__state__in=OPEN_STATES) | PENDING
    members = Recipient.objects.filter(batch.members())
    _note_progress(members.filter(open_ones).values_list("newsletter_id", flat=True).distinct())
    left = members.filter(PENDING, newsletter__job__state=State.RUNNING)
    if not postponed and left.exists():
        # By a process that is dead or frozen, perhaps: whoever is locked must not be forgotten.
        raise TransientError("somebody is being written to by another process")
    if postponed and not last_attempt:
        raise TransientError(f"{len(postponed)} postponed; last reason: {postponed[-1]}")


def _note_progress(job_ids: Iterable[UUID]) -> None:
    for job_id in sorted(job_ids):
        newsletter_progress(job_id)


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
    """Have recipients whose mails were cancelled with a failed job written to after all.

    Their own batches may have ended meanwhile: nobody would come for them.
    """
    from newsletters import tasks  # noqa: PLC0415 - as above

    cancelled = Recipient.objects.filter(newsletter_id=job_id, state=RecipientState.CANCELLED)
    if cancelled.update(state=RecipientState.PENDING, waiting=False):
        tasks.send_newsletter.delay_on_commit(str(job_id))


def newsletter_deliveries(job_id: UUID) -> Q:
    """Return the condition for the tasks that work for a newsletter: its own, and shared ones."""
    found = named_by_first_argument(job_id)
    if Newsletter.objects.filter(job_id=job_id, job__total__lt=settings.NEWSLETTER_BUFFER_BELOW):
        for key in Recipient.objects.filter(newsletter_id=job_id).values_list("pk", flat=True):
            found |= Q(task="newsletters.send_mixture", args__0__contains=[key])
    return found


def _cancel_pending(job_id: UUID) -> None:
    """Note that recipients without a mail will not get one.

    A row that is locked is being written to at this moment; waiting for a mail server here would
    hold up the person who cancels. Its batch comes here again.
    """
    pending = Recipient.objects.select_for_update(skip_locked=True).filter(
        newsletter_id=job_id, state=RecipientState.PENDING
    )
    Recipient.objects.filter(pk__in=pending.values("pk")).update(state=RecipientState.CANCELLED)


def _lock_next(batch: Batch | Mixture, key: int) -> Recipient | None:
    """Return the pending recipient after the one with that key, with its row locked.

    Rows that another process holds are skipped: it writes to them right now. None at the end of
    the batch. Those whose job is no longer running are left out.
    """
    return (
        Recipient.objects.select_for_update(skip_locked=True, of=("self",))
        .filter(batch.members(), PENDING, pk__gt=key, newsletter__job__state=State.RUNNING)
        .order_by("pk")
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


def _fail_all(batch: Batch | Mixture, reason: str) -> None:
    Recipient.objects.filter(batch.members(), PENDING).update(
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

"""Taking in a picture, making its files, and bringing its job to an end."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid5

import psycopg
import structlog
from django.db import connection, transaction
from django.db.models import F

from delivery import canvas, ledger
from delivery.models import OPEN_STATES, Delivery
from images.formats import Format
from images.inspection import PictureRefusedError, inspect
from images.models import File, FileKind, Picture
from images.naming import CONTACT_SHEET, MANIFEST, rendition_name, safe_name
from images.rendering import MAXIMUM_HEIGHT, Rendered, contact_sheet, fitted, render
from jobs.models import OPEN_STATES as OPEN_JOB_STATES
from jobs.models import Job, State
from jobs.services import job_finish, job_progress, job_start, job_submit

__all__ = ["PictureRefusedError"]

logger = structlog.get_logger(__name__)

KIND: Final = "images"
#: Pixels, as pages ask for them in ``srcset``: from a phone's column to a full screen.
WIDTHS: Final = (320, 640, 960, 1280, 1920)
#: WebP for browsers, JPEG for all others.
RENDITION_FORMATS: Final = (Format.WEBP, Format.JPEG)
#: Kinds of files that count as progress.
COUNTED_KINDS: Final = (FileKind.RENDITION, FileKind.CONTACT_SHEET)

_INSERT: Final = """
    INSERT INTO images_file (job_id, name, kind, content_type, width, height, size, sha256, content,
        created_at)
    VALUES (%(job_id)s, %(name)s, %(kind)s, %(content_type)s, %(width)s, %(height)s, %(size)s,
        %(sha256)s, %(content)b, statement_timestamp())
    ON CONFLICT (job_id, name) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Rendition:
    """A picture to be made of an original.

    Attributes:
        width: Pixels.
        form: WebP or JPEG.
    """

    width: int
    form: Format

    @property
    def name(self) -> str:
        """The name of its file."""
        return rendition_name(self.width, self.form)


def renditions_of(width: int, height: int) -> list[Rendition]:
    """Return what is made of an original of this size, smallest first.

    Nothing is enlarged. An original that is narrower than some of ``WIDTHS`` gets one at its own
    width instead of those; one that is very high gets none that is higher than ``MAXIMUM_HEIGHT``.
    """
    widths = {fitted(width, height, wanted, MAXIMUM_HEIGHT)[0] for wanted in WIDTHS}
    return [Rendition(each, form) for each in sorted(widths) for form in RENDITION_FORMATS]


def picture_submit(
    *, name: str, content: bytes, requested_by: str, idempotency_key: str | None = None
) -> Job:
    """Store a picture, to be rendered after the commit.

    Args:
        name: What its file is called; only shown to people.
        content: The file.
        requested_by: Name of the caller.
        idempotency_key: The caller's key, or None.

    Raises:
        PictureRefusedError: It is not a picture that is accepted.
        IdempotencyKeyReusedError: The key belongs to a different request.
    """
    header = inspect(content)
    harmless = safe_name(name, header.format)

    def create(job: Job) -> None:
        Picture.objects.create(
            job=job,
            name=harmless,
            format=header.format,
            width=header.width,
            height=header.height,
        )
        _store(
            job.id,
            harmless,
            FileKind.ORIGINAL,
            header.format.content_type,
            Rendered(content, header.width, header.height),
        )

    fingerprint = hashlib.sha256(content)
    fingerprint.update(harmless.encode())
    return job_submit(
        kind=KIND,
        # And the contact sheet.
        total=len(renditions_of(header.width, header.height)) + 1,
        requested_by=requested_by,
        fingerprint=fingerprint.hexdigest(),
        idempotency_key=idempotency_key,
        create_details=create,
    )


def picture_enqueue(job_id: UUID) -> None:
    """Have what is missing made if and when the current transaction commits.

    Also reopens a failed job: the members of its chord that were cancelled cannot go on, so there
    is a new one (``Picture.rounds``) for the renditions that are not there yet.
    """
    from images.tasks import render_picture  # noqa: PLC0415 - tasks build on services

    Picture.objects.filter(job_id=job_id).update(rounds=F("rounds") + 1)
    number = Picture.objects.values_list("rounds", flat=True).get(job_id=job_id)
    render_picture.apply_on_commit(
        (str(job_id), number), task_id=_delivery_id(job_id, number, "plan")
    )


def picture_plan(job_id: UUID, number: int) -> int:
    """Enter the tasks of a round: the renditions that are missing, then the contact sheet.

    Returns:
        How many renditions; 0 also when there is nothing to do (any more).
    """
    from images.tasks import assemble_files, make_rendition  # noqa: PLC0415 - as above

    picture = Picture.objects.filter(job_id=job_id, rounds=number).first()
    if picture is None or not job_start(job_id):
        return 0
    present = set(File.objects.filter(job_id=job_id).values_list("name", flat=True))
    missing = [
        rendition
        for rendition in renditions_of(picture.width, picture.height)
        if rendition.name not in present
    ]
    canvas.chord(
        [
            make_rendition.si(str(job_id), rendition.width, str(rendition.form)).set(
                task_id=_delivery_id(job_id, number, rendition.name)
            )
            for rendition in missing
        ],
        assemble_files.si(str(job_id)).set(task_id=_delivery_id(job_id, number, CONTACT_SHEET)),
    )
    return len(missing)


def picture_release(job_id: UUID) -> None:
    """Cancel what the ledger still has for a job that ended early. Files that are made stay.

    A row that is locked is being committed at this moment: waiting for it could be a deadlock, and
    is of no use. Its task finds that the job has ended.
    """
    picture = Picture.objects.filter(job_id=job_id).first()
    if picture is None:
        return
    names = [rendition.name for rendition in renditions_of(picture.width, picture.height)]
    ids = [
        _delivery_id(job_id, number, name)
        for number in range(1, picture.rounds + 1)
        for name in ["plan", *names, CONTACT_SHEET]
    ]
    with transaction.atomic():
        mine = Delivery.objects.select_for_update(skip_locked=True, of=("self",)).filter(
            id__in=ids, state__in=OPEN_STATES
        )
        ledger.cancel([row.id for row in mine.only("id")], "Its job has ended.")


def rendition_make(job_id: UUID, rendition: Rendition) -> Rendered | None:
    """Make a rendition; None when the job has ended or the file is there already.

    Raises:
        PictureDamagedError: The original cannot be decoded.
    """
    files = File.objects.filter(job_id=job_id, job__state__in=OPEN_JOB_STATES)
    if files.filter(name=rendition.name).exists():
        return None
    content = _content(files.filter(kind=FileKind.ORIGINAL))
    return None if content is None else render(content, rendition.width, rendition.form)


def rendition_store(job_id: UUID, rendition: Rendition, made: Rendered) -> None:
    """Store a rendition and count, unless the job has ended meanwhile."""
    with transaction.atomic():
        if not _lock_open(job_id):
            return
        _store(job_id, rendition.name, FileKind.RENDITION, rendition.form.content_type, made)
        job_progress(job_id, done=_done(job_id))


def contact_sheet_make(job_id: UUID) -> Rendered | None:
    """Draw the contact sheet; None when the job has ended, or another round is not ready yet.

    Raises:
        PictureDamagedError: A rendition cannot be decoded.
    """
    picture = Picture.objects.select_related("job").filter(job_id=job_id).first()
    if picture is None or not picture.job.is_open:
        return None
    wanted = [rendition.name for rendition in renditions_of(picture.width, picture.height)]
    files = {file.name: file for file in File.objects.filter(job_id=job_id, name__in=wanted)}
    if len(files) < len(wanted):
        # A member of an earlier round left because the job had failed then. The round that was
        # entered when it was reopened is making the file, and ends the job.
        logger.info("renditions_missing", job_id=str(job_id), present=len(files))
        return None
    return contact_sheet(
        [(_caption(files[name]), _content(File.objects.filter(pk=files[name].pk)) or b"")
         for name in wanted]
    )  # fmt: skip


def picture_finish(job_id: UUID, sheet: Rendered) -> None:
    """Store contact sheet and manifest, and end the job; one that has ended stays as it is."""
    with transaction.atomic():
        if not _lock_open(job_id):
            return
        _store(job_id, CONTACT_SHEET, FileKind.CONTACT_SHEET, Format.WEBP.content_type, sheet)
        picture = Picture.objects.get(job_id=job_id)
        files = list(File.objects.filter(job_id=job_id).order_by("pk"))
        manifest = Rendered(_manifest(picture, files), 0, 0)
        _store(job_id, MANIFEST, FileKind.MANIFEST, "application/json", manifest)
        original = next(file for file in files if file.kind == FileKind.ORIGINAL)
        renditions = [file for file in files if file.kind == FileKind.RENDITION]
        result = {
            "original": _facts(original),
            "files": [_facts(file) for file in sorted(renditions, key=_by_size)],
            "contact_sheet": CONTACT_SHEET,
            "manifest": MANIFEST,
        }
        job_finish(job_id, state=State.SUCCEEDED, done=_done(job_id), result=result)


def file_content(file: File) -> bytes | None:
    """Return the content of a file; None when it was deleted meanwhile."""
    return _content(File.objects.filter(pk=file.pk))


def _delivery_id(job_id: UUID, number: int, what: str) -> str:
    """Return the id of a task of a round: known without a table of them, and entered once."""
    return str(uuid5(job_id, f"{number} {what}"))


def _lock_open(job_id: UUID) -> bool:
    """Lock the job; returns False when it has ended.

    Of two tasks that end at the same time, the second one to lock sees and counts both files.
    """
    open_jobs = Job.objects.select_for_update().filter(id=job_id, state__in=OPEN_JOB_STATES)
    return open_jobs.only("id").first() is not None


def _store(job_id: UUID, name: str, kind: FileKind, content_type: str, made: Rendered) -> None:
    """Store a file, unless there is one with this name: what was there first stays."""
    values = {
        "job_id": job_id,
        "name": name,
        "kind": str(kind),
        "content_type": content_type,
        "width": made.width or None,
        "height": made.height or None,
        "size": len(made.content),
        "sha256": hashlib.sha256(made.content).hexdigest(),
        "content": made.content,
    }
    # Past Django's cursor, which writes values into the statement, bytes as hexadecimal text: that
    # took 70 MB for a file of 10 MB.
    connection.ensure_connection()
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
        cursor.execute(_INSERT, values)


def _content(files: Any) -> bytes | None:
    content = files.values_list("content", flat=True).first()
    return None if content is None else bytes(content)


def _done(job_id: UUID) -> int:
    return File.objects.filter(job_id=job_id, kind__in=COUNTED_KINDS).count()


def _facts(file: File) -> dict[str, Any]:
    form = next(form for form in Format if form.content_type == file.content_type)
    return {
        "name": file.name,
        "format": str(form),
        "width": file.width,
        "height": file.height,
        "bytes": file.size,
    }


def _by_size(file: File) -> tuple[int, int]:
    order = [form.content_type for form in RENDITION_FORMATS]
    return file.width or 0, order.index(file.content_type)


def _caption(file: File) -> str:
    form = file.content_type.rpartition("/")[2].upper()
    kilobytes = max(1, round(file.size / 1000))
    return f"{file.width} x {file.height}  {form}  {kilobytes:,} kB"


def _manifest(picture: Picture, files: list[File]) -> bytes:
    """Return what the job has made, for programs."""
    renditions = sorted((file for file in files if file.kind == FileKind.RENDITION), key=_by_size)
    others = [file for file in files if file.kind != FileKind.RENDITION]
    content = {
        "job": str(picture.job_id),
        "files": [
            {"kind": file.kind, **_facts(file), "content_type": file.content_type,
             "sha256": file.sha256}
            for file in [*others, *renditions]
        ],
    }  # fmt: skip
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"

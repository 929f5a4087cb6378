"""HTTP routes of images: submit a picture, and read the files of a job."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import reverse
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header
from ninja import File as FileParameter
from ninja import Router, Schema, Status, UploadedFile
from ninja.errors import HttpError
from pydantic import Field

from images.formats import Format
from images.inspection import MAXIMUM_BYTES
from images.models import File, FileKind
from images.services import PictureRefusedError, file_content, picture_submit
from jobs.api import (
    SUBMISSION_RESPONSES,
    IdempotencyKey,
    accepted,
    caller_of,
    job_or_404,
)
from jobs.models import Job

router = Router(tags=["images"])

#: A file never changes, so a browser need not ask again within a year; nobody else may keep it.
CACHE_CONTROL: Final = "private, max-age=31536000, immutable"

_FILE_RESPONSES: Final = {
    200: {
        "description": "The file",
        "content": {
            content_type: {"schema": {"type": "string", "format": "binary"}}
            for content_type in [*(form.content_type for form in Format), "application/json"]
        },
    },
    304: {"description": "The file is the one named by `If-None-Match`"},
    412: {"description": "The file is not the one named by `If-Match`"},
}


class FileOut(Schema):
    """A file of a job."""

    name: str
    kind: FileKind
    content_type: str
    width: int | None = Field(description="Pixels; null for files that are no pictures.")
    height: int | None
    bytes: int = Field(validation_alias="size")
    sha256: str
    url: str

    @staticmethod
    def resolve_url(file: File) -> str:
        """Return where the file is."""
        return file_url(file)


def file_url(file: File) -> str:
    """Return the address of a file, without the host."""
    return reverse("api:get_file", args=[file.job_id, file.name])


@router.post(
    "/images",
    response=SUBMISSION_RESPONSES,
    summary="Make renditions of a picture",
)
def submit_picture(
    request: HttpRequest,
    response: HttpResponse,
    file: Annotated[
        UploadedFile,
        FileParameter(
            description="JPEG, PNG, WebP or GIF, at most 10 MB. Its content decides, not its name."
        ),
    ],
    idempotency_key: IdempotencyKey = None,
) -> Status[Job]:
    """Store the picture and answer; its renditions are made in the background."""
    # What is too large is refused after that many bytes, however many there are.
    content = file.read(MAXIMUM_BYTES + 1)
    try:
        job = picture_submit(
            name=file.name or "",
            content=content,
            requested_by=caller_of(request),
            idempotency_key=idempotency_key,
        )
    except PictureRefusedError as error:
        raise HttpError(error.status, str(error)) from None
    return accepted(response, job)


@router.get(
    "/{uuid:job_id}/files",
    response=list[FileOut],
    summary="List the files of a job",
)
def list_files(request: HttpRequest, job_id: UUID) -> Any:
    """List the files of a job in the order in which they were made, the original first."""
    job_or_404(job_id)
    return File.objects.filter(job_id=job_id).order_by("pk")


@router.get(
    "/{uuid:job_id}/files/{name}",
    summary="Download a file of a job",
    openapi_extra={"responses": _FILE_RESPONSES},
)
def get_file(request: HttpRequest, job_id: UUID, name: str) -> HttpResponseBase:
    """Send a file, to be shown in the browser. ``If-None-Match`` saves the transfer."""
    job_or_404(job_id)
    # PostgreSQL knows no text with U+0000.
    file = None if "\0" in name else File.objects.filter(job_id=job_id, name=name).first()
    if file is None:
        raise _no_such_file()
    etag = f'"{file.sha256}"'
    response = get_conditional_response(request, etag=etag)
    if response is None:
        content = b"" if request.method == "HEAD" else file_content(file)
        if content is None:
            raise _no_such_file()
        response = HttpResponse(content, content_type=file.content_type)
        response["Content-Length"] = str(file.size)
        disposition = content_disposition_header(as_attachment=False, filename=file.name)
        response["Content-Disposition"] = disposition or "inline"
    response["ETag"] = etag
    response["Cache-Control"] = CACHE_CONTROL
    return response


@router.api_operation(["HEAD"], "/{uuid:job_id}/files/{name}", include_in_schema=False)
def head_file(request: HttpRequest, job_id: UUID, name: str) -> HttpResponseBase:
    """Say what ``get_file`` would send, without reading the content."""
    return get_file(request, job_id, name)


def _no_such_file() -> HttpError:
    return HttpError(404, "This job has no such file.")

"""Pictures from the upload to the last file, with a real broker, worker and web process."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import timedelta
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
from django.contrib.auth import get_user_model
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from PIL import Image
from redis import Redis

from delivery import ledger, publishing
from delivery.models import OPEN_STATES, Delivery
from delivery.models import State as DeliveryState
from housekeeping.services import delete_in_batches, old_jobs
from images.formats import Format
from images.models import File, FileKind
from images.rendering import Rendered
from images.services import (
    Rendition,
    picture_plan,
    picture_submit,
    rendition_make,
    rendition_store,
    renditions_of,
)
from jobs.models import Job, State
from jobs.services import job_cancel, job_fail
from tests.conftest import broker_is_idle
from tests.integration.conftest import COMMIT_SECONDS, TOKEN, assert_error, wait_for_end
from tests.support.pictures import encoded, photograph
from tests.support.roles import Role, Web, running_worker, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

SMALL = photograph(700, 500)
NAMES = {
    f"{width}w{suffix}" for width in (320, 640, 960, 1280, 1920) for suffix in (".webp", ".jpg")
}


@cache
def large() -> bytes:
    """Return a picture whose renditions take long enough to have something happen meanwhile."""
    return photograph(5400, 4400, quality=60)


def submit(content: bytes = SMALL, **options: Any) -> Job:
    return picture_submit(
        name=options.pop("name", "photo.jpg"), content=content, requested_by="tester", **options
    )


def names(job: Job) -> set[str]:
    return set(File.objects.filter(job=job).values_list("name", flat=True))


def has_rendition(job: Job) -> bool:
    return File.objects.filter(job=job, kind=FileKind.RENDITION).exists()


def open_deliveries() -> int:
    return Delivery.objects.filter(state__in=OPEN_STATES).count()


def assert_complete(job: Job, original: str = "photo.jpg") -> None:
    """Check a job that has succeeded: the right files, each once, and nothing left to do."""
    assert (job.state, job.error) == (State.SUCCEEDED, "")
    files = list(File.objects.filter(job=job).order_by("pk"))
    assert sorted(file.name for file in files) == sorted(
        {original, "contact-sheet.webp", "manifest.json", *NAMES}
    )
    assert (job.done, job.total) == (11, 11)
    for file in files:
        content = bytes(file.content)
        assert len(content) == file.size
        if file.kind != FileKind.MANIFEST:
            assert Image.open(BytesIO(content)).size == (file.width, file.height)
    wait_until(lambda: not open_deliveries(), what="nothing is open in the ledger")


# --- From upload to manifest ----------------------------------------------------------------------


def test_a_picture_becomes_renditions_a_contact_sheet_and_a_manifest(bulk_worker: Role) -> None:
    job = wait_for_end(submit(photograph(2000, 1500), name="Häuser am See.jpeg"))

    assert_complete(job, "Häuser am See.jpg")
    assert job.attempts == 1
    result = job.result
    assert result["original"] == {
        "name": "Häuser am See.jpg", "format": "jpeg", "width": 2000, "height": 1500,
        "bytes": File.objects.get(job=job, kind="original").size,
    }  # fmt: skip
    assert [(each["name"], each["width"], each["height"]) for each in result["files"]][:3] == [
        ("320w.webp", 320, 240), ("320w.jpg", 320, 240), ("640w.webp", 640, 480),
    ]  # fmt: skip
    assert (result["contact_sheet"], result["manifest"]) == ("contact-sheet.webp", "manifest.json")
    manifest = json.loads(bytes(File.objects.get(job=job, name="manifest.json").content))
    assert [each["kind"] for each in manifest["files"]] == [
        "original", "contact_sheet", *["rendition"] * 10,
    ]  # fmt: skip
    assert {each["sha256"] for each in manifest["files"]} == set(
        File.objects.filter(job=job).exclude(kind="manifest").values_list("sha256", flat=True)
    )


def test_a_narrow_picture_gets_fewer_files_and_its_job_ends(bulk_worker: Role) -> None:
    job = wait_for_end(submit(encoded(Image.new("RGBA", (1, 1)), "PNG"), name="dot.png"))

    assert (job.state, job.done, job.total) == (State.SUCCEEDED, 3, 3)
    assert names(job) == {"dot.png", "1w.webp", "1w.jpg", "contact-sheet.webp", "manifest.json"}


def test_a_repeated_submission_is_one_job(bulk_worker: Role) -> None:
    key = str(uuid4())

    assert submit(idempotency_key=key) == submit(idempotency_key=key)
    assert wait_for_end(Job.objects.get()).state == State.SUCCEEDED


def test_a_rolled_back_submission_leaves_nothing(empty_broker: Redis) -> None:
    class Undone(Exception):  # noqa: N818 - not an error
        pass

    with suppress(Undone), transaction.atomic():
        submit()
        raise Undone

    assert not Job.objects.exists() and not File.objects.exists()
    assert broker_is_idle(empty_broker)


# --- When something goes wrong --------------------------------------------------------------------


def corrupt(job: Job) -> bytes:
    """Cut the original in half behind the application's back; returns it as it was."""
    original = File.objects.filter(job=job, kind=FileKind.ORIGINAL)
    content = bytes(original.get().content)
    original.update(content=content[: len(content) // 2])
    return content


def test_data_that_cannot_be_decoded_fails_the_job_with_a_sentence(bulk_worker: Role) -> None:
    with transaction.atomic():
        job = submit(photograph(2000, 1500))
        corrupt(job)

    job = wait_for_end(job)

    assert job.state == State.FAILED
    assert job.error.startswith("The picture cannot be decoded: image file is truncated")
    wait_until(lambda: not open_deliveries(), what="nothing is open in the ledger")
    assert names(job) == {"photo.jpg"}


def test_a_rendition_that_fails_for_good_ends_the_job_and_its_replay_ends_it_well(
    bulk_worker: Role, broker: Redis
) -> None:
    job = submit(large())
    wait_until(lambda: has_rendition(job), timeout=60, what="the first rendition")
    content = corrupt(job)
    job = wait_for_end(job)

    assert (job.state, job.result) == (State.FAILED, None)
    assert job.error.startswith("The picture cannot be decoded")
    wait_until(lambda: not open_deliveries(), what="nothing is open in the ledger")
    # What was made before stays, and is counted.
    made = File.objects.filter(job=job, kind=FileKind.RENDITION).count()
    assert job.done == made and 0 < made < 10
    states = set(Delivery.objects.values_list("state", flat=True))
    assert {DeliveryState.DEAD, DeliveryState.CANCELLED} <= states
    wait_until(lambda: broker_is_idle(broker), timeout=60, what="no orphan is running")
    assert File.objects.filter(job=job, kind=FileKind.RENDITION).count() == made

    File.objects.filter(job=job, kind=FileKind.ORIGINAL).update(content=content)
    ledger.replay(Delivery.objects.filter(state=DeliveryState.DEAD).values_list("id", flat=True))

    assert_complete(wait_for_end(job))
    assert job.attempts == 2


def test_cancelling_stops_within_one_rendition_and_keeps_what_is_made(bulk_worker: Role) -> None:
    job = submit(large())
    wait_until(lambda: has_rendition(job), timeout=60, what="the first rendition")
    job = job_cancel(job.id)
    present = names(job)

    assert (job.state, job.done) == (State.CANCELLED, len(present) - 1)
    # Nothing waits in the ledger from that moment on, but what a worker was taking just then; and
    # nothing is stored any more.
    wait_until(lambda: not open_deliveries(), what="workers have left the job")
    assert names(job) == present
    assert len(present) < 11


@pytest.fixture
def unpublished(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave all messages to a relay that does not run."""
    monkeypatch.setattr(publishing, "publish_or_leave", lambda _messages: None)


def planned(content: bytes = SMALL) -> Job:
    job = submit(content)
    picture_plan(job.id, 1)
    return job


def test_a_rendition_that_runs_twice_leaves_one_row(unpublished: None) -> None:
    job = planned()
    rendition = Rendition(320, Format.JPEG)
    first, second = (rendition_make(job.id, rendition) for _ in range(2))
    assert first is not None and second is not None

    rendition_store(job.id, rendition, first)
    rendition_store(job.id, rendition, Rendered(b"another", 1, 1))

    assert bytes(File.objects.get(name="320w.jpg").content) == first.content
    job.refresh_from_db()
    assert job.done == 1
    assert rendition_make(job.id, rendition) is None


@pytest.mark.parametrize("end", [job_cancel, lambda job_id: job_fail(job_id, "a reason")])
def test_a_job_that_has_ended_gets_no_file_and_leaves_no_open_delivery(
    unpublished: None, end: Any
) -> None:
    job = planned()
    assert open_deliveries() == 1 + len(renditions_of(700, 500))
    rendition = Rendition(320, Format.JPEG)
    made = rendition_make(job.id, rendition)
    assert made is not None

    end(job.id)
    rendition_store(job.id, rendition, made)

    assert rendition_make(job.id, rendition) is None
    assert names(job) == {"photo.jpg"}
    assert not open_deliveries()
    assert picture_plan(job.id, 1) == 0


def test_a_plan_of_an_earlier_round_enters_nothing(unpublished: None) -> None:
    job = planned()
    job_fail(job.id, "a reason")
    plan = Delivery.objects.get(task="images.render_picture")
    Delivery.objects.filter(id=plan.id).update(state=DeliveryState.DEAD)
    # The roles of this module must not see it, or they would work on it.
    with transaction.atomic():
        ledger.replay([plan.id])
        assert open_deliveries() == 2
        assert picture_plan(job.id, 1) == 0
        assert picture_plan(job.id, 2) == 6
        transaction.set_rollback(True)


# --- Pull the plug --------------------------------------------------------------------------------


def test_a_killed_pool_process_costs_no_file_and_doubles_none(bulk_worker: Role) -> None:
    job = submit(large())
    wait_until(lambda: has_rendition(job), timeout=60, what="the first rendition")
    wait_until(kill_one_in_mid_work, timeout=60, what="a process was killed in mid-work")

    assert_complete(wait_for_end(job, 110))
    assert Delivery.objects.filter(interruptions__gt=0).exists()


def test_a_killed_worker_costs_no_file_and_doubles_none(
    bulk_worker: Role, role_settings: dict[str, str], broker: Redis, tmp_path: Path
) -> None:
    """One of two workers loses its main process and all below it, as with its machine."""
    with running_worker(
        tmp_path, name="doomed", WORKER_SERVICE="worker-bulk", WORKER_CONCURRENCY="2",
        **role_settings,
    ) as doomed:  # fmt: skip
        jobs = [submit(large()), submit(large())]
        children = {child.pid for child in psutil.Process(doomed.process.pid).children()}

        def held() -> list[UUID]:
            running = Delivery.objects.filter(state=DeliveryState.RUNNING)
            return [row.id for row in running if int(row.worker.rpartition(":")[2]) in children]

        def frozen_in_mid_job() -> bool:
            if not has_rendition(jobs[0]) or not held():
                return False
            os.killpg(doomed.process.pid, signal.SIGSTOP)
            time.sleep(COMMIT_SECONDS)
            if held():
                return True
            os.killpg(doomed.process.pid, signal.SIGCONT)
            return False

        wait_until(frozen_in_mid_job, what="the worker has begun something in mid-job")
        os.killpg(doomed.process.pid, signal.SIGKILL)
        doomed.process.wait()
        lost = held()
        assert lost
        # Their leases of 30 s run out now, so that the test need not wait for it.
        Delivery.objects.filter(id__in=lost).update(due_at=timezone.now())

    for job in jobs:
        assert_complete(wait_for_end(job, 110))
    assert Delivery.objects.filter(id__in=lost, interruptions__gt=0).exists()
    # Its messages would come back after the visibility timeout, and find the work done.
    broker.delete("unacked", "unacked_index")


def kill_one_in_mid_work() -> bool:
    """Freeze a process that holds a delivery; kill it if it has not finished before that."""
    for pid in workers_of_running_deliveries():
        os.kill(pid, signal.SIGSTOP)
        time.sleep(COMMIT_SECONDS)
        at_work = pid in workers_of_running_deliveries()
        os.kill(pid, signal.SIGKILL if at_work else signal.SIGCONT)
        if at_work:
            return True
    return False


def workers_of_running_deliveries() -> set[int]:
    running = Delivery.objects.filter(state=DeliveryState.RUNNING, task="images.make_rendition")
    return {int(worker.rpartition(":")[2]) for worker in running.values_list("worker", flat=True)}


# --- Retention ------------------------------------------------------------------------------------


def test_files_go_with_their_job_and_are_not_loaded_for_that(unpublished: None) -> None:
    job = submit()
    long_ago = timezone.now() - timedelta(days=400)
    Job.objects.update(state=State.CANCELLED, finished_at=long_ago)

    with CaptureQueriesContext(connection) as queries:
        delete_in_batches(old_jobs())

    assert not Job.objects.filter(id=job.id).exists() and not File.objects.exists()
    assert not any('"content"' in query["sql"] for query in queries)


# --- HTTP -----------------------------------------------------------------------------------------


@pytest.fixture
def api(redis: object, unpublished: None) -> Client:
    return Client(headers={"Authorization": f"Bearer {TOKEN}"})


def upload(client: Client, content: bytes, name: str = "photo.jpg", **headers: str) -> Any:
    file = SimpleUploadedFile(name, content, "text/html")
    return client.post("/api/jobs/images", {"file": file}, headers=headers)


def test_an_upload_is_answered_with_the_address_of_its_job(api: Client) -> None:
    response = upload(api, SMALL, **{"Idempotency-Key": "one"})

    assert response.status_code == 202
    body = response.json()
    assert response["Location"] == f"/api/jobs/{body['id']}"
    assert (body["kind"], body["state"], body["total"]) == ("images", "queued", 7)
    assert upload(api, SMALL, **{"Idempotency-Key": "one"}).json()["id"] == body["id"]
    assert_error(upload(api, large(), **{"Idempotency-Key": "one"}), 409, "conflict")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        pytest.param(b"<svg/>", 415, "unsupported_media_type", id="SVG"),
        pytest.param(SMALL[:-50], 422, "invalid", id="truncated"),
        pytest.param(b"", 422, "invalid", id="empty"),
        pytest.param(b"\xff\xd8\xff" + bytes(10 * 1024 * 1024), 413, "too_large", id="10 MB"),
    ],
)
def test_bad_pictures_are_refused_with_a_sentence_and_nothing_is_stored(
    api: Client, content: bytes, status: int, code: str
) -> None:
    response = upload(api, content)

    assert_error(response, status, code)
    assert "picture" in response.json()["message"] or "empty" in response.json()["message"]
    assert not Job.objects.exists() and not File.objects.exists()


def test_requests_without_a_file_are_refused(api: Client) -> None:
    assert_error(api.post("/api/jobs/images"), 422, "invalid")
    assert_error(api.post("/api/jobs/images", {"file": "text"}), 422, "invalid")
    assert_error(
        api.post("/api/jobs/images", b"{}", content_type="application/json"),
        415,
        "unsupported_media_type",
    )
    assert_error(
        api.post("/api/jobs/images", b"x", content_type="multipart/form-data"), 400, "bad_request"
    )
    assert_error(upload(api, SMALL, **{"Idempotency-Key": "ü"}), 422, "invalid")
    assert not Job.objects.exists()


def test_callers_without_a_token_get_401(api: Client) -> None:
    job = submit()
    for path in ("files", "files/photo.jpg"):
        assert_error(Client().get(f"/api/jobs/{job.id}/{path}"), 401, "unauthenticated")
    assert_error(upload(Client(), SMALL), 401, "unauthenticated")


def test_files_are_listed_and_sent_to_be_shown_and_kept(api: Client) -> None:
    job = submit(name='Ä "quoted" name.jpg')
    listed = api.get(f"/api/jobs/{job.id}/files").json()

    assert [(file["name"], file["kind"], file["bytes"]) for file in listed] == [
        ("Ä -quoted- name.jpg", "original", len(SMALL))
    ]
    response = api.get(listed[0]["url"])
    assert response.status_code == 200
    assert response.content == SMALL
    assert response["Content-Type"] == "image/jpeg"
    assert response["Content-Length"] == str(len(SMALL))
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Cache-Control"] == "private, max-age=31536000, immutable"
    assert response["Content-Disposition"] == (
        "inline; filename*=utf-8''%C3%84%20-quoted-%20name.jpg"
    )
    assert response["ETag"] == f'"{listed[0]["sha256"]}"'

    again = api.get(listed[0]["url"], headers={"If-None-Match": response["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again["Cache-Control"] == response["Cache-Control"]


def test_a_head_request_says_the_same_without_reading_the_content(api: Client) -> None:
    url = f"/api/jobs/{submit().id}/files/photo.jpg"
    with CaptureQueriesContext(connection) as queries:
        response = api.head(url)

    assert (response.status_code, response.content) == (200, b"")
    for name in ("Content-Type", "Content-Length", "ETag", "Cache-Control", "Content-Disposition"):
        assert response[name] == api.get(url)[name]
    assert not any('"content"' in query["sql"] for query in queries)


def test_unknown_files_and_jobs_are_404_in_the_one_shape(api: Client) -> None:
    job = submit()
    for path in (
        f"{job.id}/files/nothing.webp", f"{job.id}/files/%00", f"{job.id}/files/a%2Fb",
        f"{uuid4()}/files", f"{uuid4()}/files/photo.jpg", "none/files",
    ):  # fmt: skip
        assert_error(api.get(f"/api/jobs/{path}"), 404, "not_found")
    newsletter = Job.objects.create(kind="newsletter")
    assert api.get(f"/api/jobs/{newsletter.id}/files").json() == []


def test_the_admin_lists_files_without_their_content(api: Client, client: Client) -> None:
    job = submit()
    client.force_login(get_user_model().objects.create_superuser("ada"))
    file = File.objects.get()
    with CaptureQueriesContext(connection) as queries:
        listing = client.get("/admin/images/file/")
        one = client.get(f"/admin/images/file/{file.pk}/change/")
        pictures = client.get("/admin/images/picture/")
        assert client.get(f"/admin/images/file/{file.pk}/delete/").status_code == 403
        Job.objects.get(id=job.id).delete()

    for page in (listing, one):
        assert f"/api/jobs/{job.id}/files/photo.jpg" in page.content.decode()
    assert pictures.status_code == 200
    assert not File.objects.exists(), "as by retention"
    assert not any('"content"' in query["sql"] for query in queries)


# --- The real web process -------------------------------------------------------------------------


def post_picture(web: Web, content: bytes) -> tuple[int, dict[str, Any]]:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    request = urllib.request.Request(
        f"{web.url}/api/jobs/images",
        data=head + content + b"\r\n--x--\r\n",
        headers={
            "Authorization": f"Bearer {TOKEN}",
            "Content-Type": "multipart/form-data; boundary=x",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_uploads_up_to_the_limit_pass_the_real_server(web: Web, bulk_worker: Role) -> None:
    largest = SMALL + bytes(10 * 1024 * 1024 - len(SMALL))
    status, body = post_picture(web, largest)
    assert status == 202
    assert wait_for_end(Job.objects.get(id=UUID(body["id"]))).state == State.SUCCEEDED

    # Over the picture's limit, and over that of a request's body.
    for more in (1, 4 * 1024 * 1024):
        status, body = post_picture(web, largest + bytes(more))
        assert (status, body["code"]) == (413, "too_large")

    url = f"{web.url}/api/jobs/{Job.objects.get().id}/files/320w.webp"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for method in ("GET", "HEAD"):
        request = urllib.request.Request(url, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            size = File.objects.get(name="320w.webp").size
            assert int(response.headers["Content-Length"]) == size
            assert len(response.read()) == (size if method == "GET" else 0)

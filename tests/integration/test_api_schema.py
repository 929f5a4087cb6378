"""Every operation of the committed OpenAPI document against a real web process.

Schemathesis makes requests that the document allows, and others that it forbids. No answer may be
an error of ours, each must be one that the document describes, and nothing may be half-stored.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks

from jobs.models import Job
from jobs.services import job_deliveries
from newsletters.models import Recipient
from tests.integration.conftest import TOKEN
from tests.support.roles import ROOT, Web

pytestmark = pytest.mark.django_db(transaction=True)

#: Requests of each kind for one operation: as many as find a missing check, in seconds.
EXAMPLES = 20

# Hypothesis knows more addresses than mail servers do.
names = st.text(string.ascii_lowercase, min_size=1, max_size=20)
schemathesis.openapi.format("email", st.builds("{}@{}.example".format, names, names))

document = schemathesis.openapi.from_path(ROOT / "docs" / "openapi.json")
bounded = settings(
    max_examples=EXAMPLES,
    # The same requests in each run: a failure is one of the change, not of the day.
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

#: Our validators know more than a schema can say: subjects without line breaks, whose text is.
STRICTER_THAN_THE_SCHEMA = [checks.positive_data_acceptance]


@pytest.fixture
def whole_rows(transactional_db: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Look afterwards whether each job is whole: its details, and somebody who works for it."""
    yield
    if "POST /api/jobs/newsletter" in request.node.name:
        assert Job.objects.exists(), "none of the good requests was accepted"
    for job in Job.objects.all():
        details = [
            relation.related_model._base_manager.filter(**{relation.field.name: job.pk})
            for relation in Job._meta.related_objects
        ]
        assert any(rows.exists() for rows in details), f"{job} has no details"
        # Small newsletters wait for a task that they share.
        shared = Recipient.objects.filter(newsletter_id=job.id, waiting=True)
        assert job_deliveries(job) or shared.exists(), f"nothing works for {job}"
        assert job.requested_by == "token:tester"


@document.parametrize()
@bounded
def test_every_answer_is_one_that_the_document_describes(
    case: Any, web: Web, whole_rows: None
) -> None:
    case.call_and_validate(
        base_url=web.url,
        headers={"Authorization": f"Bearer {TOKEN}"},
        excluded_checks=STRICTER_THAN_THE_SCHEMA,
    )


@document.parametrize()
@bounded
def test_strangers_get_401_whatever_they_send(case: Any, web: Web, transactional_db: None) -> None:
    case.headers.pop("Authorization", None)
    case.cookies.clear()
    response = case.call(base_url=web.url)
    # Which addresses and methods there are is no secret: the document says it.
    assert response.status_code in (401, 404, 405), response.text
    assert set(response.json()) == {"code", "message", "detail", "request_id"}
    assert not Job.objects.exists()

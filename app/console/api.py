"""The HTTP API: the routers of the apps under one roof, with sign-in and one shape of errors."""

from __future__ import annotations

from capacity.api import router as capacity_router
from console import errors
from console.authentication import ApiToken, ConsoleSession
from console.json_bodies import StrictParser
from console.openapi import API_VERSION, DocumentedAPI
from images.api import router as images_router
from jobs.api import router as jobs_router
from newsletters.api import router as newsletters_router

api = DocumentedAPI(
    title="Celeriac",
    version=API_VERSION,
    description=(
        "Submit, follow and stop work. Errors are `{code, message, detail, request_id}`. A caller "
        "that asks too often gets 429 with `Retry-After`; a submission that is repeated with the "
        "same `Idempotency-Key` returns the first job."
    ),
    urls_namespace="api",
    auth=[ApiToken(), ConsoleSession()],
    parser=StrictParser(),
)
errors.install(api)
api.add_router("/jobs", newsletters_router)
api.add_router("/jobs", images_router)
api.add_router("/jobs", capacity_router)
api.add_router("/jobs", jobs_router)

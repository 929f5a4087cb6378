"""The HTTP API: the routers of the apps under one roof, with sign-in and one shape of errors."""

from __future__ import annotations

from django.conf import settings
from ninja import NinjaAPI

from capacity.api import router as capacity_router
from console import errors
from console.authentication import ApiToken, ConsoleSession
from images.api import router as images_router
from jobs.api import router as jobs_router
from newsletters.api import router as newsletters_router

api = NinjaAPI(
    title="Celeriac",
    version=settings.VERSION,
    description="Submit, follow and stop work. Errors are `{code, message, detail, request_id}`.",
    urls_namespace="api",
    auth=[ApiToken(), ConsoleSession()],
)
errors.install(api)
api.add_router("/jobs", newsletters_router)
api.add_router("/jobs", images_router)
api.add_router("/jobs", capacity_router)
api.add_router("/jobs", jobs_router)

"""The application behind `prognode web`: who may reach what, in one place."""

import threading
import time

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from config.identity import VERSION
from config.settings import Settings
from dicom_node import local_time
from dicom_node.spool import Spool
from dicom_node.vitals import PARTS
from dicom_node.web import api, clinical, deps, errors, facts, fhir, images, live, metrics, node_pages, pages, signin
from dicom_node.web.fhir_seal import Seal
from dicom_node.web.security import Guard

# The only places that answer without a sign-in; a test asks every other one.
OPEN = ("/health", "/ready", "/signin", "/signin/oidc", "/signin/oidc/callback", "/static")

monitoring = APIRouter(include_in_schema=False)


@monitoring.get("/health")
def health() -> Response:
    """The process answers."""
    return JSONResponse({"status": "up"})


@monitoring.get("/ready")
def ready(store: deps.StoreDep) -> Response:
    """The store can be read and the node is at work; 503 where not."""
    now = time.time()
    alive = {one.component for one in store.vitals.components() if one.alive(now)}
    lacking = [name for name in PARTS if name not in alive]
    if lacking:
        return JSONResponse({"status": "not ready", "not_heard_of": lacking}, 503)
    return JSONResponse({"status": "ready"})


def create_app(settings: Settings, spool: Spool) -> FastAPI:
    """Build the application. Raises ConfigError for settings that cannot be used.

    All but the routers of OPEN are hung on with `deps.viewer`: an endpoint that forgets to ask is closed all the same.
    """
    app = FastAPI(
        title="Prognode",
        version=VERSION,
        description="The worklist, its work items and an operator's actions. Research use only.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    local_time.go_by(settings.node.time_zone)
    app.state.settings, app.state.spool, app.state.templates = settings, spool, deps.templates
    app.state.models = facts.Models(settings)
    app.state.followed = metrics.Followed()
    app.state.recent = deps.Recent()
    app.state.seal = Seal()
    app.state.oidc = signin.provider_of(settings)
    app.state.stopping = threading.Event()  # set when the process is told to end: for streams
    app.add_middleware(Guard, web=settings.web)
    errors.add_to(app, deps.seen)
    for router in (monitoring, signin.router, metrics.router):  # the last asks for its own role
        app.include_router(router)
    behind_signin = [Depends(deps.viewer)]
    for router in (clinical.api_router, api.router):
        app.include_router(router, dependencies=behind_signin)
    for router in (pages.router, clinical.router, node_pages.router, images.router, live.router, fhir.router):
        app.include_router(router, dependencies=behind_signin, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=deps.STATIC), name="static")
    return app


def openapi_document() -> dict[str, object]:
    """The description of the API, as /api/v1/openapi.json gives it."""
    return create_app(Settings(), Spool(Settings().node.spool)).openapi()

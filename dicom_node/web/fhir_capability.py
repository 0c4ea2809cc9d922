"""CapabilityStatement (FHIR R4): what can be asked under /fhir."""

from typing import Any, Final

from config.identity import MANUFACTURER, VERSION
from config.settings import Settings
from dicom_node.web.fhir_search import KINDS

CHANGED: Final = "2026-11-25"  # when what this says was last changed
_STANDARD: Final = "http://hl7.org/fhir/SearchParameter"
_ID: Final = {"name": "_id", "definition": f"{_STANDARD}/Resource-id", "type": "token"}
_LAST_UPDATED: Final = {
    "name": "_lastUpdated",
    "definition": f"{_STANDARD}/Resource-lastUpdated",
    "type": "date",
    "documentation": "Prefixes eq, gt, ge, lt, le, sa, eb. Also changes when the patient's identity does.",
}
_STUDY: Final = {
    "name": "study",
    "type": "token",
    "documentation": "Of this server: Study Instance UID, as 1.2.840..., urn:oid:1.2.840... or"
    " urn:dicom:uid|urn:oid:1.2.840...",
}
_PATIENT: Final = (
    "Chained, patient.identifier=SYSTEM|VALUE, or patient:identifier=...: the Patient ID, and as system urn:oid: with"
    " its issuer where that is an OID. Patients are contained; there is no Patient to name."
)
_ABOUT: Final = {
    "DiagnosticReport": "One for each result, preliminary always. A search leaves out what a later revision has"
    " replaced; read by its id, that is cancelled, with a tag REPLACED.",
    "RiskAssessment": "One for each result with a score.",
    "Observation": "One for each endpoint with a risk group; of a result without a score, one that says why.",
}


def statement(settings: Settings, base: str) -> dict[str, Any]:
    """The statement of this node; `base` is the URL that clients use."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": CHANGED,
        "publisher": MANUFACTURER,
        "kind": "instance",
        "software": {"name": "Prognode", "version": VERSION},
        "implementation": {"description": f"Prognode {settings.node.ae_title}: research use only", "url": base},
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [
            {
                "mode": "server",
                "documentation": "Results can be read and searched, by GET or POST _search; nothing can be written.",
                "security": {"cors": False, "description": "A bearer token: prognode token add"},
                "resource": [_resource(kind) for kind in KINDS],
            }
        ],
    }


def _resource(kind: str) -> dict[str, Any]:
    definitions = {"patient": "clinical-patient", "subject": f"{kind}-subject"}
    references = [
        {"name": name, "definition": f"{_STANDARD}/{known}", "type": "reference", "documentation": _PATIENT}
        for name, known in definitions.items()
    ]
    return {
        "type": kind,
        "documentation": _ABOUT[kind],
        "interaction": [{"code": "read"}, {"code": "search-type"}],
        "versioning": "no-version",
        "searchParam": [_ID, _LAST_UPDATED, *references, _STUDY],
    }

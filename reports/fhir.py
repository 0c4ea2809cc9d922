"""A result as FHIR R4 (4.0.1) resources: DiagnosticReport, RiskAssessment, Observation, Device, Provenance. Pure.

The same result gives the same resources under the same identifiers. Everything is preliminary and says what it is for.
A revision is created like a first result, names the report that it replaces, and withdraws what that was made of.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from analysis.contract import JobResult
from config.identity import MANUFACTURER, MODEL_NAME
from reports import codes
from reports.fhir_context import (
    PRELIMINARY,
    RESEARCH_USE,
    TERMS,
    FhirContext,
    Making,
    Place,
    identifiers_of,
    names_of,
    use_of,
)
from reports.fhir_report import RISK, report
from reports.fhir_risk import observation, risk
from reports.fhir_types import (
    OWN,
    URI,
    Json,
    annotations,
    concept,
    dicom_identifier,
    logical_reference,
    plain_coding,
    uri_identifier,
)
from reports.hl7_person import Person

REPLACED: Final = plain_coding(OWN, "REPLACED", "A later revision has taken its place")
# The report was right for what it was made of, and somebody may have read it: R4 then wants cancelled, and keeps
# entered-in-error for what should never have been there.
WITHDRAWN: Final = "cancelled"


@dataclass(frozen=True)
class Resources:
    """What one result is in FHIR. `observations` by name: `OS`, `PFS`, or `outcome` where there is no score."""

    device: Json
    report: Json
    observations: Mapping[str, Json]
    risk: Json | None
    provenance: Json


def resources(result: JobResult, person: Person, context: FhirContext, place: Place) -> Resources:
    """All of them. `place.references` must hold every name of `identifiers_of`."""
    making = Making(result, person, context, place)
    return Resources(
        device=device(result, context, identifiers_of(result, person, context)["device"]),
        report=report(making),
        observations={name: observation(making, name) for name in names_of(result)},
        risk=risk(making) if making.scored else None,
        provenance=provenance(making),
    )


def device(result: JobResult, context: FhirContext, uuid: str) -> Json:
    """The software with its model bundle; another version or bundle is another Device."""
    bundle = result.bundle
    versions = {
        "Software": context.software_version,
        "Model bundle": f"{bundle.name} {bundle.version}",
        "SHA-256 of the model bundle": bundle.digest,
    }
    return {
        "resourceType": "Device",
        "identifier": [uri_identifier(f"urn:uuid:{uuid}"), uri_identifier(f"urn:oid:{context.device_uid}")],
        "status": "active",
        "manufacturer": MANUFACTURER,
        "deviceName": [{"name": MODEL_NAME, "type": "model-name"}],
        "type": concept(codes.ARTIFICIAL_INTELLIGENCE, text="Software that predicts survival from CT"),
        "version": [{"type": {"text": kind}, "value": value} for kind, value in versions.items()],
        "note": annotations(*use_of(result, context.language)),
    }


def provenance(making: Making) -> Json:
    """Which software made what, from which objects. It has no identifier in R4: a tag is what it is known by."""
    context = making.context
    targets = ["report", *(["risk"] if making.scored else []), *names_of(making.result)]
    sources = [making.study_reference()]
    if context.contour:
        sources.append({"identifier": dicom_identifier(context.contour), "display": "Contour object"})
    entities = [{"role": "source", "what": source} for source in sources]
    if context.replaced is not None:
        old = logical_reference("DiagnosticReport", uri_identifier(context.replaced.identifier))
        entities.append({"role": "revision", "what": old})
    assembler = plain_coding(f"{TERMS}/provenance-participant-type", "assembler", "Assembler")
    made = making.head("Provenance", subject=False)
    made["meta"]["tag"].append({"system": OWN, "code": making.identifier("provenance")[0]["value"]})
    return {
        **made,
        "target": [making.reference(name) for name in targets],
        "recorded": making.created(),
        "activity": {"coding": [plain_coding(f"{TERMS}/v3-DataOperation", "CREATE", "create")]},
        "agent": [{"type": {"coding": [assembler]}, "who": making.reference("device")}],
        "entity": entities,
    }


def transaction(
    result: JobResult, person: Person, context: FhirContext, subject: Json, replaced: Sequence[Json] = ()
) -> Json:
    """A Bundle that creates what of it the server does not have: sent twice, it makes nothing twice.

    Parameters
    ----------
    subject : dict
        Reference to the server's Patient.
    replaced : sequence of dict
        Resources as the server has them, to be withdrawn; unless somebody changes one meanwhile (`ifMatch`).
    """
    identifiers = identifiers_of(result, person, context)
    references = {name: f"urn:uuid:{uuid}" for name, uuid in identifiers.items()}
    made = resources(result, person, context, Place(subject, references))
    entries = [_entry(resource, references[name]) for name, resource in _in_order(made)]
    entries += [_withdrawal(one) for one in replaced]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def withdrawn(resource: Json) -> Json:
    """What is left of a resource when a later revision has taken its place: all of it, under another status."""
    meta = resource.get("meta", {})
    status = WITHDRAWN if resource.get("status") == PRELIMINARY else resource.get("status")
    return {**resource, "status": status, "meta": {**meta, "tag": [*meta.get("tag", []), REPLACED]}}


def is_open(resource: Json) -> bool:
    """Whether a resource of a server is one of ours and still preliminary: what people have decided on stays.

    >>> is_open({"status": "preliminary", "meta": {"tag": [{"system": OWN, "code": "RESEARCH_USE"}]}})
    True
    >>> is_open({"status": "preliminary"}), is_open({"status": "preliminary", "meta": {"tag": "?"}})
    (False, False)
    """
    meta = resource.get("meta")
    tags = _dicts(meta.get("tag")) if isinstance(meta, dict) else []
    ours = any((tag.get("system"), tag.get("code")) == (OWN, RESEARCH_USE) for tag in tags)
    return ours and resource.get("status") == PRELIMINARY


def linked_to(resource: Json) -> Iterator[tuple[str, str]]:
    """(type, id) of the Observations and the RiskAssessment that a server's DiagnosticReport refers to."""
    risks = [one.get("valueReference") for one in _dicts(resource.get("extension")) if one.get("url") == RISK]
    for reference in _dicts([*_dicts(resource.get("result")), *risks]):
        path, _, fhir_id = str(reference.get("reference", "")).partition("/_history/")[0].rpartition("/")
        kind = path.rpartition("/")[2]
        if kind in ("Observation", "RiskAssessment"):
            yield kind, fhir_id


def _dicts(value: Any) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _withdrawal(resource: Json) -> Json:
    request = {"method": "PUT", "url": f"{resource['resourceType']}/{resource['id']}"}
    version = resource["meta"].get("versionId")
    matching = {"ifMatch": f'W/"{version}"'} if isinstance(version, str) else {}
    return {"resource": withdrawn(resource), "request": request | matching}


def _in_order(made: Resources) -> Iterator[tuple[str, Json]]:
    """What is referred to before what refers to it."""
    yield "device", made.device
    yield from made.observations.items()
    if made.risk is not None:
        yield "risk", made.risk
    yield "report", made.report
    yield "provenance", made.provenance


def _entry(resource: Json, full_url: str) -> Json:
    kind = resource["resourceType"]
    known_by = f"_tag={OWN}|{full_url}" if kind == "Provenance" else f"identifier={URI}|{full_url}"
    return {
        "fullUrl": full_url,
        "resource": resource,
        "request": {"method": "POST", "url": kind, "ifNoneExist": known_by},
    }

"""DiagnosticReport (FHIR R4): the result in words, with the study that it is about."""

from typing import Final

from pydicom.sr.coding import Code

from reports import codes, words
from reports.fhir_context import PRELIMINARY, TERMS, Making, names_of
from reports.fhir_types import (
    Json,
    accession_identifier,
    concept,
    date,
    dicom_identifier,
    logical_reference,
    narrative,
    plain_coding,
    string,
    uri_identifier,
    without_nothing,
)
from reports.hl7 import SERVICE
from reports.language import speaker

# Standard extensions of R4: what it replaces, and the assessment, for which `result` has no place.
REPLACES: Final = "http://hl7.org/fhir/StructureDefinition/diagnosticReport-replaces"
RISK: Final = "http://hl7.org/fhir/StructureDefinition/diagnosticReport-risk"
_IMAGING: Final = Code("18748-4", "LN", "Diagnostic imaging study")
_CT: Final = plain_coding("http://dicom.nema.org/resources/ontology/DCM", "CT", "Computed Tomography")


def report(making: Making) -> Json:
    """The report; preliminary always. Its conclusion has words before numbers."""
    said = _said(making)
    groups = [concept(codes.risk_group(group.group)) for group in making.result.groups]
    refused = [] if making.scored else [concept(codes.NOT_SCORED), concept(codes.reason(making.refusal.reason))]
    made = {
        **making.head("DiagnosticReport", contained=[_study(making)]),
        "text": narrative(SERVICE.meaning, said),
        "extension": _extensions(making),
        "identifier": making.identifier("report"),
        "basedOn": _order(making),
        "status": PRELIMINARY,
        "category": [{"coding": [plain_coding(f"{TERMS}/v2-0074", "RAD", "Radiology")]}],
        "code": concept(SERVICE, _IMAGING),
        "subject": making.place.subject,
        "effectiveDateTime": making.effective(),
        "issued": making.created(),
        "result": [making.reference(name) for name in names_of(making.result)],
        "imagingStudy": [{"reference": "#study"}],
        "conclusion": string("\n".join(said)),
        "conclusionCode": groups + refused,
    }
    return without_nothing(made)


def _extensions(making: Making) -> list[Json]:
    found = []
    replaced = making.context.replaced
    if replaced is not None:
        old = logical_reference("DiagnosticReport", uri_identifier(replaced.identifier))
        found.append({"url": REPLACES, "valueReference": old})
    if making.scored:
        found.append({"url": RISK, "valueReference": making.reference("risk")})
    return found


def _order(making: Making) -> list[Json]:
    number = making.person.accession_number
    return [logical_reference("ServiceRequest", accession_identifier(number))] if number else []


def _study(making: Making) -> Json:
    """A stub of the ImagingStudy, for its UIDs: the archive's own resource is the archive's to make."""
    number, series = making.person.accession_number, making.context.ct_series_instance_uid
    accession = [accession_identifier(number)] if number else []
    return without_nothing(
        {
            "resourceType": "ImagingStudy",
            "id": "study",
            "identifier": [dicom_identifier(making.context.study_instance_uid), *accession],
            "status": "available",
            "modality": [_CT],
            "subject": making.place.subject,
            "started": date(making.person.study_date),
            "series": [{"uid": series, "modality": _CT}] if series else [],
        }
    )


def _said(making: Making) -> list[str]:
    """What it is for, then words, then numbers as people count, then what they rest on."""
    language, result, replaced = making.context.language, making.result, making.context.replaced
    said = making.use()
    if replaced is not None:
        revision = {"number": making.context.revision, "before": replaced.revision}
        said.append(speaker(language).say("Revision {number}, replaces revision {before}.", **revision))
    if not making.scored:
        return [*said, f"{words.not_scored(language)}.", *making.why()]
    said += [words.group_sentence(group, language) for group in result.groups]
    for score in result.scores:
        said.append(words.natural_frequency(score, language))
        said += [words.clipped(score, language)] if score.clipped else []
    return [*said, *making.worth()]

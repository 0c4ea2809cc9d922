"""FHIR R4 (4.0.1) data types from what the reports know: codings, identifiers, dates, names, narrative. Pure.

A resource is a dict as JSON has it; an element without a value is left out, never empty (FHIR ele-1).
"""

import json
import re
import uuid
from collections.abc import Sequence
from datetime import datetime, tzinfo
from html import escape
from typing import Any, Final

from pydicom.sr.coding import Code

from reports.codes import SCHEME
from reports.hl7_person import Person, date_or_nothing
from reports.uids import derive

Json = dict[str, Any]
URI: Final = "urn:ietf:rfc:3986"  # system of an identifier that is a URI itself
DICOM_UID: Final = "urn:dicom:uid"
OWN: Final = f"urn:oid:{derive('coding scheme', SCHEME)}"  # our scheme has no registered URI
UCUM: Final = "http://unitsofmeasure.org"
_SYSTEMS: Final = {
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "LN": "http://loinc.org",
    "SCT": "http://snomed.info/sct",
    "UCUM": UCUM,
    SCHEME: OWN,
}
_NAMESPACE: Final = uuid.UUID("0f6f4a0e-2f0a-5a3e-8d0b-6f3b7c1e5a10")
_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
_GENDERS: Final = {"M": "male", "F": "female", "O": "other"}
_REPRESENTATIONS: Final = ("ABC", "IDE", "SYL")  # of the groups of a PN
_REPRESENTATION: Final = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"


def resource_uuid(kind: str, *parts: str) -> str:
    """The UUID of a resource: the same parts, the same resource, however often it is made or sent."""
    return str(uuid.uuid5(_NAMESPACE, json.dumps([kind, *parts])))


def without_nothing(values: Json) -> Json:
    """The same without empty strings, lists and objects, and without None."""
    return {name: value for name, value in values.items() if value not in ("", None, [], {})}


def coding(code: Code) -> Json:
    return {"system": _SYSTEMS[code.scheme_designator], "code": code.value, "display": code.meaning}


def concept(*codes: Code, text: str = "") -> Json:
    """CodeableConcept; `text` for people, in the site's language."""
    return without_nothing({"coding": [coding(code) for code in codes], "text": text})


def plain_coding(system: str, code: str, display: str) -> Json:
    return {"system": system, "code": code, "display": display}


def uri_identifier(value: str) -> Json:
    """An identifier that is a URI: `urn:uuid:...`, `urn:oid:...`."""
    return {"system": URI, "value": value}


def dicom_identifier(uid: str) -> Json:
    """A DICOM UID as FHIR wants it (R4 ImagingStudy, 9.4.3)."""
    return {"system": DICOM_UID, "value": f"urn:oid:{uid}"}


def accession_identifier(number: str) -> Json:
    kind = plain_coding("http://terminology.hl7.org/CodeSystem/v2-0203", "ACSN", "Accession ID")
    return {"type": {"coding": [kind]}, "value": number}


def patient_identifier(person: Person, system: str = "") -> Json:
    """The Patient ID; `system` of the receiver, else the issuer where it is an OID, else its name as assigner."""
    issuer = person.issuer_of_patient_id
    kind = plain_coding("http://terminology.hl7.org/CodeSystem/v2-0203", "MR", "Medical record number")
    known = system or (f"urn:oid:{issuer}" if _OID.fullmatch(issuer) else "")
    assigner = {"display": issuer} if issuer and not known else None
    return without_nothing(
        {"type": {"coding": [kind]}, "system": known, "value": person.patient_id, "assigner": assigner}
    )


def logical_reference(kind: str, identifier: Json, display: str = "") -> Json:
    """A reference to a resource by its identifier alone: wherever it lies."""
    return without_nothing({"type": kind, "identifier": identifier, "display": display})


def quantity(value: float, unit: str, code: str) -> Json:
    return {"value": value, "unit": unit, "system": UCUM, "code": code}


def instant(moment: datetime, zone: tzinfo | None) -> str:
    """An instant or dateTime with its offset.

    >>> from datetime import UTC
    >>> instant(datetime(2026, 3, 2, 9, 15, 30, 250000, tzinfo=UTC), UTC)
    '2026-03-02T09:15:30+00:00'
    """
    return moment.astimezone(zone).isoformat(timespec="seconds")


def date(value: str) -> str:
    """A DICOM DA; '' for what is none.

    >>> date("20260302"), date("20261302")
    ('2026-03-02', '')
    """
    known = date_or_nothing(value)
    return f"{known[:4]}-{known[4:6]}-{known[6:]}" if known else ""


def human_names(name: str) -> list[Json]:
    """HumanName for each script that a PN has; the alphabetic one first."""
    names = []
    for group, representation in zip(name.split("="), _REPRESENTATIONS, strict=False):
        family, given, middle, prefix, suffix = [*(part.strip() for part in group.split("^")), *[""] * 5][:5]
        first = [part for part in (given, middle) if part]
        if not any((family, *first, prefix, suffix)):
            continue
        script = [{"url": _REPRESENTATION, "valueCode": representation}] if "=" in name else []
        names.append(
            without_nothing(
                {
                    "extension": script,
                    "use": "official",
                    "family": family,
                    "given": first,
                    "prefix": [prefix] if prefix else [],
                    "suffix": [suffix] if suffix else [],
                }
            )
        )
    return names


def patient(person: Person, identifier: str, system: str = "") -> Json:
    """A Patient to be contained; `identifier` is its local id."""
    return without_nothing(
        {
            "resourceType": "Patient",
            "id": identifier,
            "identifier": [patient_identifier(person, system)] if person.patient_id else [],
            "name": human_names(person.patient_name),
            "gender": _GENDERS.get(person.patient_sex, ""),
            "birthDate": date(person.patient_birth_date),
        }
    )


def narrative(title: str, sentences: Sequence[str]) -> Json:
    """Generated text for people: a title and sentences, in XHTML."""
    lines = "".join(f"<p>{escape(_printable(sentence))}</p>" for sentence in sentences if sentence)
    head = f"<p><b>{escape(_printable(title))}</b></p>"
    return {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{head}{lines}</div>'}


def annotations(*texts: str) -> list[Json]:
    return [{"text": _printable(text)} for text in texts if text]


def string(text: str) -> str:
    """A FHIR string: no control characters but line ends, and not empty at its ends."""
    return "\n".join(_printable(line).strip() for line in text.split("\n")).strip()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)

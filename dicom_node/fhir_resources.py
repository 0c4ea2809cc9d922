"""FHIR R4 Observation and Condition as JSON -> `Observation`. Pure; what has another form than the standard's is
refused whole. Numbers are texts here (json.loads with parse_float=str), so that decimals stay as they were written.
"""

from collections.abc import Iterator
from typing import Any

from dicom_node.clinical_codes import day_of
from dicom_node.observation import CodedValue, Observation

UCUM = "http://unitsofmeasure.org"
MOST = 64  # codings, components, identifiers of one resource
_LONGEST = 256
_STATUS = {  # ObservationStatus -> HL7 table 0085, as `Observation.status` has it
    "final": "F",
    "amended": "C",
    "corrected": "C",
    "entered-in-error": "W",
    "cancelled": "W",
}
_NOT_FINAL = "P"
_FALSE = frozenset({"entered-in-error", "refuted"})  # Condition.verificationStatus
_UNSURE = frozenset({"provisional", "differential", "unconfirmed"})
_OVER = frozenset({"inactive", "remission", "resolved"})  # Condition.clinicalStatus


class BadResource(ValueError):
    """A resource has not the form of the standard."""


def observations(resource: dict[str, Any], patient_id: str, issuer: str) -> list[Observation]:
    """The value of an Observation and those of its components; [] where it has none. Raises BadResource."""
    status = _STATUS.get(_text(resource, "status"), _NOT_FINAL)
    day = _observed_on(resource)
    parts = [resource, *_list(resource, "component")]
    found = []
    for part in parts:
        value, unit, coded = _value(part)
        codes = _codings(part.get("code"))
        if codes and (value or coded or status == "W"):
            found.append(Observation(patient_id, issuer, codes, value, coded, unit, day, status))
    return found


def condition(resource: dict[str, Any], patient_id: str, issuer: str) -> list[Observation]:
    """A diagnosis that is active and sure, or one that was an error (status W). Raises BadResource."""
    verification = {each.code for each in _codings(resource.get("verificationStatus"))}
    clinical = {each.code for each in _codings(resource.get("clinicalStatus"))}
    refuted = bool(verification & _FALSE)
    if not refuted and (verification & _UNSURE or clinical & _OVER):
        return []
    status = "W" if refuted else "F"
    day = _day(resource, "onsetDateTime") or _day(_dict(resource, "onsetPeriod"), "start")
    codes = _codings(resource.get("code"))
    return [
        Observation(patient_id, issuer, codes, "yes", observed_on=day or _day(resource, "recordedDate"), status=status)
    ]


def identifiers(patient: dict[str, Any]) -> set[tuple[str, str]]:
    """(value, system) of a Patient's identifiers; the system '' where none is stated."""
    listed = patient.get("identifier")
    found = [each for each in listed[:MOST] if isinstance(each, dict)] if isinstance(listed, list) else []
    return {(str(each.get("value", "")), str(each.get("system", ""))) for each in found}


def _value(part: dict[str, Any]) -> tuple[str, str, tuple[CodedValue, ...]]:
    """Value, unit and coded value of an Observation or a component."""
    quantity = _dict(part, "valueQuantity")
    if quantity:
        unit = _text(quantity, "code") if _text(quantity, "system") == UCUM else _text(quantity, "unit")
        return _text(quantity, "comparator") + _text(quantity, "value"), unit, ()
    if "valueCodeableConcept" in part:
        concept = _dict(part, "valueCodeableConcept")
        return _text(concept, "text"), "", _codings(concept)
    if isinstance(part.get("valueBoolean"), bool):
        return ("yes" if part["valueBoolean"] else "no"), "", ()
    return _text(part, "valueInteger") or _text(part, "valueString"), "", ()


def _observed_on(resource: dict[str, Any]) -> str:
    """The day of the observation; of its report where that is all, for it was not observed later."""
    period = _dict(resource, "effectivePeriod")
    return (
        _day(resource, "effectiveDateTime")
        or _day(resource, "effectiveInstant")
        or _day(period, "end")
        or _day(period, "start")
        or _day(resource, "issued")
    )


def _day(part: dict[str, Any], name: str) -> str:
    """A dateTime's day; '' where only month or year is known."""
    day = day_of(_text(part, name)[:10])
    return day.isoformat() if day else ""


def _codings(concept: object) -> tuple[CodedValue, ...]:
    if concept is None:
        return ()
    if not isinstance(concept, dict):
        raise BadResource
    return tuple(
        CodedValue(_text(each, "code"), _text(each, "system"), _text(each, "display"))
        for each in _list(concept, "coding")
    )


def _list(part: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    listed = part.get(name, [])
    if not isinstance(listed, list) or len(listed) > MOST or not all(isinstance(each, dict) for each in listed):
        raise BadResource
    return iter(listed)


def _dict(part: dict[str, Any], name: str) -> dict[str, Any]:
    found = part.get(name, {})
    if not isinstance(found, dict):
        raise BadResource
    return found


def _text(part: dict[str, Any], name: str) -> str:
    found = part.get(name, "")
    if not isinstance(found, str) or len(found) > _LONGEST:
        raise BadResource
    return found.strip()

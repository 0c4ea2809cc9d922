"""Observations of a feed (HL7 v2, FHIR) -> clinical values in the store."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from dicom_node.clinical_codes import Codes, NotTaken, Observed
from dicom_node.clinical_values import ClinicalEntry, ClinicalValues, Kind
from dicom_node.observation import Observation

FINAL = frozenset({"", "F", "C", "A"})  # HL7 table 0085: final, corrected, appended (and not said)


@dataclass(frozen=True)
class Taken:
    """What came of observations. `refused` names predictor and reason, never a value; unmapped codes are no refusal."""

    recorded: int = 0  # new and changed
    unchanged: int = 0
    retracted: int = 0
    refused: tuple[NotTaken, ...] = ()
    unmapped: int = 0


@dataclass(frozen=True)
class Feed:
    """Where observations come from: for the precedence, for people, and for the record."""

    kind: Kind
    source: str  # "HL7 ORU^R01", "FHIR Observation"
    recorded_by: str  # the sending application, the server's name


def take(
    values: ClinicalValues,
    codes: Codes,
    observations: Iterable[Observation],
    feed: Feed,
    now: float,
    as_of: float | None = None,
) -> Taken:
    """Record what is mapped and final, and end what its source takes back; safe to do again.

    `as_of`: when the source said all this (seconds since the epoch), so that an old message that comes again does not
    take the place of a newer one.
    """
    return _take(values, observations, feed, now, lambda each: entry_of(each, codes, feed, as_of))


def _take(
    values: ClinicalValues,
    observations: Iterable[Observation],
    feed: Feed,
    now: float,
    read: Callable[[Observation], ClinicalEntry | NotTaken],
) -> Taken:
    entries: list[ClinicalEntry] = []
    refused: list[NotTaken] = []
    retracted = 0
    for observation in observations:
        whose = (observation.patient_id, observation.issuer_of_patient_id)
        if observation.origin:  # after a merge, a place goes on telling of the values that it told of before
            whose = values.holder(feed.kind, observation.origin, whose)
        if observation.withdrawn:
            retracted += values.retract(feed.kind, observation.origin, now, feed.recorded_by, whose)
            continue
        said = read(observation)
        if isinstance(said, NotTaken):
            refused.append(said)
        else:
            entries.append(replace(said, patient_id=whose[0], issuer_of_patient_id=whose[1]))
    counts = values.record(entries, now) if entries else {}
    return Taken(
        recorded=counts.get("new", 0) + counts.get("changed", 0),
        unchanged=sum(counts.get(verdict, 0) for verdict in ("unchanged", "withdrawn", "outdated")),
        retracted=retracted,
        refused=tuple(each for each in refused if each.name),
        unmapped=sum(1 for each in refused if not each.name),
    )


def take_diagnoses(
    values: ClinicalValues, codes: Codes, diagnoses: Iterable[Observation], feed: Feed, now: float
) -> Taken:
    """`take` for HL7 v2 DG1 and FHIR Condition, whose code is what they say."""
    return _take(values, diagnoses, feed, now, lambda each: _diagnosis(each, codes, feed))


def entry_of(
    observation: Observation, codes: Codes, feed: Feed, as_of: float | None = None
) -> ClinicalEntry | NotTaken:
    """One observation as a value to record, or why it is none."""
    return _entry(codes.read(observation), observation, feed, as_of)


def _diagnosis(diagnosis: Observation, codes: Codes, feed: Feed) -> ClinicalEntry | NotTaken:
    said = [codes.condition(each.code, each.system) for each in diagnosis.codes] or [NotTaken("", "it has no code")]
    return _entry(next((each for each in said if isinstance(each, Observed)), said[0]), diagnosis, feed, None)


def _entry(
    said: Observed | NotTaken, observation: Observation, feed: Feed, as_of: float | None
) -> ClinicalEntry | NotTaken:
    if isinstance(said, Observed) and not observation.patient_id:
        return NotTaken(said.name, "its patient is not named")
    if isinstance(said, Observed) and observation.status not in FINAL:
        return NotTaken(said.name, "it is not final")
    if isinstance(said, NotTaken):
        return said
    return ClinicalEntry(
        patient_id=observation.patient_id,
        issuer_of_patient_id=observation.issuer_of_patient_id,
        name=said.name,
        value=said.value,
        unit=said.unit,
        stated=said.stated,
        observed_on=observation.observed_on,
        kind=feed.kind,
        source=feed.source,
        origin=observation.origin,
        as_of=as_of,
        recorded_by=feed.recorded_by,
    )

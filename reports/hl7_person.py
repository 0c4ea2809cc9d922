"""DICOM's patient and study attributes in the data types of HL7 v2.5.1: CX, XPN, TS (chapters 2.A and 3.4.2)."""

import re
from datetime import datetime, tzinfo
from typing import Protocol

from reports.hl7_text import COMPONENT, REPETITION, SUBCOMPONENT, escape

_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
_DATE = re.compile(r"((?:18|19|20)\d{2})(\d{2})(\d{2})")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d)?([0-5]\d)?(\.\d{1,6})?")
_REPRESENTATIONS = ("A", "I", "P")  # HL7 table 0465: alphabetic, ideographic, phonetic: the groups of PN


class Person(Protocol):
    """Whose result it is, as `dicom_node.identity.Identity` has it; '' where absent."""

    @property
    def patient_id(self) -> str: ...
    @property
    def issuer_of_patient_id(self) -> str: ...
    @property
    def patient_name(self) -> str: ...
    @property
    def patient_birth_date(self) -> str: ...
    @property
    def patient_sex(self) -> str: ...
    @property
    def accession_number(self) -> str: ...
    @property
    def study_date(self) -> str: ...
    @property
    def study_time(self) -> str: ...


def patient_id(person: Person) -> str:
    """PID-3 (CX): ID, assigning authority, identifier type MR. An issuer that is an OID is a universal ID."""
    issuer = person.issuer_of_patient_id
    authority = f"{SUBCOMPONENT}{issuer}{SUBCOMPONENT}ISO" if _OID.fullmatch(issuer) else escape(issuer)
    return COMPONENT.join([escape(person.patient_id), "", "", authority, "MR"])


def patient_name(name: str) -> str:
    """PID-5 (XPN), a repetition for each script that the PN has; an absent name says so by its type U.

    >>> patient_name("Adams^John^Quincy^Dr^Jr"), patient_name("Hong^Gildong=洪^吉洞"), patient_name("")
    ('Adams^John^Quincy^Jr^Dr^^L^A', 'Hong^Gildong^^^^^L^A~洪^吉洞^^^^^L^I', '^^^^^^U')
    """
    repetitions = []
    for group, representation in zip(name.split("="), _REPRESENTATIONS, strict=False):
        family, given, middle, prefix, suffix = [*(part.strip() for part in group.split(COMPONENT)), *[""] * 5][:5]
        if any((family, given, middle, prefix, suffix)):
            parts = [escape(part) for part in (family, given, middle, suffix, prefix, "", "L", representation)]
            repetitions.append(COMPONENT.join(parts))
    return REPETITION.join(repetitions) or f"{COMPONENT * 6}U"


def sex(value: str) -> str:
    """PID-8 (table 0001); '' for what is none of its values.

    >>> sex("M"), sex("x")
    ('M', '')
    """
    return value if value in ("M", "F", "O") else ""


def date_or_nothing(value: str) -> str:
    """A DICOM DA as TS; '' for what is no date.

    >>> date_or_nothing("19500101"), date_or_nothing("1950-13-01")
    ('19500101', '')
    """
    return value if _calendar(value) else ""


def moment(at: datetime, zone: tzinfo | None) -> str:
    """A TS with its offset from UTC, in the site's zone."""
    return f"{at.astimezone(zone):%Y%m%d%H%M%S%z}"


def study_moment(person: Person, zone: tzinfo | None) -> str:
    """When the images were made (Study Date, Study Time); without a time, the date alone; '' without a date."""
    day, time = _calendar(person.study_date), _TIME.fullmatch(person.study_time)
    if day is None:
        return ""
    if time is None:
        return person.study_date
    hour, minute, second = (int(part or 0) for part in time.group(1, 2, 3))
    local = day.replace(hour=hour, minute=minute, second=second)
    return moment(local.replace(tzinfo=zone) if zone is not None else local, zone)


def _calendar(value: str) -> datetime | None:
    found = _DATE.fullmatch(value)
    if found is None:
        return None
    try:
        return datetime(*map(int, found.groups()))  # type: ignore[arg-type]  # noqa: DTZ001  # local until `moment`
    except ValueError:
        return None

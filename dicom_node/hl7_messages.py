"""ADT and ORU messages (HL7 v2.5.1 chapters 3 and 7) -> what the store needs: keys, demographics, merges, observations.

Pure. The interface specification, docs/hl7.md, lists every field that is read here.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from dicom_node.hl7_reader import (
    DATA_TYPE,
    REQUIRED_FIELD,
    SEGMENT_SEQUENCE,
    UNKNOWN_KEY,
    UNSUPPORTED_EVENT,
    UNSUPPORTED_TYPE,
    Message,
    Refused,
    Segment,
)
from dicom_node.identity import Demographics, PatientKey
from dicom_node.observation import CodedValue, Observation

UPDATES = ("ADT^A08", "ADT^A31")
MERGES = ("ADT^A18", "ADT^A34", "ADT^A40", "ADT^A47")
RESULTS = ("ORU^R01",)
DELETED = '""'  # HL7's null: the value is taken away
MAXIMUM_ID = 64  # LO: a longer one is no Patient ID of a PACS
MAXIMUM_IDS = 100  # of a patient: each is compared with each
MAXIMUM_MERGES = 1000  # in a message
MAXIMUM_GROUP = 64  # of a PN
_OTHER_NAMES = frozenset("ABIKMNPRST")  # XPN.7 (table 0200): aliases, maiden, nick and birth names, pseudonyms, ...
_GROUPS = {"": 0, "A": 0, "I": 1, "P": 2}  # XPN.8 (table 0465) -> group of a PN
_SEXES = {"M": "M", "F": "F", "O": "O", "A": "O", "N": "O"}  # table 0001; U says nothing
_TIME = re.compile(r"(\d{4})(\d{2})?(\d{2})?(\d{2})?(\d{2})?(\d{2})?(?:\.\d{1,4})?([+-]\d{4})?", re.ASCII)
_CODED = frozenset({"CE", "CWE", "CNE", "CF", "IS", "ID"})
_DOCUMENTS = frozenset({"ED", "RP"})


@dataclass(frozen=True)
class Envelope:
    """Who sends which message, and when; what an acknowledgement and the record of the message need."""

    sender: str  # MSH-3 and MSH-4: "RIS|HOSPITAL"
    control_id: str
    kind: str  # "ADT^A08"
    processing_id: str
    said_at: float | None  # MSH-7 where it has a zone


@dataclass(frozen=True)
class Update:
    """A patient's demographics as they are now."""

    keys: tuple[PatientKey, ...]
    said: Demographics


@dataclass(frozen=True)
class Merge:
    """Prior IDs whose records belong to other ones from now on: (prior, surviving)."""

    pairs: tuple[tuple[PatientKey, PatientKey], ...]
    said: Demographics


@dataclass(frozen=True)
class Content:
    """What a message asks for."""

    updates: tuple[Update, ...] = ()
    merges: tuple[Merge, ...] = ()
    observations: tuple[Observation, ...] = ()


def envelope(message: Message) -> Envelope:
    """Raises Refused where MSH-10 is absent: it could be neither answered nor recognised."""
    msh = message.msh
    control_id = msh.text(msh.field(10))
    if not control_id or len(control_id) > 199:
        raise Refused(REQUIRED_FIELD, "MSH-10 (Message Control ID) is absent or too long")
    sender = f"{msh.value(3)[:100]}|{msh.value(4)[:100]}"
    return Envelope(sender, control_id, message.kind[:20], msh.value(11), moment(msh.value(7)))


def content(message: Message, authority: str = "") -> Content:
    """What an ADT or ORU message asks for; `authority` as [hl7] assigning_authority.

    Raises
    ------
    Refused
        For a type of message that is not taken here, and where the patient is not named.
    """
    if message.kind in UPDATES:
        (pid, *_) = _required(message, "PID")
        update = Update(patient_keys(pid, 3, authority), demographics(pid))
        return Content(updates=(update,), observations=tuple(_observations(message, authority)))
    if message.kind in MERGES:
        return Content(merges=tuple(_merges(message, authority)))
    if message.kind in RESULTS:
        _required(message, "PID")
        return Content(observations=tuple(_observations(message, authority)))
    taken = ", ".join((*UPDATES, *MERGES, *RESULTS))
    known = message.msh.value(9) in ("ADT", "ORU")
    raise Refused(UNSUPPORTED_EVENT if known else UNSUPPORTED_TYPE, f"only {taken} are taken here; filter the rest out")


def patient_keys(segment: Segment, number: int, authority: str = "") -> tuple[PatientKey, ...]:
    """The Patient IDs in a field of CX (PID-3, MRG-1), first the one that the PACS files by.

    That is the one of `authority`, or the first where none is configured. The others only mean patients whose issuer
    is stated: an insurance number may be another patient's Patient ID. Raises Refused when there is none.
    """
    keys: list[PatientKey] = []
    repetitions = segment.repetitions(number)
    if len(repetitions) > MAXIMUM_IDS:
        raise Refused(DATA_TYPE, f"{segment.name}-{number} holds more than {MAXIMUM_IDS} identifiers")
    for cx in repetitions:
        namespace, universal = segment.component(cx, 4, 1), segment.component(cx, 4, 2)
        patient_id, issuer = segment.component(cx, 1), (namespace or universal)[:MAXIMUM_ID]
        if authority and authority in (namespace, universal):
            issuer = authority
        leads = issuer in ("", authority) if authority else not keys
        if 0 < len(patient_id) <= MAXIMUM_ID and (leads or issuer):
            keys.append(PatientKey(patient_id, issuer, exact=not leads))
    if not keys:
        raise Refused(REQUIRED_FIELD, f"{segment.name}-{number} holds no patient identifier that can be used")
    return tuple(sorted(keys, key=lambda key: key.exact))


def demographics(pid: Segment) -> Demographics:
    """Name, birth date and sex of a PID segment, as DICOM writes them; what cannot be read says nothing."""
    birth, sex = pid.value(7), pid.value(8).upper()
    date = re.match(r"\d{8}", birth, re.ASCII)
    usable_date = date[0] if date and moment(f"{date[0]}0000+0000") is not None else None
    return Demographics(
        patient_name="" if pid.field(5) == DELETED else person_name(pid, 5),
        patient_birth_date="" if birth == DELETED else usable_date,
        patient_sex="" if sex == DELETED else _SEXES.get(sex[:1]),
    )


def person_name(segment: Segment, number: int) -> str | None:
    """A field of XPN as PN: alphabetic, ideographic and phonetic group; None where it has no usable name.

    XPN has the suffix before the prefix, PN after it (PS3.5 6.2, HL7 v2.5.1 2.A.89).
    """
    groups = ["", "", ""]
    for xpn in segment.repetitions(number):
        kind, representation = segment.component(xpn, 7).upper(), segment.component(xpn, 8).upper()
        group = _GROUPS.get(representation)
        if group is None or kind in _OTHER_NAMES or groups[group]:
            continue
        family = segment.component(xpn, 1) or " ".join(
            filter(None, (segment.component(xpn, 1, 2), segment.component(xpn, 1, 3)))
        )
        given, middle, suffix, prefix = (segment.component(xpn, place) for place in (2, 3, 4, 5))
        parts = [re.sub(r"[\\^=]", " ", part) for part in (family, given, middle, prefix, suffix)]
        groups[group] = "^".join(parts).rstrip("^")[:MAXIMUM_GROUP]
    return "=".join(groups).rstrip("=") or None


def moment(text: str) -> float | None:
    """A TS (at least day and hour, with its offset) as seconds since the epoch; None for anything else.

    >>> moment("20260302101530+0100"), moment("20260302101530"), moment("2026")
    (1772442930.0, None, None)
    """
    found = _TIME.fullmatch(text)
    if found is None or found[4] is None or found[7] is None:
        return None
    offset = int(found[7][0] + "1") * (int(found[7][1:3]) * 60 + int(found[7][3:]))
    try:
        zone = timezone(timedelta(minutes=offset))
        numbers = [int(part) if part else 0 for part in found.groups()[:6]]
        return datetime(*numbers, tzinfo=zone).timestamp()  # type: ignore[misc,arg-type]
    except (ValueError, OverflowError):
        return None


# -- merges --------------------------------------------------------------------------------------------------


def _merges(message: Message, authority: str) -> Iterator[Merge]:
    """Each PID with the MRG segments after it; A40 may have several of these groups."""
    pid: Segment | None = None
    survivors: tuple[PatientKey, ...] = ()
    _required(message, "MRG")
    if len(list(message.named("MRG"))) > MAXIMUM_MERGES:
        raise Refused(SEGMENT_SEQUENCE, f"more than {MAXIMUM_MERGES} MRG segments; send several messages")
    for segment in message.named("PID", "MRG"):
        if segment.name == "PID":
            pid, survivors = segment, patient_keys(segment, 3, authority)
            continue
        if pid is None:
            raise Refused(REQUIRED_FIELD, "a MRG segment has no PID before it")
        pairs = tuple(_pairs(patient_keys(segment, 1, authority), survivors))
        if not pairs:
            raise Refused(UNKNOWN_KEY, "no identifier of PID-3 is of the assigning authority of one of MRG-1")
        yield Merge(pairs, demographics(pid))


def _pairs(priors: Sequence[PatientKey], survivors: Sequence[PatientKey]) -> Iterator[tuple[PatientKey, PatientKey]]:
    """Each prior ID with the surviving one of its authority; where one of both names none, with the leading one."""
    for prior in priors:
        same = [one for one in survivors if one.issuer == prior.issuer]
        loose = [one for one in survivors[:1] if not prior.exact and "" in (prior.issuer, one.issuer)]
        for surviving in (same or loose)[:1]:
            yield prior, surviving


# -- observations --------------------------------------------------------------------------------------------


def _observations(message: Message, authority: str) -> Iterator[Observation]:
    """Each OBX with the patient and the order before it."""
    sender = f"{message.msh.value(3)}|{message.msh.value(4)}"
    key: PatientKey | None = None
    order, observed = "", ""
    for segment in message.named("PID", "ORC", "OBR", "OBX"):
        if segment.name == "PID":
            key, order, observed = patient_keys(segment, 3, authority)[0], "", ""
        elif segment.name in ("ORC", "OBR"):
            order = segment.value(3) or segment.value(2) or order
            observed = segment.value(7) if segment.name == "OBR" else ""
        elif key is not None and segment.value(2).upper() not in _DOCUMENTS:
            day = _day(segment.value(14)) or _day(observed)
            codes = _codes(segment, 3)
            place = order or f"{message.kind} {day}"  # without an order, another day is another observation
            yield Observation(
                patient_id=key.patient_id,
                issuer_of_patient_id=key.issuer,
                codes=codes,
                value=_value(segment),
                coded=_codes(segment, 5) if segment.value(2).upper() in _CODED else (),
                unit=segment.value(6),
                observed_on=day,
                status=segment.value(11).upper(),
                origin="|".join([sender, place, codes[0].code if codes else "", segment.text(segment.field(4))])[:500],
            )


def _value(segment: Segment) -> str:
    """OBX-5 as text. A number with a comparator (SN) keeps it, so that "<5" is not taken for 5."""
    kind, parts = segment.value(2).upper(), segment.repetitions(5)
    if not parts:
        return ""
    if kind == "SN":
        comparator = segment.component(parts[0], 1).removeprefix("=")
        rest = "".join(segment.component(parts[0], place) for place in (2, 3, 4))
        return f"{comparator}{rest}"
    if kind in _CODED:
        return segment.component(parts[0], 2) or segment.component(parts[0], 1)
    return "\n".join(segment.component(part, 1) for part in parts)


def _codes(segment: Segment, number: int) -> tuple[CodedValue, ...]:
    """The first repetition of a CE or CWE: the code, and the same in another system."""
    first = next(iter(segment.repetitions(number)), "")
    six = [segment.component(first, place) for place in range(1, 7)]
    codes = (CodedValue(six[at], six[at + 2], six[at + 1]) for at in (0, 3))
    return tuple(code for code in codes if code.code)


def _day(text: str) -> str:
    """The day of a TS as an ISO date; '' for what is none.

    >>> _day("202603021015+0100"), _day("2026")
    ('2026-03-02', '')
    """
    day = text[:8]
    if moment(f"{day}0000+0000") is None:
        return ""
    return f"{day[:4]}-{day[4:6]}-{day[6:]}"


def _required(message: Message, name: str) -> list[Segment]:
    found = list(message.named(name))
    if not found:
        raise Refused(REQUIRED_FIELD, f"the message has no {name} segment")
    return found

"""A result as an HL7 v2.5.1 message ORU^R01 (HL7 v2.5.1 chapter 7.3.1), for the RIS. Pure: no I/O, no clock.

Every value goes through `hl7_text`, so that nothing of a patient's name or a ROI's can start a field or a segment.
"""

import base64
import hashlib
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Final

from pydicom.sr.coding import Code

from analysis.contract import BundleIdentity, JobResult, Outcome
from config.identity import MODEL_NAME
from reports import codes, particulars, words
from reports.hl7_person import Person, date_or_nothing, moment, patient_id, patient_name, sex, study_moment
from reports.hl7_text import COMPONENT, REPETITION, components, escape, segment
from reports.language import ENGLISH, speaker
from reports.refusal import Refusal, refusal_of

CONTROL_ID_LENGTH: Final = 20  # MSH-10 of v2.5.1; longer ones are cut by some engines
LINE_LENGTH: Final = 190  # receivers cut at 199 or 200
SERVICE: Final = codes.own("RISK", "Predicted survival, NSCLC before immunotherapy")
STUDY: Final = codes.dcm("113014", "DICOM Study")
CONTOUR: Final = codes.own("CONTOUR", "Contour object scored (SOP Instance UID)")
REPLACES: Final = codes.own("REPLACES", "Message that this one replaces (MSH-10)")
# OBX-11, table 0085. Never C, also in a revision: that is what replaces a final result, and nothing of ours is final.
PRELIMINARY, NO_RESULT, DESCRIPTION = "P", "X", "O"


@dataclass(frozen=True)
class Ends:
    """Who sends and who receives (MSH-3 to MSH-6), and for what (MSH-11: P production, T training, D debugging)."""

    sending_application: str = ""
    sending_facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""
    processing_id: str = "P"


@dataclass(frozen=True)
class Replaced:
    """What the receiver was told before about the same contour: MSH-10 and revision of the last message.

    `results` are what it may hold, newest first: that of this message and, where it was not acknowledged, those before
    it. What is not known any more is missing, and cannot be taken back line by line.
    """

    control_id: str
    revision: int
    results: tuple[JobResult, ...]


@dataclass(frozen=True)
class MessageContext:
    """Everything that enters the message and is neither result nor patient.

    Attributes
    ----------
    key : str
        Content key of the work item.
    destination : str
        Name of the receiver: part of MSH-10.
    created : datetime
        With its zone; from the job record, never from a clock: a message that is sent again is the same.
    contour : str
        SOP Instance UID of the contour object, or what stands for it: tells the results of one study apart.
    zone : tzinfo or None
        The site's; None: the host's.
    """

    key: str
    destination: str
    created: datetime
    ends: Ends
    study_instance_uid: str
    contour: str
    software_version: str
    ae_title: str
    device_uid: str
    revision: int = 1
    replaced: Replaced | None = None
    language: str = ENGLISH
    zone: tzinfo | None = None


@dataclass(frozen=True)
class _Line:
    """One OBX: type, name, value as it is encoded, unit, notes that follow it, and whether it is a result at all."""

    kind: str
    name: Code
    value: str
    unit: Code | None = None
    notes: tuple[str, ...] = ()
    describes: bool = False


def control_id(person: Person, context: MessageContext) -> str:
    """MSH-10: the same for the same result, patient and receiver, however often it is sent."""
    replaces = "" if context.replaced is None else context.replaced.control_id
    parts = (context.key, context.destination, replaces, *_identifying(person))
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return base64.b32encode(digest).decode()[:CONTROL_ID_LENGTH]


def oru_r01(result: JobResult, person: Person, context: MessageContext) -> str:
    """The whole message, segments ended by CR.

    Raises
    ------
    ValueError
        Where the patient has no Patient ID: no receiver could file it.
    """
    if not person.patient_id:
        raise ValueError("the study has no Patient ID")
    segments = [
        _msh(control_id(person, context), context),
        _pid(person),
        segment("PV1", {1: "1", 2: "U"}),
        *_order(person, context),
        *_notes(_remarks(result.bundle, context)),
        *_observations(_lines(result, context), context),
    ]
    return "".join(f"{one}\r" for one in segments)


def _identifying(person: Person) -> tuple[str, ...]:
    """What of the patient stands in the message."""
    return (
        person.patient_id,
        person.issuer_of_patient_id,
        person.patient_name,
        person.patient_birth_date,
        person.patient_sex,
        person.accession_number,
        person.study_date,
        person.study_time,
    )


# -- segments ------------------------------------------------------------------------------------------------


def _msh(identifier: str, context: MessageContext) -> str:
    ends = context.ends
    return segment(
        "MSH",
        {
            3: escape(ends.sending_application),
            4: escape(ends.sending_facility),
            5: escape(ends.receiving_application),
            6: escape(ends.receiving_facility),
            7: moment(context.created, context.zone),
            9: components("ORU", "R01", "ORU_R01"),
            10: identifier,
            11: escape(ends.processing_id),
            12: "2.5.1",
            18: "UNICODE UTF-8",  # MSH-15 and MSH-16 are empty: original mode, one AA, AE or AR on this connection
        },
    )


def _pid(person: Person) -> str:
    return segment(
        "PID",
        {
            1: "1",
            3: patient_id(person),
            5: patient_name(person.patient_name),
            7: date_or_nothing(person.patient_birth_date),
            8: sex(person.patient_sex),
        },
    )


def _order(person: Person, context: MessageContext) -> list[str]:
    """ORC and OBR: the RIS finds the examination by its accession number; ours is the filler's number where none is."""
    accession = escape(person.accession_number)
    filler = accession or components(context.key[:16], context.ends.sending_application)
    created = moment(context.created, context.zone)
    request = {
        1: "1",
        2: accession,
        3: filler,
        4: _code(SERVICE),
        7: study_moment(person, context.zone) or created,
        18: accession,  # Placer Field 1: where the accession number stands in radiology (IHE RAD)
        22: created,
        24: "CT",
        25: PRELIMINARY,
    }
    return [segment("ORC", {1: "RE", 2: accession, 3: filler}), segment("OBR", request)]


def _remarks(bundle: BundleIdentity, context: MessageContext) -> list[str]:
    """What every message says of itself first."""
    language = context.language
    remarks = [words.research_use(language)]
    if bundle.synthetic:
        remarks.append(words.synthetic_warning(language))
    if context.replaced is not None:
        remarks.append(_replaces(context.replaced, context))
    return remarks


def _replaces(replaced: Replaced, context: MessageContext) -> str:
    voice = speaker(context.language)
    return voice.say(
        "Revision {number}, replaces revision {before}.", number=context.revision, before=replaced.revision
    )


def _observations(lines: Sequence[_Line], context: MessageContext) -> list[str]:
    """OBX, each with its notes; what the receiver was told before and does not hold any more is taken back (X)."""
    made: list[str] = []
    for number, line in enumerate([*lines, *_taken_back(lines, context)], start=1):
        withdrawn = not line.value
        fields = {
            1: str(number),
            2: line.kind,
            3: _code(line.name),
            4: _sub_id(context),
            5: line.value,
            6: _code(line.unit) if line.unit else "",
            11: NO_RESULT if withdrawn else DESCRIPTION if line.describes else PRELIMINARY,
            14: "" if line.describes else moment(context.created, context.zone),
            18: "" if line.describes else components(context.ae_title, "", context.device_uid, "ISO"),
        }
        made.append(segment("OBX", fields))
        made += _notes(line.notes)
    return made


def _taken_back(lines: Sequence[_Line], context: MessageContext) -> list[_Line]:
    now = {line.name for line in lines}
    gone: dict[Code, _Line] = {}
    for before in context.replaced.results if context.replaced is not None else ():
        for line in _lines(before, context):
            if line.name not in now:
                gone.setdefault(line.name, _Line(line.kind, line.name, "", line.unit))
    return list(gone.values())


def _notes(texts: Sequence[str]) -> list[str]:
    return [segment("NTE", {1: str(number), 3: escape(text)}) for number, text in enumerate(texts, start=1)]


def _sub_id(context: MessageContext) -> str:
    """OBX-4: the same for all revisions of one contour, another for another contour of the same accession number."""
    return hashlib.sha256(context.contour.encode()).hexdigest()[:8]


# -- what is said --------------------------------------------------------------------------------------------


def _lines(result: JobResult, context: MessageContext) -> list[_Line]:
    return _scored(result, context) if result.outcome is Outcome.SCORED else _not_scored(refusal_of(result), context)


def _scored(result: JobResult, context: MessageContext) -> list[_Line]:
    language = context.language
    lines = _use(result.bundle, context)
    for group in result.groups:
        name, meaning = codes.risk_group_name(group.endpoint), words.group_sentence(group, language)
        lines.append(_Line("CE", name, _code(codes.risk_group(group.group)), notes=(meaning,)))
    for score in result.scores:
        name = codes.probability(score.endpoint, score.horizon_months)
        value = f"{words.figure(score.event_probability)}"
        notes = [words.natural_frequency(score, language)] + [words.clipped(score, language)] * score.clipped
        lines.append(_Line("NM", name, value, codes.PERCENT, tuple(notes)))
        interval = codes.interval(score.endpoint, score.horizon_months)
        lines.append(_text(interval, words.interval_sentence(score, language)))
    if result.sub_model is not None:
        lines.append(_text(codes.SUB_MODEL, words.sub_model(result.sub_model, language)))
        said = [words.validation(performance, language) for performance in result.sub_model.performance]
        lines.append(_text(codes.VALIDATION, *said, words.intervals_are_narrow(language)))
    lines.append(_text(codes.NOT_AVAILABLE, *words.not_available(result, language)))
    lines.append(_text(codes.QUALITY, *(particulars.quality(flag, language) for flag in result.quality)))
    if result.roi is not None:
        lines.append(_text(codes.REGION, particulars.roi(result.roi, language)))
    return _said([*lines, *_provenance(result.bundle, context)])


def _not_scored(refusal: Refusal, context: MessageContext) -> list[_Line]:
    language = context.language
    wording = words.reason(refusal.reason, language)
    lines = [
        *_use(refusal.bundle, context),
        _Line("CE", codes.OUTCOME, _code(codes.NOT_SCORED)),
        _Line("CE", codes.REASON, _code(codes.reason(refusal.reason)), notes=(wording.remedy,)),
        _text(codes.REASON_TEXT, wording.sentence),
        _text(codes.REASON_DETAIL, speaker(language).retell(refusal.detail)),
        _text(codes.QUALITY, *(particulars.quality(flag, language) for flag in refusal.quality)),
    ]
    return _said([*lines, *_provenance(refusal.bundle, context)])


def _use(bundle: BundleIdentity | None, context: MessageContext) -> list[_Line]:
    """The statement of use as an observation too: receivers that drop notes are common."""
    lines = [_text(codes.STATEMENT_OF_USE, words.research_use(context.language))]
    if bundle is not None and bundle.synthetic:
        lines.append(_text(codes.WARNING, words.synthetic_warning(context.language)))
    return lines


def _provenance(bundle: BundleIdentity | None, context: MessageContext) -> list[_Line]:
    lines = [] if bundle is None else [_text(codes.BUNDLE, particulars.bundle(bundle))]
    return [
        *lines,
        _text(codes.SOFTWARE, f"{MODEL_NAME} {context.software_version}"),
        _Line("NM", codes.REVISION, str(context.revision)),
        _Line("ST", REPLACES, "" if context.replaced is None else context.replaced.control_id),
        _Line("ST", STUDY, escape(context.study_instance_uid), describes=True),
        _Line("ST", CONTOUR, escape(context.contour), describes=True),
    ]


def _text(name: Code, *sentences: str) -> _Line:
    """A text; its repetitions are its lines (HL7 v2.5.1 7.4.2.5), and none is longer than an ST may be."""
    lines = [line for sentence in sentences for line in textwrap.wrap(sentence, LINE_LENGTH)]
    return _Line("TX", name, REPETITION.join(map(escape, lines)))


def _said(lines: Sequence[_Line]) -> list[_Line]:
    return [line for line in lines if line.value]


def _code(code: Code) -> str:
    """CE: identifier, text, name of coding system (table 0396)."""
    return COMPONENT.join(escape(part) for part in (code.value, code.meaning, code.scheme_designator))

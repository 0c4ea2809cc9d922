"""The DICOM conformance statement of this node (PS3.2), its tables from the settings in force: what is negotiated.

Nothing here is typed twice: what is accepted is read from the very AE that listens, limits from the settings, statuses
from the code that answers. `tests/dicom/test_conformance.py` associates with a running node and compares.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from jinja2 import Environment, StrictUndefined
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.tag import Tag
from pydicom.uid import UID

from config.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, VERSION
from config.settings import Settings
from dicom_node import receive, tls, ups_scp
from dicom_node.conformance_objects import (
    ENCAPSULATED_PDF,
    EVERY,
    OBJECTS,
    PRESENTATION,
    SECONDARY_CAPTURE,
    SEGMENTATION,
)
from dicom_node.entity import NATIVE, application_entity
from dicom_node.instance import CT_CLASSES, LABEL_MAP_SEG, ROI_CLASSES
from reports.evidence import IDENTITY

VERIFICATION = "1.2.840.10008.1.1"
COMMITMENT = "1.2.840.10008.1.20.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
UPS_EVENT = "1.2.840.10008.5.1.4.34.6.4"
TEMPLATE = "conformance.md.j2"

Role = Literal["SCU", "SCP"]


@dataclass(frozen=True)
class Context:
    """A SOP class as it is negotiated: our role in it, and the transfer syntaxes in our order of preference."""

    sop_class_uid: str
    role: Role
    transfer_syntaxes: tuple[str, ...]
    what: str

    @property
    def name(self) -> str:
        return _name(self.sop_class_uid)


def accepted(settings: Settings) -> list[Context]:
    """What the listening AE accepts, with our role: read from that AE itself."""
    found = []
    for context in application_entity(settings).supported_contexts:
        uid = str(context.abstract_syntax)
        role: Role = "SCU" if uid == COMMITMENT else "SCP"
        found.append(Context(uid, role, tuple(map(str, context.transfer_syntax)), _what(uid)))
    return found


def _what(uid: str) -> str:
    if uid in CT_CLASSES:
        return "images: evidence of a work item"
    if uid in ROI_CLASSES:
        return "contours: each makes a work item"
    if uid == COMMITMENT:
        return "reports of storage commitment, on an association of the peer's own (role selection, or none)"
    return "C-ECHO" if uid == VERIFICATION else "worklist of the node's own work items"


def proposed(settings: Settings) -> list[Context]:
    """What the node proposes on the associations that it requests itself."""
    report = settings.report
    native = tuple(map(str, NATIVE))
    stored = [*report.sr_sop_classes, SECONDARY_CAPTURE, SEGMENTATION]
    stored += [PRESENTATION] if report.presentation_state else []
    stored += [ENCAPSULATED_PDF] if report.encapsulated_pdf else []
    made = [Context(uid, "SCU", native, "C-STORE of results; one context for each transfer syntax") for uid in stored]
    made.append(Context(COMMITMENT, "SCU", native, "N-ACTION; a report on this association is waited for shortly"))
    made.append(Context(STUDY_ROOT_FIND, "SCU", native, "C-FIND: read-back (IMAGE), whose study it is (STUDY)"))
    made.append(Context(VERIFICATION, "SCU", native, "C-ECHO; proposed on every association"))
    if settings.ups.enabled:
        made.append(Context(UPS_EVENT, "SCP", native, "N-EVENT-REPORT to subscribers (SCP role is proposed)"))
    return made


@dataclass(frozen=True)
class Status:
    """A status that the node answers a request with."""

    code: int
    meaning: str
    when: str

    @property
    def hexadecimal(self) -> str:
        return f"{self.code:04X}H"


STORE_STATUSES = (
    Status(receive.SUCCESS, "Success", "file and row are on disk; also for an object that is here already"),
    Status(receive.OUT_OF_RESOURCES, "Out of resources", "disk low, or disk or store cannot be written: try again"),
    Status(receive.CLASS_NOT_SUPPORTED, "SOP Class not supported", "another class than that of its context"),
    Status(receive.MISMATCH, "Data Set does not match SOP Class", "command and data set differ in a UID"),
    Status(receive.CANNOT_UNDERSTAND, "Cannot understand", "no data set, or one that cannot be read"),
    Status(receive.PROCESSING_FAILURE, "Processing failure", "the connection ended while the object came"),
    Status(receive.INVALID_INSTANCE, "Invalid SOP Instance", "a UID of the command is no UID"),
    Status(receive.NOT_AUTHORISED, "Not authorized", "the caller may associate, but has sends = false"),
)  # fmt: skip
REPORT_STATUSES = (
    Status(receive.SUCCESS, "Success", "taken; also for a transaction that is not open here"),
    Status(receive.PROCESSING_FAILURE, "Processing failure", "the report cannot be read or stored"),
)
UPS_STATUSES = (
    Status(ups_scp.SUCCESS, "Success", "done; all matches have been sent"),
    Status(ups_scp.PENDING, "Pending", "a match"),
    Status(ups_scp.PENDING_UNSUPPORTED, "Pending, keys left out", "a match; an unknown key narrows nothing"),
    Status(ups_scp.CANCEL, "Cancel", "C-CANCEL came"),
    Status(ups_scp.OUT_OF_RESOURCES, "Out of resources", f"over {ups_scp.MOST_MATCHES} matches, or still making up"),
    Status(ups_scp.IDENTIFIER_WRONG, "Identifier does not match", "a key cannot be read"),
    Status(ups_scp.UNABLE, "Unable to process", "a fault of the node"),
    Status(ups_scp.OPTIONAL_NOT_SUPPORTED, "Attributes not supported", "N-GET of what the step does not have"),
    Status(ups_scp.PROCESSING_FAILURE, "Processing failure", "a fault of the node"),
    Status(ups_scp.INVALID_ARGUMENT, "Invalid argument", "the data set of a request cannot be read"),
    Status(ups_scp.NO_SUCH_ACTION, "No such action", "an action that is not offered"),
    Status(ups_scp.NOT_AUTHORISED, "Not authorized", "the caller has no [[peers]] entry, or N-CREATE was asked for"),
    Status(ups_scp.RESOURCE_LIMITATION, "Resource limitation", "the worklist is still made up: ask again"),
    Status(ups_scp.WRONG_TRANSACTION, "Transaction UID not correct", "a step belongs to this node"),
    Status(ups_scp.UNKNOWN_STEP, "No such UPS", "a step that is not known"),
    Status(ups_scp.NOT_IN_PROGRESS, "Not IN PROGRESS", "N-SET of a step that nobody has begun"),
)  # fmt: skip


@dataclass(frozen=True)
class Attribute:
    """A row of an IOD table."""

    tag: str
    name: str
    value: str


def attributes(sop_class_uid: str) -> list[Attribute]:
    """What stands in an object of this class that we make, in the order of tags; patient and study attributes apart."""
    return _rows({**EVERY, **OBJECTS[sop_class_uid][1]})


def identity_attributes() -> list[Attribute]:
    """What is copied from the CT (or as the PACS or an HL7 message has it now)."""
    always = "always, empty where it is not known"
    return _rows({one: always if number < 10 else "where the CT has it" for number, one in enumerate(IDENTITY)})


def _rows(what: Mapping[str, str]) -> list[Attribute]:
    found = sorted((tag, value) for keyword, value in what.items() if (tag := tag_for_keyword(keyword)) is not None)
    return [Attribute(str(Tag(tag)).replace(", ", ","), dictionary_description(tag), value) for tag, value in found]


def statement(settings: Settings, *, date: str = "") -> str:
    """The whole statement as Markdown. `date`: of the day it was made; left out, it names none."""
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - Markdown, of our own values
    text = files("dicom_node").joinpath(TEMPLATE).read_text(encoding="utf-8")
    stored = [one for one in proposed(settings) if one.sop_class_uid in OBJECTS]
    kinds: dict[str, list[str]] = {}
    for one in stored:
        kinds.setdefault(OBJECTS[one.sop_class_uid][0], []).append(one.sop_class_uid)
    made: str = environment.from_string(text).render(
        settings=settings, date=date, version=VERSION,
        class_uid=IMPLEMENTATION_CLASS_UID, version_name=IMPLEMENTATION_VERSION_NAME,
        accepted=accepted(settings), proposed=proposed(settings), kinds=kinds,
        syntaxes=list(_syntaxes(settings)), store_statuses=STORE_STATUSES, report_statuses=REPORT_STATUSES,
        ups_statuses=UPS_STATUSES, attributes=attributes, identity=identity_attributes(), suites=tls.suites(),
        uid_name=_name, cell=_cell, onoff=_onoff,
    )  # fmt: skip
    return made


def _syntaxes(settings: Settings) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """Each set of transfer syntaxes once, with a letter and the SOP classes that are accepted in it."""
    sets: dict[tuple[str, ...], list[str]] = {}
    for one in accepted(settings):
        sets.setdefault(one.transfer_syntaxes, []).append(one.name)
    for letter, (syntaxes, names) in zip("ABCDEF", sets.items(), strict=False):
        yield letter, syntaxes, names


def _name(uid: str) -> str:
    return "Label Map Segmentation Storage" if uid == LABEL_MAP_SEG else UID(uid).name  # newer than pydicom's table


def _onoff(value: object) -> str:
    return "on" if value else "off"


def _cell(value: object) -> str:
    """A value that stands in a table of Markdown."""
    return str(value).replace("|", "\\|")

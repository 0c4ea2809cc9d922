"""An audit entry as a DICOM audit message: XML of PS3.15 A.5.1, filled as A.5.2 and A.5.3 say. Pure.

Every message carries the node's own action name too, as a second Event Type Code of the scheme 99PROGNODE.
"""

import base64
import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree import ElementTree as ET  # written, never parsed

from dicom_node.audit import AuditEntry
from dicom_node.identity import Identity

SCHEME = "99PROGNODE"
OUTCOMES = {"done": "0", "refused": "4", "failed": "8"}  # Event Outcome Indicator
UNKNOWN = "<none>"  # where a mandatory identifier is not known
_ILLEGAL = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0 2.2, and controls
_SOURCE, _DESTINATION = ("110153", "Source Role ID"), ("110152", "Destination Role ID")
_MEDIA = {"110106": ("110154", "Destination Media"), "110107": ("110155", "Source Media")}


@dataclass(frozen=True)
class Source:
    """Who reports: the node. `host` is its name or address on the network."""

    source_id: str
    enterprise_site_id: str
    ae_title: str
    host: str
    software: str  # for people: "Prognode 0.1.0"


@dataclass(frozen=True)
class Event:
    """An event of PS3.15 A.5.3: Event ID, Event Action Code, and the Event Type Code where one is called for."""

    code: str
    meaning: str
    action: str  # C, R, U, D, E
    kind: tuple[str, str] | None = None


def _activity(code: str, meaning: str) -> Event:
    return Event("110100", "Application Activity", "E", (code, meaning))


def _alert(code: str, meaning: str) -> Event:
    return Event("110113", "Security Alert", "E", (code, meaning))


# The longest beginning of an action name that stands here decides.
_EVENTS = {
    "node.start": _activity("110120", "Application Start"),
    "node.stop": _activity("110121", "Application Stop"),
    "audit.": Event("110101", "Audit Log Used", "R"),
    "audit.damaged": _alert("110133", "Audit Recording Stopped"),
    "audit.recovered": _alert("110134", "Audit Recording Started"),
    "association.": _alert("110126", "Node Authentication"),
    "connection.": _alert("110126", "Node Authentication"),
    "tls.": _alert("110126", "Node Authentication"),
    "instances.received": Event("110104", "DICOM Instances Transferred", "C"),
    "instances.known": Event("110104", "DICOM Instances Transferred", "R"),
    # Whether the receiver held them already is not known to the sender: R (PS3.15 A.5.3.7).
    "instances.sent": Event("110104", "DICOM Instances Transferred", "R"),
    "instances.": Event("110103", "DICOM Instances Accessed", "D"),
    "query.": Event("110112", "Query", "E"),
    "ups.query": Event("110112", "Query", "E"),
    "ups.read": Event("110111", "Procedure Record", "R"),
    "ups.": Event("110111", "Procedure Record", "U"),
    "quarantine.removed": Event("110103", "DICOM Instances Accessed", "D"),
    "copies.removed": Event("110110", "Patient Record", "D"),
    "clinical.read": Event("110110", "Patient Record", "R"),
    "clinical.removed": Event("110110", "Patient Record", "D"),
    "identity.removed": Event("110110", "Patient Record", "D"),
    "study.removed": Event("110105", "DICOM Study Deleted", "D"),
    "study.": Event("110103", "DICOM Instances Accessed", "R"),
    "result.": Event("110103", "DICOM Instances Accessed", "R"),
    "result.removed": Event("110103", "DICOM Instances Accessed", "D"),
    "signin": Event("110114", "User Authentication", "E", ("110122", "Login")),
    "signout": Event("110114", "User Authentication", "E", ("110123", "Logout")),
    "user.": _alert("110137", "User Security Attributes Changed"),
    "account.": _alert("110137", "User Security Attributes Changed"),
    "token.": _alert("110137", "User Security Attributes Changed"),
    "settings.": _alert("110129", "Security Configuration"),
    "bundle.": _alert("110131", "Software Configuration"),
    "workitem.": Event("110111", "Procedure Record", "U"),
    "clinical.": Event("110110", "Patient Record", "U"),
    "patient.": Event("110110", "Patient Record", "U"),
    "identity.": Event("110110", "Patient Record", "U"),
    "hl7.": Event("110110", "Patient Record", "U"),
    "fhir.": Event("110110", "Patient Record", "R"),
    "message.": Event("110110", "Patient Record", "R"),
    "backup.": Event("110106", "Export", "R"),
    "export.": Event("110106", "Export", "R"),
    "restore.": Event("110107", "Import", "C"),
}
_ANY_OTHER = _alert("110142", "Local Service Operation Stopped")
_TWO_SIDES = ("110104", "110112")  # who sent and who received take part, with their roles
_PEOPLE = ("web", "api", "cli")  # origins where a person acts, or a program in their name
_WITH_STUDY = frozenset({"110103", "110104", "110105", "110111"})
_WITH_PATIENT = _WITH_STUDY | {"110110", "110106", "110107"}


def event_of(action: str) -> Event:
    """The event that an action is reported as.

    >>> event_of("workitem.retry").meaning, event_of("signin").kind
    ('Procedure Record', ('110122', 'Login'))
    """
    beginnings = (action[:length] for length in range(len(action), 0, -1))
    return next((_EVENTS[each] for each in beginnings if each in _EVENTS), _ANY_OTHER)


def audit_message(entry: AuditEntry, identity: Identity | None, source: Source) -> str:
    """One message as XML without line breaks. `identity`: of the study that the entry is about, where it is known."""
    event = event_of(entry.action)
    root = ET.Element("AuditMessage")
    root.append(_event(event, entry))
    for participant in _participants(event, entry, source):
        root.append(participant)
    audit_source = ET.SubElement(root, "AuditSourceIdentification")
    if source.enterprise_site_id:
        audit_source.set("AuditEnterpriseSiteID", _text(source.enterprise_site_id))
    audit_source.set("AuditSourceID", _text(source.source_id))
    ET.SubElement(audit_source, "AuditSourceTypeCode", {"csd-code": "4"})  # application server process
    for thing in _objects(event, entry, identity):
        root.append(thing)
    return ET.tostring(root, encoding="unicode")


def _event(event: Event, entry: AuditEntry) -> ET.Element:
    moment = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    outcome = OUTCOMES[entry.outcome]
    attributes = {"EventActionCode": event.action, "EventDateTime": moment, "EventOutcomeIndicator": outcome}
    element = ET.Element("EventIdentification", attributes)
    _coded(element, "EventID", event.code, event.meaning)
    if event.kind is not None:
        _coded(element, "EventTypeCode", *event.kind)
    _coded(element, "EventTypeCode", entry.action, entry.action, SCHEME)
    said = [entry.detail] if entry.detail else []
    if "peer" in entry.facts and event.code not in _TWO_SIDES:
        said.append(f"to {entry.facts['peer']}")
    if said:
        ET.SubElement(element, "EventOutcomeDescription").text = _text("; ".join(said))
    return element


# -- who took part ---------------------------------------------------------------------------------------------


def _participants(event: Event, entry: AuditEntry, source: Source) -> Iterator[ET.Element]:
    """Whoever asked for it first, then the others; exactly one or none of them is the requestor (PS3.15 A.5.2)."""
    if event.code == "110100":
        yield _node(source, roles=[("110150", "Application")], requestor=False, name=entry.actor)
    elif event.code in _TWO_SIDES:
        yield from _two_sides(entry, source)
    elif event.code in _MEDIA:
        ours = _SOURCE if event.code == "110106" else _DESTINATION
        yield _person(entry, roles=[ours])
        yield _node(source, roles=[ours])
        yield _media(entry, _MEDIA[event.code])
    else:
        if entry.actor or entry.address:
            yield _person(entry, requestor=event.code != "110113" or entry.origin in _PEOPLE, at=source)
        yield _node(source)


def _two_sides(entry: AuditEntry, source: Source) -> Iterator[ET.Element]:
    """Sender and receiver of objects or of a query. What came is told by its sender; what went, by its receiver."""
    if entry.origin in _PEOPLE:  # a search on the page: whoever asks it, of us (PS3.15 A.5.3.10)
        yield _person(entry, roles=[_SOURCE], at=source)
        yield _node(source, roles=[_DESTINATION])
        return
    came = entry.action in ("instances.received", "instances.known") or entry.action.startswith("ups.")
    if came:
        yield _ae(entry.actor, entry.address, _SOURCE, requestor=True)
        yield _node(source, roles=[_DESTINATION])
    else:
        yield _node(source, roles=[_SOURCE], requestor=True)
        yield _ae(str(entry.facts.get("peer", "")), str(entry.facts.get("peer_address", "")), _DESTINATION)


def _person(
    entry: AuditEntry, roles: list[tuple[str, str]] | None = None, *, requestor: bool = True, at: Source | None = None
) -> ET.Element:
    """The account, system user or AE that acted. `at`: where it was when no address is known (it acted on the host)."""
    address = entry.address or (at.host if at is not None else "")
    if entry.origin == "dicom":
        return _ae(entry.actor, address, *(roles or []), requestor=requestor)
    element = _participant(entry.actor or UNKNOWN, requestor=requestor, roles=roles or [])
    _place(element, address)
    return element


def _node(
    source: Source, roles: list[tuple[str, str]] | None = None, *, requestor: bool = False, name: str = ""
) -> ET.Element:
    element = _participant(source.source_id, requestor=requestor, roles=roles or [])
    element.set("AlternativeUserID", f"AETITLES={_text(source.ae_title)}")
    element.set("UserName", _text(f"{source.software} {name}".strip()))
    _place(element, source.host)
    return element


def _ae(ae_title: str, address: str, *roles: tuple[str, str], requestor: bool = False) -> ET.Element:
    element = _participant(ae_title or address or UNKNOWN, requestor=requestor, roles=list(roles))
    if ae_title:
        element.set("AlternativeUserID", f"AETITLES={_text(ae_title)}")
    _place(element, address)
    return element


def _media(entry: AuditEntry, role: tuple[str, str]) -> ET.Element:
    element = _participant(str(entry.facts.get("uri", UNKNOWN)), requestor=False, roles=[role])
    _coded(ET.SubElement(element, "MediaIdentifier"), "MediaType", "110037", "URI")
    return element


def _participant(user_id: str, *, requestor: bool, roles: list[tuple[str, str]]) -> ET.Element:
    attributes = {"UserID": _text(user_id), "UserIsRequestor": str(requestor).lower()}
    element = ET.Element("ActiveParticipant", attributes)
    for role in roles:
        _coded(element, "RoleIDCode", *role)
    return element


def _place(element: ET.Element, address: str) -> None:
    if address:
        element.set("NetworkAccessPointID", _text(address))
        element.set("NetworkAccessPointTypeCode", "2" if _is_ip(address) else "1")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


# -- what it was about -----------------------------------------------------------------------------------------


def _objects(event: Event, entry: AuditEntry, identity: Identity | None) -> Iterator[ET.Element]:
    if event.code == "110101":
        yield _audit_log(entry)
    if event.code == "110112":
        yield _query(entry)
    if event.code == "110113" and entry.detail:
        yield _subject(entry)
    if event.code in _WITH_STUDY:
        yield _study(entry, identity)
    if event.code in _WITH_PATIENT:
        yield _patient(entry, identity)


def _audit_log(entry: AuditEntry) -> ET.Element:
    uri = str(entry.facts.get("uri", UNKNOWN))
    element = _object(uri, "2", "13", ("12", "URI", "RFC-3881"), "Security Audit Log")
    for name in ("line", "sha256"):  # the anchor of the chain
        if name in entry.facts:
            _pair(element, name, str(entry.facts[name]))
    return element


def _query(entry: AuditEntry) -> ET.Element:
    uid = str(entry.facts.get("sop_class_uid", UNKNOWN))
    element = _object(uid, "2", "3", ("110181", "SOP Class UID", "DCM"), None)
    ET.SubElement(element, "ParticipantObjectQuery").text = str(entry.facts.get("query", ""))
    _pair(element, "TransferSyntax", str(entry.facts.get("transfer_syntax_uid", "")))
    return element


def _subject(entry: AuditEntry) -> ET.Element:
    """What an alert is about: the caller, or a file."""
    if "uri" in entry.facts:
        element = _object(str(entry.facts["uri"]), "2", "5", ("12", "URI", "RFC-3881"), "file")
    else:
        node = entry.address or entry.actor or UNKNOWN
        element = _object(node, "2", "13", ("110182", "Node ID", "DCM"), entry.actor or node)
    _pair(element, "Alert Description", entry.detail)
    return element


def _study(entry: AuditEntry, identity: Identity | None) -> ET.Element:
    uid = entry.study_instance_uid or UNKNOWN
    element = _object(uid, "2", "3", ("110180", "Study Instance UID", "DCM"), uid)
    described = ET.Element("ParticipantObjectDescription")
    if identity is not None and identity.accession_number:
        ET.SubElement(described, "Accession", {"Number": _text(identity.accession_number)})
    for sop_class_uid, count in sorted(entry.facts.get("sop_classes", {}).items()):
        ET.SubElement(described, "SOPClass", {"UID": _text(sop_class_uid), "NumberOfInstances": str(int(count))})
    if len(described):
        element.append(described)
    return element


def _patient(entry: AuditEntry, identity: Identity | None) -> ET.Element:
    """The patient of the study, else the one that the facts name; HL7's CX where an issuer is known, as IHE asks."""
    known = identity or Identity(
        patient_id=str(entry.facts.get("patient_id", "")),
        issuer_of_patient_id=str(entry.facts.get("issuer_of_patient_id", "")),
        patient_name=str(entry.facts.get("patient_name", "")),
    )
    issuer = known.issuer_of_patient_id
    number = f"{known.patient_id}^^^{issuer}" if known.patient_id and issuer else known.patient_id
    name = known.patient_name or number or UNKNOWN
    return _object(number or UNKNOWN, "1", "1", ("2", "Patient Number", "RFC-3881"), name)


def _object(identifier: str, type_code: str, role: str, id_type: tuple[str, str, str], name: str | None) -> ET.Element:
    attributes = {
        "ParticipantObjectID": _text(identifier),
        "ParticipantObjectTypeCode": type_code,
        "ParticipantObjectTypeCodeRole": role,
    }
    element = ET.Element("ParticipantObjectIdentification", attributes)
    code, meaning, scheme = id_type
    _coded(element, "ParticipantObjectIDTypeCode", code, meaning, scheme)
    if name is not None:
        ET.SubElement(element, "ParticipantObjectName").text = _text(name)
    return element


def _pair(parent: ET.Element, kind: str, value: str) -> None:
    encoded = base64.b64encode(value.encode("utf-8", "replace")).decode("ascii")
    ET.SubElement(parent, "ParticipantObjectDetail", {"type": kind, "value": encoded})


def _coded(parent: ET.Element, tag: str, code: str, meaning: str, scheme: str = "DCM") -> None:
    attributes = {"csd-code": _text(code), "codeSystemName": scheme, "originalText": _text(meaning)}
    ET.SubElement(parent, tag, attributes)


def _text(text: str) -> str:
    """Text that XML can hold, on one line."""
    return _ILLEGAL.sub("�", re.sub(r"\s", " ", text))

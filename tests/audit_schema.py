"""DICOM audit messages held against the standard: the schema of PS3.15 A.5.1, and what A.5.3 asks of each event."""

import functools
from collections import Counter

from lxml import etree

from tests.paths import ROOT

# Event ID -> (allowed Event Action Codes, whether a DCM Event Type Code is called for, what must take part).
# A role is that of an Active Participant; "study", "patient", "log", "query" are Participant Objects.
RULES = {
    "110100": ("E", True, {"110150"}),
    "110101": ("R", False, {"log"}),
    "110103": ("CRUD", False, {"study", "patient"}),
    "110104": ("CRU", False, {"110153", "110152", "study", "patient"}),
    "110105": ("D", False, {"study", "patient"}),
    "110106": ("R", False, {"110153", "110154", "patient"}),
    "110107": ("C", False, {"110152", "110155", "patient"}),
    "110110": ("CRUD", False, {"patient"}),
    "110111": ("CRUD", False, {"study", "patient"}),
    "110112": ("E", False, {"110153", "110152", "query"}),
    "110113": ("E", True, set()),
    "110114": ("E", True, set()),
}
_OBJECTS = {
    ("2", "3", "110180"): "study",
    ("1", "1", "2"): "patient",
    ("2", "13", "12"): "log",
    ("2", "3", "110181"): "query",
}


@functools.cache
def schema() -> etree.RelaxNG:
    return etree.RelaxNG.from_rnc_string((ROOT / "tests/schemas/audit_message.rnc").read_text(encoding="utf-8"))


def check(text: str) -> etree._Element:
    """The message, once schema and event rules are satisfied."""
    message = etree.fromstring(text.encode("utf-8"))
    assert schema().validate(message), f"{schema().error_log}\n{text}"
    _check_event(message)
    return message


def event_of(message: etree._Element) -> tuple[str, str, str]:
    """Event ID, Event Action Code, Event Outcome Indicator."""
    event = message.find("EventIdentification")
    return event.find("EventID").get("csd-code"), event.get("EventActionCode"), event.get("EventOutcomeIndicator")


def _check_event(message: etree._Element) -> None:
    code, action, _ = event_of(message)
    actions, typed, parts = RULES[code]
    assert action in actions, (code, action)
    kinds = message.findall("EventIdentification/EventTypeCode")
    assert not typed or [kind for kind in kinds if kind.get("codeSystemName") == "DCM"], code
    present = Counter(role.get("csd-code") for role in message.findall("ActiveParticipant/RoleIDCode"))
    for thing in message.findall("ParticipantObjectIdentification"):
        key = (
            thing.get("ParticipantObjectTypeCode"),
            thing.get("ParticipantObjectTypeCodeRole"),
            thing.find("ParticipantObjectIDTypeCode").get("csd-code"),
        )
        present[_OBJECTS.get(key, "other")] += 1
    assert not parts - set(present), (code, parts, present)
    requestors = [each for each in message.findall("ActiveParticipant") if each.get("UserIsRequestor") == "true"]
    assert len(requestors) <= 1, "one requestor (A.5.2)"
    if code == "110114":  # A.5.3.12: the access point of the person is mandatory
        assert message.find("ActiveParticipant").get("NetworkAccessPointID")
    if code == "110113":  # A.5.3.11: each alert subject has its description
        for thing in message.findall("ParticipantObjectIdentification"):
            assert [
                each for each in thing.findall("ParticipantObjectDetail") if each.get("type") == "Alert Description"
            ]

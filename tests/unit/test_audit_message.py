"""Audit messages: valid against PS3.15 A.5.1, filled as A.5.3 asks, and safe with whatever the network sends."""

import base64
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.audit import AuditEntry
from dicom_node.audit_message import _EVENTS, Source, audit_message
from dicom_node.identity import Identity
from tests.audit_schema import check, event_of

MOMENT = 1_790_000_000.25
SOURCE = Source("PROGNODE", "Hospital North", "PROGNODE", "10.1.2.3", "Prognode 0.1.0")
PATIENT = Identity(patient_id="4711", issuer_of_patient_id="HOSP", patient_name="Müller^Jörg", accession_number="A77")
CT = "1.2.840.10008.5.1.4.1.1.2"


def entry(action: str, **more: object) -> AuditEntry:
    values = {"actor": "anna", "origin": "web", "address": "10.9.8.7", "study_instance_uid": "1.2.3", "detail": "why"}
    return AuditEntry(MOMENT, action=action, **{**values, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "action", sorted({*_EVENTS, "workitem.retry", "study.opened", "instances.quarantined", "fsck.repaired"})
)
@pytest.mark.parametrize("outcome", ["done", "refused", "failed"])
@pytest.mark.parametrize("identity", [PATIENT, None])
def test_every_event_is_what_the_standard_asks_of_it(action: str, outcome: str, identity: Identity | None) -> None:
    message = check(audit_message(entry(action, outcome=outcome), identity, SOURCE))
    assert event_of(message)[2] == {"done": "0", "refused": "4", "failed": "8"}[outcome]
    own = [
        kind.get("csd-code")
        for kind in message.findall("EventIdentification/EventTypeCode")
        if kind.get("codeSystemName") == "99PROGNODE"
    ]
    assert own == [action]


@pytest.mark.parametrize(
    ("action", "event"),
    [
        ("node.start", "110100"),
        ("association.refused", "110113"),
        ("instances.received", "110104"),
        ("instances.sent", "110104"),
        ("query.sent", "110112"),
        ("study.opened", "110103"),
        ("study.removed", "110105"),
        ("workitem.retry", "110111"),
        ("signin", "110114"),
        ("signin.failed", "110114"),
        ("token.add", "110113"),
        ("settings.changed", "110113"),
        ("hl7.merge", "110110"),
        ("identity.changed", "110110"),
        ("message.sent", "110110"),
        ("fhir.searched", "110110"),
        ("clinical.recorded", "110110"),
        ("ups.query", "110112"),
        ("ups.read", "110111"),
        ("result.opened", "110103"),
        ("export.clinical", "110106"),
        ("audit.exported", "110101"),
        ("backup.done", "110106"),
        ("restore.done", "110107"),
        ("fsck.repaired", "110113"),
        ("something.new", "110113"),
    ],
)
def test_an_action_is_reported_as_its_event(action: str, event: str) -> None:
    assert event_of(check(audit_message(entry(action), PATIENT, SOURCE)))[0] == event


def test_what_was_received_names_sender_receiver_study_classes_and_patient() -> None:
    facts = {"sop_classes": {CT: 300}}
    row = entry("instances.received", actor="CT01", origin="dicom", facts=facts)
    message = check(audit_message(row, PATIENT, SOURCE))
    sender, receiver = message.findall("ActiveParticipant")
    assert (sender.get("UserID"), sender.get("AlternativeUserID")) == ("CT01", "AETITLES=CT01")
    assert sender.find("RoleIDCode").get("csd-code") == "110153"
    assert (sender.get("NetworkAccessPointID"), sender.get("NetworkAccessPointTypeCode")) == ("10.9.8.7", "2")
    assert receiver.get("AlternativeUserID") == "AETITLES=PROGNODE"
    study, patient = message.findall("ParticipantObjectIdentification")
    assert study.get("ParticipantObjectID") == "1.2.3"
    classes = study.find("ParticipantObjectDescription/SOPClass")
    assert (classes.get("UID"), classes.get("NumberOfInstances")) == (CT, "300")
    assert study.find("ParticipantObjectDescription/Accession").get("Number") == "A77"
    assert patient.get("ParticipantObjectID") == "4711^^^HOSP"
    assert patient.findtext("ParticipantObjectName") == "Müller^Jörg"
    assert event_of(message)[1] == "C"


def test_what_was_sent_names_us_as_the_source_and_leaves_open_what_the_receiver_held() -> None:
    facts = {"peer": "PACS", "peer_address": "pacs.example", "sop_classes": {CT: 4}}
    row = entry("instances.sent", actor="", origin="node", address="", facts=facts)
    message = check(audit_message(row, PATIENT, SOURCE))
    source, destination = message.findall("ActiveParticipant")
    assert (source.get("UserID"), destination.get("UserID")) == ("PROGNODE", "PACS")
    assert (destination.get("NetworkAccessPointID"), destination.get("NetworkAccessPointTypeCode")) == (
        "pacs.example",
        "1",
    )
    assert event_of(message)[1] == "R"


def test_a_query_keeps_its_identifier_and_transfer_syntax() -> None:
    query = base64.b64encode(b"\x08\x00\x52\x00").decode()
    facts = {
        "peer": "PACS",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.2.2.1",
        "query": query,
        "transfer_syntax_uid": "1.2",
    }
    message = check(audit_message(entry("query.sent", origin="node", facts=facts), PATIENT, SOURCE))
    thing = message.find("ParticipantObjectIdentification")
    assert thing.get("ParticipantObjectID") == "1.2.840.10008.5.1.4.1.2.2.1"
    assert thing.findtext("ParticipantObjectQuery") == query
    detail = thing.find("ParticipantObjectDetail")
    assert (detail.get("type"), base64.b64decode(detail.get("value"))) == ("TransferSyntax", b"1.2")


def test_a_search_on_the_page_names_whoever_searched_and_from_where() -> None:
    message = check(audit_message(entry("query.worklist", facts={"query": "RG9l"}), None, SOURCE))
    person, node = message.findall("ActiveParticipant")
    assert (person.get("UserID"), person.get("UserIsRequestor")) == ("anna", "true")
    assert person.get("NetworkAccessPointID") == "10.9.8.7"
    assert person.find("RoleIDCode").get("csd-code") == "110153"
    assert (node.get("UserID"), node.get("UserIsRequestor")) == ("PROGNODE", "false")
    assert node.find("RoleIDCode").get("csd-code") == "110152"


def test_a_message_to_a_ris_says_to_which() -> None:
    row = entry("message.sent", origin="node", actor="prognode", detail="AA", facts={"peer": "hl7:RIS"})
    message = check(audit_message(row, PATIENT, SOURCE))
    assert message.findtext("EventIdentification/EventOutcomeDescription") == "AA; to hl7:RIS"


def test_an_alert_describes_its_subject() -> None:
    row = entry("association.refused", actor="EVIL", origin="dicom", outcome="refused", detail="not a known sender")
    message = check(audit_message(row, None, SOURCE))
    assert event_of(message) == ("110113", "E", "4")
    thing = message.find("ParticipantObjectIdentification")
    assert thing.get("ParticipantObjectID") == "10.9.8.7"
    assert base64.b64decode(thing.find("ParticipantObjectDetail").get("value")) == b"not a known sender"
    assert [each.get("UserIsRequestor") for each in message.findall("ActiveParticipant")] == ["false", "false"]


def test_the_time_is_utc_with_its_zone() -> None:
    message = check(audit_message(entry("signin"), None, SOURCE))
    assert message.find("EventIdentification").get("EventDateTime") == "2026-09-21T14:13:20.250Z"


NETWORK = st.text(max_size=80) | st.sampled_from(
    ["\0\x1b[2J", "</AuditMessage>", "]]>&#x0;", "\ud800", "\ufffe\uffff", "a\r\nb"]
)


@given(
    actor=NETWORK,
    address=NETWORK,
    study=NETWORK,
    detail=NETWORK,
    name=NETWORK,
    uid=NETWORK,
    action=st.sampled_from(sorted(_EVENTS)),
)
def test_nothing_that_came_over_the_network_breaks_a_message(
    actor: str, address: str, study: str, detail: str, name: str, uid: str, action: str
) -> None:
    facts = {"peer": name, "peer_address": address, "sop_classes": {uid: 1}, "uri": name, "sop_class_uid": uid}
    row = entry(
        action, actor=actor, address=address, study_instance_uid=study, detail=detail, facts=facts, origin="dicom"
    )
    text = audit_message(row, replace(PATIENT, patient_name=name, patient_id=uid), SOURCE)
    assert not re.search(r"[\x00-\x1f]", text), "one line"
    check(text)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ('EventOutcomeIndicator="0"', 'EventOutcomeIndicator="3"'),
        ("250Z", "250"),
        ('originalText="Login"', ""),
        ("<AuditSourceTypeCode", "<AuditSourceKindCode"),
        ('NetworkAccessPointID="10.9.8.7"', ""),
        ('UserIsRequestor="false"', 'UserIsRequestor="true"'),
    ],
)
def test_the_check_itself_finds_what_is_wrong(good: str, bad: str) -> None:
    text = audit_message(entry("signin"), None, SOURCE)
    check(text)
    assert good in text
    with pytest.raises(AssertionError):
        check(text.replace(good, bad))

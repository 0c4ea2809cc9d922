"""What the audit trail hears of deliveries: one entry per work item and destination, and each query."""

import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.filereader import read_dataset
from pynetdicom import evt

from config.settings import Deliver, Peer
from dicom_node.audit_message import Source, audit_message
from dicom_node.demo_pacs import DemoPacs
from tests.audit_schema import check, event_of
from tests.road import road
from tests.synthetic import DEFECTS, ct_series, rtstruct

SOURCE = Source("PROGNODE", "", "PROGNODE", "node", "Prognode")


def test_a_result_on_its_way_is_one_entry_for_what_was_sent_and_one_for_what_was_asked(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs", "PACS", commitment="none") as pacs:
        peer = Peer("PACS", port=pacs.port, sends=False, receives_results=True, proof="find")
        made = road(tmp_path, peers=(peer,), deliver=Deliver(connect_timeout_seconds=5.0))
        ct = DEFECTS["without rescale"](ct_series(16, 40, 40, seed=31))  # not scored: no job, and a result all the same
        made.take(*ct, rtstruct(ct))
        made.work()
        made.later(60.0)
    (item,) = made.items
    assert item.state == "COMPLETED"
    identity = made.store.patients.of_study(item.study_instance_uid)
    entries = [entry for entry in reversed(made.store.audit.of_item(item.id)) if entry.origin == "node"]
    identity_asked, sent, asked = entries  # whose study it is, the objects, whether they are there
    assert identity_asked.action == "query.sent"
    assert (sent.action, sent.outcome, sent.facts["peer"]) == ("instances.sent", "done", "PACS")
    assert sum(sent.facts["sop_classes"].values()) == len(made.store.deliveries.of_item(item.id))
    message = check(audit_message(sent, identity, SOURCE))
    assert event_of(message) == ("110104", "R", "0")
    assert message.findall("ParticipantObjectIdentification")[1].get("ParticipantObjectID") == str(ct[0].PatientID)
    assert asked.action == "query.sent"
    query = read_dataset(BytesIO(base64.b64decode(asked.facts["query"])), False, True)
    assert query.StudyInstanceUID == item.study_instance_uid
    assert len(query.SOPInstanceUID) == len(made.store.deliveries.of_item(item.id))
    assert event_of(check(audit_message(asked, identity, SOURCE))) == ("110112", "E", "0")


def test_a_question_that_gets_no_answer_is_an_entry_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_answer(pacs: DemoPacs, event: evt.Event) -> Iterator[tuple[int, None]]:
        yield next(statuses), None

    monkeypatch.setattr(DemoPacs, "_on_find", no_answer)
    statuses = iter([0xC001, 0x0000, 0x0110])  # whose study it is, and again (it has none); is it there
    with DemoPacs(tmp_path / "pacs", "PACS", commitment="none") as pacs:
        made = road(tmp_path, peers=(Peer("PACS", port=pacs.port, sends=False, receives_results=True, proof="find"),))
        ct = DEFECTS["without rescale"](ct_series(16, 40, 40, seed=31))
        made.take(*ct, rtstruct(ct))
        made.work()
        made.later(6.0)
    (item,) = made.items
    entries = [entry for entry in reversed(made.store.audit.of_item(item.id)) if entry.action == "query.sent"]
    assert [entry.outcome for entry in entries] == ["failed", "done", "failed"]
    assert [entry.detail[-14:] for entry in entries] == ["(status C001H)", "", "(status 0110H)"]
    assert [event_of(check(audit_message(one, None, SOURCE))) for one in entries] == [
        ("110112", "E", number) for number in ("8", "0", "8")
    ]


def test_what_a_destination_refuses_is_an_entry_of_its_own(tmp_path: Path) -> None:
    only_sr = ["1.2.840.10008.5.1.4.1.1.88.34"]
    with DemoPacs(tmp_path / "pacs", "PACS", sop_classes=only_sr, commitment="none") as pacs:
        peer = Peer("PACS", port=pacs.port, sends=False, receives_results=True, proof="none")
        made = road(tmp_path, peers=(peer,))
        ct = DEFECTS["without rescale"](ct_series(16, 40, 40, seed=31))  # not scored: no job, and a result all the same
        made.take(*ct, rtstruct(ct))
        made.work()
    (item,) = made.items
    entries = [entry for entry in made.store.audit.of_item(item.id) if entry.action == "instances.sent"]
    assert sorted(entry.outcome for entry in entries) == ["done", "refused"]
    for entry in entries:
        assert event_of(check(audit_message(entry, None, SOURCE)))[2] == {"done": "0", "refused": "4"}[entry.outcome]

"""Queries of the UPS worklist by SCUs in other processes, over real sockets: matching, return keys, limits."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from config.settings import Node, Peer, Receive, Settings, Ups
from dicom_node import procedure_steps, ups_scp
from dicom_node.identity import Identity
from dicom_node.receive import Receiver
from dicom_node.step_state import StepState
from dicom_node.store import Store
from dicom_node.ups_worklist import UpsWorklist
from dicom_node.workitem import State
from tests import synthetic, ups_peer
from tests.network import association
from tests.road import Road

CT = synthetic.ct_series(12, seed=1)
SETTINGS = Settings(
    node=Node(ae_title="PROGNODE", port=0, time_zone="Europe/Berlin"),
    peers=(Peer("WATCHER", sends=False),),
    receive=Receive(reserve_disk_bytes=0),
    ups=Ups(enabled=True),
)


@dataclass
class Listening:
    """A node with a port; `items` are work items that the test has put into its store."""

    road: Road
    port: int

    def add(self, number: int, identity: Identity, state: State = State.WAITING, **columns: object) -> int:
        """A work item of a study of its own, without objects."""
        study = f"1.2.826.0.1.{number}"
        self.road.store.patients.received(study, identity, self.road.clock())
        return insert(self.road.store, study, self.road.clock(), state, **columns)


def insert(store: Store, study: str, now: float, state: State = State.WAITING, **columns: object) -> int:
    from dicom_node import items

    return items.insert(store._db, state, now, study_instance_uid=study, **columns)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Listening]:
    road = Road(tmp_path, SETTINGS)
    receiver = Receiver(road.settings, road.spool, road.clock)
    receiver.start()
    try:
        yield Listening(road, receiver.port)
    finally:
        receiver.stop(grace_seconds=2.0)


def keys(**values: object) -> Dataset:
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def item(**values: object) -> list[Dataset]:
    made = keys(**values)
    del made.SpecificCharacterSet
    return [made]


@pytest.fixture
def three(node: Listening) -> Listening:
    """Müller (waits), Yamada (scheduled, HIGH), Smith-Jones (in progress)."""
    node.add(1, Identity(patient_id="P1", patient_name="Müller^Jörg", patient_birth_date="19500101", patient_sex="M",
                         accession_number="ACC-1"))  # fmt: skip
    node.road.clock.now += 86400
    node.add(2, Identity(patient_id="P2", issuer_of_patient_id="HOSP", patient_name="Yamada^Tarou=山田^太郎",
                         patient_birth_date="19600229", patient_sex="M", accession_number="ACC-2"),
             State.SCHEDULED, priority=1, roi_sop_instance_uid="1.2.3.2")  # fmt: skip
    node.road.clock.now += 86400
    number = node.add(3, Identity(patient_id="P3", patient_name="Smith-Jones^Ann", patient_birth_date="19700615",
                                  patient_sex="F", accession_number="ACC-3"),
                      State.SCHEDULED, priority=-1, roi_sop_instance_uid="1.2.3.3")  # fmt: skip
    node.road.store.note(number, "scheduled claimed", node.road.clock())
    return node


def names(port: int, context: str = "watch", **values: object) -> set[str]:
    found = ups_peer.find(port, keys(**{"PatientName": "", **values}), context=context)
    return {str(one.PatientName).split("^")[0] for one in found}


@pytest.mark.parametrize("context", ["watch", "pull", "query"])
def test_universal_keys_find_every_step_under_each_sop_class(three: Listening, context: str) -> None:
    assert names(three.port, context) == {"Müller", "Yamada", "Smith-Jones"}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"ProcedureStepState": "SCHEDULED"}, {"Müller", "Yamada"}),
        ({"ProcedureStepState": "IN PROGRESS"}, {"Smith-Jones"}),
        ({"ProcedureStepState": "COMPLETED"}, set()),
        ({"InputReadinessState": "READY"}, {"Yamada", "Smith-Jones"}),
        ({"InputReadinessState": "INCOMPLETE"}, {"Müller"}),
        ({"ScheduledProcedureStepPriority": "HIGH"}, {"Yamada"}),
        ({"ScheduledProcedureStepPriority": "LOW"}, {"Smith-Jones"}),
        ({"PatientID": "P2"}, {"Yamada"}),
        ({"PatientID": "p2"}, set()),  # only names fold case
        ({"PatientID": "P?"}, {"Müller", "Yamada", "Smith-Jones"}),
        ({"PatientName": "müller*"}, {"Müller"}),
        ({"PatientName": "MÜLLER^JÖRG"}, {"Müller"}),
        ({"PatientName": "山田*"}, {"Yamada"}),
        ({"PatientName": "*tarou*"}, {"Yamada"}),
        ({"PatientName": "Smith-J*"}, {"Smith-Jones"}),
        ({"PatientName": "Smith%"}, set()),  # a wild card of SQL is none of DICOM
        ({"PatientBirthDate": "19500101-19601231"}, {"Müller", "Yamada"}),
        ({"PatientBirthDate": "19700101-"}, {"Smith-Jones"}),
        ({"PatientSex": "F"}, {"Smith-Jones"}),
        ({"ScheduledProcedureStepStartDateTime": "20231115"}, {"Yamada"}),
        ({"ScheduledProcedureStepStartDateTime": "2023111423"}, {"Müller"}),  # 22:13 UTC is 23:13 in Berlin
        ({"ScheduledProcedureStepStartDateTime": "2023111423", "TimezoneOffsetFromUTC": "+0000"}, set()),
        ({"ScheduledProcedureStepStartDateTime": "2023111422", "TimezoneOffsetFromUTC": "+0000"}, {"Müller"}),
        ({"ScheduledProcedureStepStartDateTime": "20231115-20231116"}, {"Yamada", "Smith-Jones"}),
        ({"ScheduledProcedureStepStartDateTime": "-20231114"}, {"Müller"}),
        ({"ReferencedRequestSequence": item(AccessionNumber="ACC-3")}, {"Smith-Jones"}),
        ({"ReferencedRequestSequence": item(AccessionNumber="ACC*")}, {"Müller", "Yamada", "Smith-Jones"}),
        ({"ReferencedRequestSequence": item(StudyInstanceUID="1.2.826.0.1.2")}, {"Yamada"}),
        ({"StudyInstanceUID": ["1.2.826.0.1.1", "1.2.826.0.1.3"]}, {"Müller", "Smith-Jones"}),
        ({"ScheduledWorkitemCodeSequence": item(CodeValue="110001", CodingSchemeDesignator="DCM")},
         {"Müller", "Yamada", "Smith-Jones"}),
        ({"ScheduledWorkitemCodeSequence": item(CodeValue="110005", CodingSchemeDesignator="DCM")}, set()),
        ({"ScheduledStationNameCodeSequence": item(CodeValue="PROGNODE")}, {"Müller", "Yamada", "Smith-Jones"}),
        ({"ScheduledStationNameCodeSequence": item(CodeValue="OTHER")}, set()),
        ({"WorklistLabel": "PROG*"}, {"Müller", "Yamada", "Smith-Jones"}),
        ({"ProcedureStepState": "SCHEDULED", "InputReadinessState": "READY", "PatientSex": "M"}, {"Yamada"}),
    ],
)  # fmt: skip
def test_keys_narrow_as_the_standard_says(three: Listening, wanted: dict[str, object], expected: set[str]) -> None:
    assert names(three.port, **wanted) == expected


def test_a_list_of_uids_finds_these_steps(three: Listening) -> None:
    found = ups_peer.find(three.port, keys(SOPInstanceUID="", PatientID=""))
    uids = {one.PatientID: one.SOPInstanceUID for one in found}
    assert names(three.port, SOPInstanceUID=[uids["P1"], uids["P3"]]) == {"Müller", "Smith-Jones"}
    assert names(three.port, SOPInstanceUID=uids["P2"]) == {"Yamada"}
    assert names(three.port, SOPInstanceUID="1.2.3") == set()


def test_only_what_was_asked_for_is_answered_also_inside_sequences(three: Listening) -> None:
    asked = keys(PatientID="P2", ReferencedRequestSequence=item(AccessionNumber=""), ScheduledWorkitemCodeSequence=[])
    (found,) = ups_peer.find(three.port, asked)
    assert {element.keyword for element in found} == {
        "SpecificCharacterSet", "PatientID", "ReferencedRequestSequence", "ScheduledWorkitemCodeSequence",
    }  # fmt: skip
    assert {element.keyword for element in found.ReferencedRequestSequence[0]} == {"AccessionNumber"}
    assert found.ScheduledWorkitemCodeSequence[0].CodeMeaning == "Image Processing"


def test_a_key_that_no_step_can_have_narrows_nothing_and_is_told_by_the_status(three: Listening) -> None:
    answer = ups_peer.ask(three.port, "find", keys=keys(PatientID="", PatientComments="x"))
    assert answer["statuses"] == [0xFF01, 0xFF01, 0xFF01, 0x0000]
    assert all("PatientComments" in one for one in answer["data_sets"])
    answer = ups_peer.ask(three.port, "find", keys=keys(PatientID=""))
    assert answer["statuses"] == [0xFF00, 0xFF00, 0xFF00, 0x0000]


def test_more_matches_than_the_limit_end_with_out_of_resources(
    three: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ups_scp, "MOST_MATCHES", 2)
    answer = ups_peer.ask(three.port, "find", keys=keys(PatientID=""))
    assert answer["statuses"] == [0xFF00, 0xFF00, 0xA700]


def test_a_query_can_be_canceled(node: Listening) -> None:
    for number in range(1, 900):
        node.add(number, Identity(patient_id=f"P{number}"))
    answer = ups_peer.ask(node.port, "find", keys=keys(PatientID=""), cancel_after=1)
    assert answer["statuses"][-1] == 0xFE00
    assert len(answer["statuses"]) < 900


@pytest.mark.parametrize(
    "wrong",
    [
        {"ScheduledProcedureStepStartDateTime": "20231"},
        {"PatientName": "x" * 2000},
        {"ReferencedRequestSequence": [*item(AccessionNumber="1"), *item(AccessionNumber="2")]},
    ],
)
def test_keys_that_cannot_be_used_are_refused_by_name_and_value_is_not_logged(
    three: Listening, wrong: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    answer = ups_peer.ask(three.port, "find", keys=keys(**wrong))
    assert answer["statuses"] == [0xA900]
    assert "ups.refused" in caplog.text
    assert "xxxx" not in caplog.text


def test_a_pattern_of_many_stars_costs_no_time(three: Listening) -> None:
    begun = time.monotonic()
    assert names(three.port, PatientName="*a" * 200) == set()
    assert time.monotonic() - begun < 60.0


def test_an_ae_without_a_peers_entry_gets_nothing_even_where_anybody_may_send(tmp_path: Path) -> None:
    settings = replace(SETTINGS, receive=replace(SETTINGS.receive, known_callers_only=False))
    road = Road(tmp_path, settings)
    insert(road.store, "1.2.826.0.1.1", road.clock())
    receiver = Receiver(road.settings, road.spool, road.clock)
    receiver.start()
    try:
        for verb, more in (
            ("find", {"keys": keys(PatientID="")}),
            ("get", {"uid": "1.2.3"}),
            ("action", {"kind": 3, "uid": ups_peer.WORKLIST, "information": keys(ReceivingAE="STRANGER")}),
        ):
            answer = ups_peer.ask(receiver.port, verb, calling="STRANGER", **more)
            assert (answer["statuses"], answer["data_sets"]) == ([0x0124], []), verb
    finally:
        receiver.stop(grace_seconds=2.0)


def test_a_peer_that_may_only_watch_stores_nothing(node: Listening, tmp_path: Path) -> None:
    from tests.network import store_file

    path = synthetic.save(CT[0], tmp_path)
    with association(node.port, [CT[0].SOPClassUID], calling="WATCHER") as made:
        assert store_file(made, path)[0] == 0x0124


def test_nothing_of_the_worklist_is_offered_while_ups_is_off(tmp_path: Path) -> None:
    road = Road(tmp_path, replace(SETTINGS, ups=Ups(enabled=False), peers=(Peer("WATCHER"),)))
    receiver = Receiver(road.settings, road.spool, road.clock)
    receiver.start()
    try:
        for context in ups_peer.CLASSES.values():
            with association(receiver.port, [context], calling="WATCHER") as made:
                assert not made.accepted_contexts
    finally:
        receiver.stop(grace_seconds=2.0)


# -- N-GET, N-CREATE, N-SET ----------------------------------------------------------------------------------------


def uid_of(node: Listening, patient_id: str) -> str:
    (found,) = ups_peer.find(node.port, keys(SOPInstanceUID="", PatientID=patient_id))
    return str(found.SOPInstanceUID)


def test_get_gives_all_or_what_is_asked_for_and_never_the_transaction_uid(three: Listening) -> None:
    uid = uid_of(three, "P2")
    answer = ups_peer.ask(three.port, "get", uid=uid, context="pull")
    assert answer["statuses"] == [0x0000]
    (whole,) = answer["data_sets"]
    assert (whole.SOPInstanceUID, str(whole.PatientName)) == (uid, "Yamada^Tarou=山田^太郎")
    some = ups_peer.ask(three.port, "get", uid=uid, attributes=["ProcedureStepState", "TransactionUID"])
    assert some["statuses"] == [0x0001]
    assert {element.keyword for element in some["data_sets"][0]} == {"SpecificCharacterSet", "ProcedureStepState"}


def test_get_of_an_unknown_step_is_refused(node: Listening) -> None:
    assert ups_peer.ask(node.port, "get", uid="1.2.3")["statuses"] == [0xC307]


def test_steps_are_neither_made_nor_changed_nor_claimed_from_outside(three: Listening) -> None:
    uid, going = uid_of(three, "P2"), uid_of(three, "P3")
    made = ups_peer.ask(three.port, "create", uid="1.2.3.9", context="push",
                        information=keys(ProcedureStepState="SCHEDULED"))  # fmt: skip
    assert made["statuses"] == [0x0124]
    change = keys(TransactionUID="1.2.3", ProcedureStepLabel="mine")
    for where, status in ((uid, 0xC310), (going, 0xC301), ("1.2.3", 0xC307)):
        answer = ups_peer.ask(three.port, "set", uid=where, context="pull", information=change)
        assert answer["statuses"] == [status]

    def claim(where: str, state: str, transaction: str = "1.2.3") -> int:
        wanted = keys(ProcedureStepState=state, TransactionUID=transaction)
        return ups_peer.act(three.port, 1, where, wanted, context="pull")

    assert claim(uid, "IN PROGRESS") == 0x0124
    assert claim(uid, "COMPLETED") == 0xC310
    assert claim(uid, "SCHEDULED") == 0xC303
    assert claim(going, "COMPLETED") == 0xC301
    assert claim(going, "IN PROGRESS") == 0xC301
    assert claim("1.2.3", "IN PROGRESS") == 0xC307
    assert ups_peer.act(three.port, 1, uid, keys(ProcedureStepState="NONSENSE")) == 0x0115
    assert ups_peer.act(three.port, 9, uid, keys()) == 0x0123
    assert names(three.port, ProcedureStepState=StepState.SCHEDULED) == {"Müller", "Yamada"}


# -- the audit trail -----------------------------------------------------------------------------------------------


def test_queries_and_reads_stand_in_the_audit_trail_with_the_identifier_as_it_came(three: Listening) -> None:
    import base64

    from pydicom import dcmread
    from pydicom.filebase import DicomBytesIO

    uid = uid_of(three, "P2")
    ups_peer.ask(three.port, "get", uid=uid)
    entries = three.road.store.audit.newest()
    read, asked = [one for one in entries if one.action.startswith("ups.")]
    assert (asked.action, asked.actor, asked.outcome) == ("ups.query", "WATCHER", "done")
    stream = DicomBytesIO(base64.b64decode(asked.facts["query"]))
    identifier = dcmread(stream, force=True)
    assert identifier.PatientID == "P2"
    assert (read.action, read.study_instance_uid, read.origin) == ("ups.read", "1.2.826.0.1.2", "dicom")


def test_who_asks_before_the_worklist_is_made_up_is_told_to_ask_again(
    three: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade there may be more events than can be followed while somebody waits."""
    store = three.road.store
    item_id = store.items()[0].id
    with store._db.immediate():
        for _ in range(3 * procedure_steps.BATCH):
            store.note(item_id, "a note", 1.0)
    monkeypatch.setattr(ups_scp, "CATCH_UP_SECONDS", 0.0)
    answers = [ups_peer.ask(three.port, "find", keys=keys(PatientID="P2"))["statuses"] for _ in range(5)]
    assert answers[0] == [0xA700]
    assert answers[-1] == [0xFF00, 0x0000]


# -- a long list ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Road, int]]:
    """A store of 100,000 work items, of which five are scheduled, and its node."""
    folder = tmp_path_factory.mktemp("crowded")
    road = Road(folder, SETTINGS)
    db = road.store._db
    now = road.clock()
    with db.immediate():
        db.many(
            "INSERT INTO work_item (id, state, study_instance_uid, roi_sop_instance_uid, outcome, created_at,"
            " updated_at) VALUES (?, ?, ?, ?, 'SCORED', ?, ?)",
            [
                (n, "SCHEDULED" if n % 20_000 == 7 else "COMPLETED", f"1.2.{n}", f"1.3.{n}", now + n, now + n)
                for n in range(1, 100_001)
            ],
        )
        for name, part in (("scheduled", 0), ("completed", 1)):
            db.many(
                "INSERT INTO event (work_item_id, at, name) VALUES (?, ?, ?)",
                [(n, now + n + part, name) for n in range(1, 100_001) if not (part and n % 20_000 == 7)],
            )
        for n in range(1, 100_001):
            identity = Identity(patient_id=f"P{n}", patient_name=f"Name{n}^Given", accession_number=f"A{n}")
            road.store.patients.received(f"1.2.{n}", identity, now)
    worklist = UpsWorklist(road.store, road.spool, road.settings)
    while worklist.follow():  # as the worker does
        pass
    receiver = Receiver(road.settings, road.spool, road.clock)
    receiver.start()
    try:
        yield road, receiver.port
    finally:
        receiver.stop(grace_seconds=2.0)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("wanted", "count", "seconds"),
    [
        ({"ProcedureStepState": "SCHEDULED"}, 5, 0.1),
        ({"PatientID": "P4711"}, 1, 0.1),
        ({"StudyInstanceUID": "1.2.4711"}, 1, 0.1),
        ({"ReferencedRequestSequence": item(AccessionNumber="A4711")}, 1, 0.1),
        ({"PatientName": "name4711^*"}, 1, 1.0),
    ],
)
def test_in_a_hundred_thousand_steps_the_few_are_found_at_once(
    crowded: tuple[Road, int], wanted: dict[str, object], count: int, seconds: float
) -> None:
    asked = keys(**{"SOPInstanceUID": "", "PatientName": "", **wanted})
    answers = [ups_peer.ask(crowded[1], "find", keys=asked) for _ in range(3)]
    assert [len(answer["data_sets"]) for answer in answers] == [count] * 3
    assert min(answer["seconds"] for answer in answers) < seconds


def test_the_query_for_scheduled_steps_uses_the_index_of_states(tmp_path: Path) -> None:
    from dicom_node.procedure_steps import _SELECT, StepFilter, _conditions

    road = Road(tmp_path, SETTINGS)
    for wanted, index in (
        (StepFilter(state="SCHEDULED"), "ups_by_state"),
        (StepFilter(sop_instance_uids=("1.2",)), "sqlite_autoindex_ups"),
        (StepFilter(study_instance_uids=("1.2",)), "work_item_by_study"),
        (StepFilter(equal=(("patient_id", "P1"),)), "study_by_patient"),
        (StepFilter(equal=(("accession_number", "A1"),)), "study_by_accession"),
    ):
        where, arguments = _conditions(wanted)
        plan = road.store._db.rows(
            f"EXPLAIN QUERY PLAN {_SELECT} WHERE u.work_item_id > ?{where} ORDER BY u.work_item_id LIMIT ?",
            [0, *arguments, 200],
        )
        details = [row["detail"] for row in plan]
        assert any(index in detail for detail in details), details
        assert not any(detail.startswith("SCAN") for detail in details), details

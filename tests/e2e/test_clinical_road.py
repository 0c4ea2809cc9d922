"""Clinical values on the whole road: into the report with source and day, later ones, and a FHIR server's."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from analysis.contract import WaitingReason
from config.clinical import Clinical
from config.settings import FhirServer as Entry
from dicom_node import operations
from dicom_node.audit import AuditEntry
from dicom_node.clinical_values import ClinicalEntry
from dicom_node.operations import Actor
from dicom_node.ticket import Ticket
from dicom_node.workitem import State, WorkItem
from tests import synthetic
from tests.e2e.node import wait_for
from tests.fhir_server import SYSTEM, FhirServer, fhir_server, observation, patient
from tests.road import Road, road

CT = synthetic.ct_series(16, 40, 40, seed=1)
ROI = synthetic.rtstruct(CT)
PATIENT = CT[0].PatientID
DAY = "2024-01-01"  # a day before the CT
FOR_THE_MODEL = (("ecog", 1.0), ("nlr", 3.2))


def entry(name: str, value: float, **more: object) -> ClinicalEntry:
    made = ClinicalEntry(PATIENT, name, value, "csv", "CSV import", observed_on=DAY)
    return replace(made, **more)  # type: ignore[arg-type]


def record(node: Road, *entries: ClinicalEntry) -> None:
    node.store.clinical.record(entries, node.clock())


def ticket(item: WorkItem) -> Ticket:
    return Ticket.from_json(item.plan or "")


def used(item: WorkItem) -> dict[str, tuple[float | str, str, str | None]]:
    return {value.name: (value.value, value.source, value.date) for value in ticket(item).clinical}


def report_text(node: Road, item: WorkItem) -> str:
    def texts(dataset: pydicom.Dataset) -> Iterator[str]:
        yield str(dataset.get("TextValue", ""))
        for child in dataset.get("ContentSequence", ()):
            yield from texts(child)

    return "\n".join(texts(pydicom.dcmread(node.report(item))))


def watch(node: Road) -> None:
    while node.worker.step_watch():
        pass


def test_a_value_is_in_the_report_with_its_source_and_day_and_a_later_one_waits_for_a_rescore(tmp_path: Path) -> None:
    node = road(tmp_path)
    record(node, *(entry(name, value) for name, value in FOR_THE_MODEL))
    record(node, entry("albumin", 39.0, unit="g/L", stated="3.9 g/dL", kind="hl7", source="HL7 ORU^R01", origin="L|1"))
    node.take(*CT, ROI)
    node.work()
    (first,) = node.items
    said = report_text(node, first)
    assert f"Albumin = 39 g/L (HL7 ORU^R01, stated as 3.9 g/dL, {DAY})" in said
    assert f"Neutrophil-to-lymphocyte ratio = 3.2 (CSV import, {DAY})" in said
    assert "Age = 74 years (DICOM PatientAge)" in said

    watch(node)
    assert node.store.clinical.newer() == {}
    record(node, entry("ecog", 2.0, observed_on="2024-01-02"), entry("nlr", 3.2, observed_on="2024-01-02"))
    watch(node)
    node.later(3600.0)
    assert node.store.clinical.newer(first.id) == {first.id: "ecog"}  # the same ratio of another day is nothing new
    assert [item.revision for item in node.items] == [1]
    assert "newer clinical values" in [event["name"] for event in node.store.details(first.id)["events"]]

    node.store.births.replan(first.id, "a rescore asked for by an operator", node.clock())
    node.later()
    newest = node.items[0]
    assert (newest.revision, newest.state, used(newest)["ecog"]) == (
        2,
        State.COMPLETED,
        (2.0, "CSV import", "2024-01-02"),
    )
    assert node.store.clinical.newer() == {}


def test_where_the_site_wants_it_a_later_value_makes_the_next_revision_by_itself(tmp_path: Path) -> None:
    node = road(tmp_path, clinical=Clinical(revise=True))
    record(node, *(entry(name, value) for name, value in FOR_THE_MODEL))
    node.take(*CT, ROI)
    node.work()
    record(node, entry("ecog", 1.0, observed_on="2024-01-02"))  # says the same
    watch(node)
    node.later()
    assert [item.revision for item in node.items] == [1]

    record(node, entry("ecog", 2.0, observed_on="2024-01-02"))
    watch(node)
    node.later()
    assert [(item.revision, used(item)["ecog"][0]) for item in node.items] == [(2, 2.0), (1, 1.0)]
    (wrong,) = [value for value in node.store.clinical.current(PATIENT) if value.value == 2.0]
    node.store.clinical.withdraw(wrong.id, node.clock(), AuditEntry(1.0, "anna", "web", "clinical.withdrawn"))
    watch(node)
    node.later()
    assert next((item.revision, used(item)["ecog"][0]) for item in node.items) == (3, 1.0)
    assert node.items[0].predecessor_key == node.items[1].key


def test_a_work_item_that_has_not_run_yet_is_planned_anew_and_one_of_another_patient_is_left_alone(
    tmp_path: Path,
) -> None:
    other = synthetic.ct_series(16, 40, 40, seed=2)
    node = road(tmp_path, clinical=Clinical(revise=True))
    node.take(*CT, ROI, *other, synthetic.rtstruct(other))
    node.worker.step_plan()
    assert [item.state for item in node.items] == [State.SCHEDULED] * 2
    record(node, entry("ecog", 2.0))
    watch(node)
    node.clock.now += 10
    node.worker.step_plan()
    by_study = {item.study_instance_uid: item for item in node.items}
    assert used(by_study[CT[0].StudyInstanceUID])["ecog"] == (2.0, "CSV import", DAY)
    assert "ecog" not in used(by_study[other[0].StudyInstanceUID])
    assert [item.revision for item in node.items] == [1, 1]


def test_a_patient_with_two_lines_in_the_table_keeps_no_other_from_his_newer_values(tmp_path: Path) -> None:
    other = synthetic.ct_series(16, 40, 40, seed=2)
    table = tmp_path / "clinical.csv"
    table.write_text("patient_id,nlr\nnobody,2.0\n")
    node = road(tmp_path, clinical=Clinical(table=table))
    node.take(*CT, ROI, *other, synthetic.rtstruct(other))
    node.worker.step_plan()
    table.write_text(f"patient_id,nlr\n{PATIENT},2.0\n{PATIENT},3.0\n")
    record(node, entry("ecog", 2.0))
    node.clock.now += 1
    record(node, replace(entry("ecog", 2.0), patient_id=other[0].PatientID))
    watch(node)
    newer = node.store.clinical.newer()
    assert [node.store.item(number).study_instance_uid for number in newer] == [other[0].StudyInstanceUID]  # type: ignore[union-attr]
    table.write_text("patient_id,nlr\nnobody,2.0\n")
    watch(node)
    assert len(node.store.clinical.newer()) == 2, "noted until the table can be read"


def test_a_work_item_that_an_operator_holds_is_left_as_it_is_until_it_is_released(tmp_path: Path) -> None:
    node = road(tmp_path, clinical=Clinical(revise=True))
    node.take(*CT, ROI)
    node.worker.step_plan()
    (held,) = node.items
    operations.act(node.store, "hold", held.id, Actor("otto", "cli"), node.clock())
    record(node, entry("ecog", 2.0))
    watch(node)
    node.clock.now += 10
    node.worker.step_plan()
    assert [(item.id, item.held, item.state) for item in node.items] == [(held.id, 1, State.SCHEDULED)]
    operations.act(node.store, "release", held.id, Actor("otto", "cli"), node.clock())
    watch(node)
    node.clock.now += 10
    node.worker.step_plan()
    assert used(node.items[0])["ecog"][0] == 2.0


# -- FHIR ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ehr(tmp_path: Path) -> Iterator[FhirServer]:
    with fhir_server(tmp_path / "ehr") as running:
        yield running


def entry_of(ehr: FhirServer, **more: object) -> Entry:
    made = Entry("EHR", ehr.base_url, timeout_seconds=30.0, clinical_values=True, patient_identifier_system=SYSTEM)
    return replace(made, **more)  # type: ignore[arg-type]


def asking(tmp_path: Path, *servers: Entry) -> Road:
    return road(tmp_path, fhir_servers=servers, clinical=Clinical(fhir_wait_seconds=60.0, fhir_fresh_minutes=60.0))


def labs(albumin: float = 39.5) -> list[dict]:
    return [
        patient(PATIENT),
        observation("alb", "1751-7", albumin, "g/L"),
        observation("ps", "89247-1", valueInteger=1),
    ]


def asked(ehr: FhirServer) -> int:
    return sum("/Patient?" in request["path"] for request in ehr.requests)


def test_a_study_waits_for_the_fhir_server_and_is_scored_with_what_it_says(tmp_path: Path, ehr: FhirServer) -> None:
    ehr.has(*labs())
    node = asking(tmp_path, entry_of(ehr))
    node.take(*CT, ROI)
    node.worker.step_plan()
    (item,) = node.items
    assert (item.state, item.reason, item.hint) == (State.WAITING, WaitingReason.CLINICAL_VALUES_AWAITED, "EHR")
    assert asked(ehr) == 0  # planning opens no connection
    assert node.worker.step_fetch()
    assert not node.worker.step_fetch()
    node.worker.step_plan()  # at once: nobody waits for the next look
    (item,) = node.items
    assert item.state is State.SCHEDULED
    assert used(item)["albumin"] == (39.5, "FHIR Observation", DAY)
    assert ticket(item).quality == ()


def test_one_patient_is_asked_about_once_for_an_hour_and_again_for_a_rescore(tmp_path: Path, ehr: FhirServer) -> None:
    ehr.has(*labs())
    node = asking(tmp_path, entry_of(ehr))
    second = synthetic.ct_series(16, 40, 40, seed=2, patient_id=PATIENT)
    node.take(*CT, ROI, *second, synthetic.rtstruct(second))
    node.worker.step_plan()
    while node.worker.step_fetch():
        pass
    node.worker.step_plan()
    assert [item.state for item in node.items] == [State.SCHEDULED] * 2
    assert asked(ehr) == 1

    node.clock.now += 60
    ehr.has(*labs(29.5))
    node.store.births.replan(node.items[0].id, "a rescore asked for by an operator", node.clock())
    node.clock.now += 10
    node.worker.step_plan()
    assert node.worker.step_fetch()
    node.worker.step_plan()
    assert asked(ehr) == 2
    assert used(node.items[0])["albumin"][0] == 29.5


def test_an_outage_costs_a_study_its_wait_and_no_more_and_the_report_says_so(tmp_path: Path, ehr: FhirServer) -> None:
    ehr.has(mood="503")
    other = synthetic.ct_series(16, 40, 40, seed=3, IssuerOfPatientID="CLINIC")
    node = asking(tmp_path, entry_of(ehr, issuer_of_patient_id="HOSPITAL"))
    record(node, *(entry(name, value) for name, value in FOR_THE_MODEL))
    node.take(*CT, ROI, *other, synthetic.rtstruct(other))
    for _ in range(12):  # a minute
        node.worker.step_plan()
        node.worker.step_fetch()
        node.clock.now += 5
    states = {item.study_instance_uid: item.state for item in node.items}
    assert states[other[0].StudyInstanceUID] is State.SCHEDULED  # of an issuer that the server does not know
    assert states[CT[0].StudyInstanceUID] is State.WAITING
    assert 1 <= asked(ehr) <= 6  # with growing patience
    node.later(5.0)
    (item,) = [item for item in node.items if item.study_instance_uid == CT[0].StudyInstanceUID]
    assert item.state is State.COMPLETED
    assert "Scored without clinical values of EHR: it has not answered in time" in report_text(node, item)

    ehr.has(*labs())
    node.clock.now += 3600
    assert node.worker.step_fetch()
    watch(node)
    assert node.store.clinical.newer(item.id) == {item.id: "albumin"}
    node.clock.now += 60
    node.store.births.replan(item.id, "a rescore asked for by an operator", node.clock())
    node.clock.now += 10
    node.worker.step_plan()
    assert node.worker.step_fetch()
    node.worker.step_plan()
    again = next(each for each in node.items if each.study_instance_uid == CT[0].StudyInstanceUID)
    assert (again.revision, used(again)["albumin"][0], ticket(again).quality) == (2, 39.5, ())


def test_a_server_that_hangs_keeps_neither_planning_nor_another_server_waiting(tmp_path: Path, ehr: FhirServer) -> None:
    with fhir_server(tmp_path / "lab") as lab:
        ehr.has(mood="hang")
        lab.has(*labs())
        node = asking(tmp_path, entry_of(ehr, timeout_seconds=1.0), entry_of(lab, name="LAB"))
        node.take(*CT, ROI)
        node.worker.step_plan()
        fetching = threading.Thread(target=lambda: [node.worker.step_fetch() for _ in range(2)])
        fetching.start()
        node.take(synthetic.rtstruct(CT, radius=8.0))
        node.worker.step_plan()  # returns while the other thread hangs
        fetching.join()
        wait_for(lambda: asked(ehr), "its question has come")  # a server's process may be slower than our patience
        assert asked(ehr) == asked(lab) == 1
        node.clock.now += 61
        node.worker.step_plan()
        (item,) = node.items
        assert used(item)["albumin"][1] == "FHIR Observation"
        assert next(flag.text for flag in ticket(item).quality).startswith("Scored without clinical values of EHR")


def test_a_patient_whom_the_server_does_not_know_is_scored_at_once_and_that_is_said(
    tmp_path: Path, ehr: FhirServer
) -> None:
    node = asking(tmp_path, entry_of(ehr))
    node.take(*CT, ROI)
    node.worker.step_plan()
    node.worker.step_fetch()
    node.worker.step_plan()
    (item,) = node.items
    assert item.state is State.SCHEDULED
    assert "it does not know the patient" in ticket(item).quality[0].text


def test_values_of_the_server_count_after_a_restart_without_being_asked_again(tmp_path: Path, ehr: FhirServer) -> None:
    ehr.has(*labs())
    node = asking(tmp_path, entry_of(ehr))
    node.take(*CT, ROI)
    node.worker.step_plan()
    node.restart()
    assert node.worker.step_fetch()  # the question is a row
    node.restart()
    node.worker.step_plan()
    assert used(node.items[0])["albumin"][0] == 39.5
    assert asked(ehr) == 1

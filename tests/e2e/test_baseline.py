"""Priors and follow-ups at the same AE title: which CT counts as the baseline, and what is said of the others."""

import copy
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from analysis.contract import Reason
from config.clinical import Clinical
from config.settings import Planning, Rule
from dicom_node.audit import AuditEntry
from dicom_node.clinical_values import ClinicalEntry
from dicom_node.ticket import ticket_of
from dicom_node.workitem import State, WorkItem
from tests import synthetic
from tests.road import Road, road

CT = synthetic.ct_series(16, 40, 40, seed=41)
PATIENT = str(CT[0].PatientID)


def study_of(day: str, patient: str = PATIENT) -> list[Dataset]:
    """A patient's CT of a day, with its contour, as a study of its own."""
    made = copy.deepcopy(CT)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for image in made:
        image.PatientID = patient
        image.StudyDate, image.StudyInstanceUID, image.SeriesInstanceUID = day, study, series
        image.FrameOfReferenceUID, image.SOPInstanceUID = frame, generate_uid()
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    contour = synthetic.rtstruct(made)
    contour.PatientID = patient
    contour.SOPInstanceUID = contour.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    return [*made, contour]


def began(node: Road, day: str) -> None:
    node.store.clinical.record([ClinicalEntry(PATIENT, "therapy_start", day, "csv", "CSV import")], node.clock())


def planned(node: Road, study: list[Dataset]) -> WorkItem:
    """The newest work item of a study after its arrival; nothing is analysed here."""
    node.take(*study)
    while node.worker.step_plan():
        pass
    return next(item for item in node.items if item.study_instance_uid == study[0].StudyInstanceUID)


def said(item: WorkItem) -> str:
    ticket = ticket_of(item.plan)
    return str(getattr(ticket.decision, "detail", "")) if ticket else ""


@pytest.mark.parametrize(
    ("day", "objection"),
    [
        ("20240301", ""),  # of the very day
        ("20231203", ""),  # 89 days before
        ("20231201", "91 days before therapy began, where at most 90 are accepted"),
        ("20240302", "1 days after therapy began, where at most 0 are accepted"),
        ("20240901", "184 days after therapy began, where at most 0 are accepted"),
    ],
)
def test_where_the_start_of_therapy_is_known_the_date_decides(tmp_path: Path, day: str, objection: str) -> None:
    node = road(tmp_path)
    began(node, "2024-03-01")
    item = planned(node, study_of(day))
    assert (item.state, item.reason) == (State.SCHEDULED, Reason.CT_NOT_BASELINE if objection else None)
    assert objection in said(item)


def test_of_several_starts_the_earliest_counts(tmp_path: Path) -> None:
    node = road(tmp_path, plan=Planning(without_therapy_start="refuse"))
    began(node, "2024-06-01")
    began(node, "2024-03-01")
    assert planned(node, study_of("20240501")).reason == Reason.CT_NOT_BASELINE


def test_the_start_of_therapy_may_stand_in_the_site_s_table(tmp_path: Path) -> None:
    table = tmp_path / "clinical.csv"
    table.write_text(f"patient_id,therapy_start\n{PATIENT},20240301\n")
    node = road(tmp_path, clinical=Clinical(table=table))
    assert planned(node, study_of("20240501")).reason == Reason.CT_NOT_BASELINE
    assert planned(node, study_of("20240201")).reason is None


def test_a_ct_scored_as_a_shadow_is_the_first_for_shadows_alone(tmp_path: Path) -> None:
    first = Planning(without_therapy_start="first")
    trial = Rule("trial", ("TRIAL?",), shadow=True, plan=first)
    node = road(tmp_path, plan=first, rules=(trial,))
    node.sender = "TRIAL1"
    assert planned(node, study_of("20240301")).shadow
    assert planned(node, study_of("20240401")).reason == Reason.CT_NOT_BASELINE
    node.sender = "ARIA"
    assert planned(node, study_of("20240501")).reason is None, "nobody has seen that of March"


def watched(node: Road, item: WorkItem) -> tuple[str, list[int]]:
    """What of an item is newer after the worker's look, and the revisions once the planner has looked too."""
    while node.worker.step_watch():
        pass
    newer = node.store.clinical.newer(item.id).get(item.id, "")
    node.clock.now += 60.0
    while node.worker.step_plan():
        pass
    return newer, [each.revision for each in node.items]


def test_a_start_that_becomes_known_later_is_noticed_where_it_changes_the_answer(tmp_path: Path) -> None:
    node = road(tmp_path)
    item = planned(node, study_of("20240501"))
    began(node, "2024-05-08")
    assert watched(node, item) == ("", [1]), "the CT is the baseline still"
    began(node, "2024-03-01")
    assert watched(node, item) == ("therapy_start", [1])
    (value,) = node.store.clinical.current(PATIENT)
    node.store.clinical.withdraw(value.id, 1.0, AuditEntry(1.0, "test", "cli", "clinical.withdrawn"))
    assert watched(node, item) == ("", [1]), "taken back"


def test_a_start_that_becomes_known_later_makes_a_revision_where_the_site_wants_it(tmp_path: Path) -> None:
    node = road(tmp_path, clinical=Clinical(revise=True), plan=Planning(without_therapy_start="refuse"))
    refused = planned(node, study_of("20240501"))
    node.work()
    assert (node.items[0].state, refused.reason) == (State.COMPLETED, Reason.CT_NOT_BASELINE)
    began(node, "2024-05-08")
    assert watched(node, refused) == ("", [2, 1]), "planned again at once"
    assert node.items[0].reason is None
    node.work()
    began(node, "2024-03-01")
    assert watched(node, node.items[0])[1] == [3, 2, 1]
    assert "61 days after therapy began" in said(node.items[0])
    assert not node.worker.step_watch(), "and no further"
    assert len(node.items) == 3


def test_without_it_every_ct_is_scored_unless_the_site_says_otherwise(tmp_path: Path) -> None:
    node = road(tmp_path)
    assert [planned(node, study_of(day)).reason for day in ("20240301", "20240901")] == [None, None]


def test_the_first_ct_of_a_patient_is_the_baseline_where_the_site_says_so(tmp_path: Path) -> None:
    node = road(tmp_path, plan=Planning(without_therapy_start="first"))
    first, later = study_of("20240301"), study_of("20240401")
    assert planned(node, first).reason is None
    refused = planned(node, later)
    assert refused.reason == Reason.CT_NOT_BASELINE
    assert "a CT made 31 days before has been taken for the baseline" in said(refused)
    again = planned(node, later)  # the same once more is no question
    assert (again.id, again.revision) == (refused.id, 1)
    assert planned(node, study_of("20240201")).reason is None  # a prior that comes late is the baseline itself
    assert planned(node, study_of("20240501", "SOMEBODY-ELSE")).reason is None


def test_what_is_not_known_is_refused_where_the_site_says_so_and_scored_once_it_is_known(tmp_path: Path) -> None:
    node = road(tmp_path, plan=Planning(without_therapy_start="refuse"))
    study = study_of("20240301")
    refused = planned(node, study)
    assert (refused.reason, said(refused)) == (Reason.CT_NOT_BASELINE, "it is not known when therapy began")
    began(node, "2024-03-08")
    node.take(*study)  # a re-send alone asks no new question
    node.worker.step_plan()
    assert [item.id for item in node.items] == [refused.id]
    node.store.births.replan(refused.id, "rescore asked for by an operator", node.clock())
    node.clock.now += 60.0
    node.worker.step_plan()
    assert node.items[0].reason is None

"""What corrections, odd headers, restarts and retries do to a study; stages run in this process, jobs do not."""

import copy
import hashlib
import logging
import threading
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from analysis.contract import JobResult, Outcome, Reason
from config.clinical import Clinical
from config.settings import Deliver, Peer
from dicom_node import job
from dicom_node.demo_pacs import DemoPacs
from dicom_node.executors.contract import Ended
from dicom_node.workitem import State
from tests import synthetic
from tests.road import Road, road

CT = synthetic.ct_series(16, 40, 40, seed=1)


@pytest.fixture
def node(tmp_path: Path) -> Road:
    return road(tmp_path)


def corrected(dataset: Dataset, **attributes: str) -> Dataset:
    """The same SOP Instance UID with other content."""
    changed = copy.deepcopy(dataset)
    for keyword, value in attributes.items():
        setattr(changed, keyword, value)
    return changed


def voxels(node: Road, number: int = 0) -> int:
    path = node.spool.results(node.items[number].key or "", "analysis") / "result.json"
    facts = JobResult.model_validate_json(path.read_bytes()).roi
    assert facts is not None
    return facts.voxels


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_corrected_contour_is_the_next_revision_and_names_its_predecessor(node: Road) -> None:
    node.take(*CT, synthetic.rtstruct(CT))
    node.work()
    first = node.items[0]
    node.take(synthetic.rtstruct(CT, radius=8.0))
    node.later()

    newest = node.items[0]
    assert (newest.state, newest.revision, newest.predecessor_key) == (State.COMPLETED, 2, first.key)
    made, before = (pydicom.dcmread(node.report(item)) for item in (newest, first))
    series = made.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert made.SOPInstanceUID != before.SOPInstanceUID


def test_a_correction_that_has_to_wait_is_not_forgotten(node: Road) -> None:
    loose = {"series_level_references": False}
    node.take(*CT, synthetic.rtstruct(CT, **loose))
    node.later(60.0)
    assert node.items[0].state is State.COMPLETED
    node.take(synthetic.rtstruct(CT, radius=8.0, **loose))
    node.later()  # not yet quiet
    assert node.items[0].state is State.WAITING
    node.later(60.0)
    assert (node.items[0].state, node.items[0].revision) == (State.COMPLETED, 2)


def test_an_image_that_spoils_the_series_after_the_score_makes_a_revision_that_says_so(node: Road) -> None:
    node.take(*CT, synthetic.rtstruct(CT))
    node.work()
    known = {image.SOPInstanceUID for image in CT}
    (extra,) = [image for image in synthetic.localizer(CT) if image.SOPInstanceUID not in known]
    node.take(extra)
    node.later(60.0)
    newest = node.items[0]
    assert (newest.state, newest.revision, newest.reason) == (State.COMPLETED, 2, Reason.LOCALIZER_IN_SERIES)


def test_what_never_changed_never_runs_twice(node: Road) -> None:
    contour = synthetic.rtstruct(CT)
    node.take(*CT, contour)
    node.work()
    node.take(*reversed(CT), contour)
    node.later(120.0)
    assert [(item.state, item.revision) for item in node.items] == [(State.COMPLETED, 1)]


def test_each_result_is_of_the_content_that_its_key_names_whatever_came_meanwhile(node: Road) -> None:
    large, small = synthetic.rtstruct(CT), synthetic.rtstruct(CT, radius=6.0)
    node.take(*CT, large)
    node.worker.step_plan()
    node.take(small)
    node.worker.step_plan()
    node.take(large)  # the first content again, before anything has run
    node.work()
    assert [item.state for item in node.items] == [State.COMPLETED]
    of_large = voxels(node)

    node.take(small)
    node.later()
    assert voxels(node) < of_large
    node.take(large)  # and again, after both have been reported
    node.later()
    newest = node.items[0]
    assert (newest.state, newest.revision, voxels(node)) == (State.COMPLETED, 3, of_large)
    assert newest.predecessor_key == node.items[1].key


def test_one_odd_header_holds_its_own_study_and_no_other(node: Road, caplog: pytest.LogCaptureFixture) -> None:
    odd = synthetic.ct_series(16, 40, 40, seed=2)
    for image in odd:
        image.add_new("PatientAge", "AS", "045Y")
        image["PatientAge"]._value = "²²²Y"
        image.SpecificCharacterSet = "ISO_IR 100"
    node.take(*odd, synthetic.rtstruct(odd))
    node.take(*CT, synthetic.rtstruct(CT))
    with caplog.at_level(logging.DEBUG):
        node.work()
    states = {item.study_instance_uid: item.state for item in node.items}
    assert states[CT[0].StudyInstanceUID] is State.COMPLETED
    assert states[odd[0].StudyInstanceUID] is State.COMPLETED  # an age that cannot be read is no age
    assert "²" not in caplog.text


def test_a_header_that_no_report_can_use_is_cleaned_and_the_result_still_goes_out(
    node: Road, caplog: pytest.LogCaptureFixture
) -> None:
    odd = [corrected(image, NumberOfFrames="2") for image in CT]
    node.take(*odd, synthetic.rtstruct(CT))
    node.work()
    assert (node.items[0].state, node.items[0].outcome) == (State.COMPLETED, Outcome.SCORED)
    assert "report.cleaned" in caplog.text


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID"])
def test_slices_of_two_patients_or_studies_are_never_one_volume(node: Road, keyword: str) -> None:
    mixed = [corrected(image, **{keyword: "1.2.3"}) if k > 7 else image for k, image in enumerate(CT)]
    node.take(*mixed, synthetic.rtstruct(CT))
    node.work()
    assert (node.items[0].state, node.items[0].reason) == (State.COMPLETED, Reason.IDENTITY_DIFFERS)


def test_the_contour_of_another_patient_is_refused(node: Road) -> None:
    node.take(*CT, corrected(synthetic.rtstruct(CT), PatientID="SOMEBODY-ELSE"))
    node.work()
    assert node.items[0].reason == Reason.ROI_PATIENT_DIFFERS


def twins() -> tuple[list[Dataset], list[Dataset]]:
    """Studies of two patients whose contour objects bear one SOP Instance UID."""
    mine, theirs = synthetic.rtstruct(CT), synthetic.ct_series(16, 40, 40, seed=2)
    whose = {"PatientID": "SOMEBODY-ELSE", "StudyInstanceUID": theirs[0].StudyInstanceUID}
    double = corrected(synthetic.rtstruct(theirs, radius=8.0), SOPInstanceUID=mine.SOPInstanceUID, **whose)
    return [*CT, mine], [*(corrected(image, **whose) for image in theirs), double]


def test_a_contour_of_another_patient_under_the_same_uid_ends_no_work_item(node: Road) -> None:
    for study in twins():
        node.take(*study)
        node.worker.step_plan()
    assert [(item.state, item.revision) for item in node.items] == [(State.SCHEDULED, 1)] * 2


@pytest.mark.exhaustive
def test_a_contour_of_another_patient_under_the_same_uid_is_no_revision(node: Road) -> None:
    for study in twins():
        node.take(*study)
        node.work()
    items = node.items
    assert [(item.state, item.outcome) for item in items] == [(State.COMPLETED, Outcome.SCORED)] * 2
    assert [(item.revision, item.predecessor_key) for item in items] == [(1, None)] * 2
    rows = [node.store.worklist.row(item.id) for item in items]
    assert all(row is not None and row.newest for row in rows)
    filed = {one.PatientID: one.StudyInstanceUID for one in (pydicom.dcmread(node.report(item)) for item in items)}
    assert filed == {study[0].PatientID: study[0].StudyInstanceUID for study in twins()}


def test_a_held_clinical_table_is_tried_again_and_the_status_says_what_it_waits_for(tmp_path: Path) -> None:
    table = tmp_path / "clinical.csv"
    node = road(tmp_path, clinical=Clinical(table=table))
    node.take(*CT, synthetic.rtstruct(CT))
    node.work()
    assert (node.items[0].state, node.items[0].reason) == (State.WAITING, "CLINICAL_VALUES_UNAVAILABLE")
    table.write_text(f" patient_id ,ecog , nlr,age\n{CT[0].PatientID},1,3.0,60\n")  # blanks as a person leaves them
    node.later()
    assert (node.items[0].state, node.items[0].outcome) == (State.COMPLETED, Outcome.SCORED)
    result = node.spool.results(node.items[0].key or "", "analysis") / "result.json"
    assert {value.name for value in JobResult.model_validate_json(result.read_bytes()).clinical} >= {"ecog", "nlr"}


def test_a_value_that_is_corrected_is_scored_when_the_operator_asks(tmp_path: Path) -> None:
    table = tmp_path / "clinical.csv"
    table.write_text(f"patient_id,ecog,nlr,age\n{CT[0].PatientID},9,3.0,60\n")
    node = road(tmp_path, clinical=Clinical(table=table))
    node.take(*CT, synthetic.rtstruct(CT))
    node.work()
    assert node.items[0].reason == Reason.CLINICAL_VALUES_INVALID
    table.write_text(f"patient_id,ecog,nlr,age\n{CT[0].PatientID},1,3.0,60\n")
    node.later(3600.0)
    assert node.items[0].reason == Reason.CLINICAL_VALUES_INVALID  # a later value alone changes nothing
    node.store.births.replan(node.items[0].id, "retry asked for by an operator", node.clock())
    node.later()
    newest = node.items[0]
    assert (newest.outcome, newest.revision, newest.reason) == (Outcome.SCORED, 2, None)


def test_what_is_scheduled_when_the_bundle_changes_is_planned_again_with_the_new_one(node: Road) -> None:
    node.take(*CT, synthetic.rtstruct(CT))
    node.worker.step_plan()
    old = node.items[0].key
    node.restart(bundle=replace(node.bundle, digest="0" * 64))
    node.worker.step_analyse()
    node.clock.now += 10
    node.worker.step_plan()
    assert node.items[0].state is State.SCHEDULED
    assert node.items[0].key != old


def delivering(tmp_path: Path, *pacs: DemoPacs) -> Road:
    peers = tuple(
        Peer(each.ae_title, port=each.port, sends=False, receives_results=True, proof="find") for each in pacs
    )
    return road(tmp_path, peers=peers, deliver=Deliver(first_delay_seconds=1.0, connect_timeout_seconds=2.0))


def test_a_retry_sends_the_very_bytes_that_the_other_destination_has(tmp_path: Path) -> None:
    refused = {"status": 0xA900}
    with (
        DemoPacs(tmp_path / "a", "PACS_A", commitment="none") as first,
        DemoPacs(tmp_path / "b", "PACS_B", commitment="none", status=lambda _: refused["status"]) as second,
    ):
        node = delivering(tmp_path, first, second)
        node.take(*CT, synthetic.rtstruct(CT))
        node.work()
        failed = node.items[0]
        assert failed.state is State.FAILED
        node.take(*(corrected(image, PatientName="Corrected^Name") for image in CT))
        refused["status"] = 0x0000
        node.store.retry(failed.id, node.clock())
        node.later()

        objects = [{f.sop_instance_uid: digest(f.path) for f in pacs.objects()} for pacs in (first, second)]
        shared = objects[0].keys() & objects[1].keys()
        assert len(shared) >= 4
        assert {uid: objects[0][uid] for uid in shared} == {uid: objects[1][uid] for uid in shared}


def test_a_result_file_that_is_gone_does_not_keep_the_next_study_from_the_pacs(tmp_path: Path) -> None:
    other = synthetic.ct_series(16, 40, 40, seed=3)
    with DemoPacs(tmp_path / "a", "PACS", commitment="none") as pacs:
        node = delivering(tmp_path, pacs)
        node.take(*CT, synthetic.rtstruct(CT))
        while not node.worker.step_report():
            node.worker.step_plan()
            node.worker.step_analyse()
        node.report(node.items[0]).write_bytes(b"damaged")
        node.take(*other, synthetic.rtstruct(other))
        node.later()
        states = {item.study_instance_uid: item.state for item in node.items}
        assert states == {CT[0].StudyInstanceUID: State.FAILED, other[0].StudyInstanceUID: State.COMPLETED}


def test_an_object_that_is_never_found_is_sent_again_with_growing_patience(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "a", "PACS", commitment="none", drop=lambda _: True) as pacs:
        node = delivering(tmp_path, pacs)
        node.take(*CT, synthetic.rtstruct(CT))
        node.work()
        for _ in range(120):
            node.later(10.0)
        sends = len(pacs.received) / 4
        assert 2 <= sends <= 6  # in 20 minutes
        assert node.items[0].state is State.REPORTED


def test_a_rescore_while_its_job_runs_waits_for_the_end_of_that_job(node: Road) -> None:
    """Both are of the same content, and so have the same key and the same folder."""
    analyst = node.worker.analyst
    assert analyst is not None
    runner = analyst._runner
    executor, began, again = runner.executor, threading.Event(), threading.Event()
    side_by_side: list[bool] = []

    class Slow:
        def run(self, folder_in: Path, folder_out: Path, key: str) -> Ended:
            if began.is_set():
                again.set()
                return executor.run(folder_in, folder_out, key)
            began.set()
            side_by_side.append(again.wait(1.5))
            return executor.run(folder_in, folder_out, key)

        def __getattr__(self, name: str) -> object:
            return getattr(executor, name)

    runner.executor = Slow()  # type: ignore[assignment]
    node.take(*CT, synthetic.rtstruct(CT))
    node.worker.step_plan()
    first = threading.Thread(target=node.worker.step_analyse)
    first.start()
    assert began.wait(60.0)
    assert node.store.births.replan(node.items[0].id, "rescore asked for by an operator", node.clock())
    node.clock.now += 5.0
    node.worker.step_plan()
    (item,) = node.items
    assert item.state is State.SCHEDULED
    assert node.worker.step_analyse()
    first.join()
    assert side_by_side == [False]
    (item,) = node.items
    assert (item.state, item.outcome) == (State.ANALYSED, Outcome.SCORED)


def test_no_turn_waits_without_a_bound_for_a_job_of_the_same_content(
    node: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "TWIN_SECONDS", 0.0)
    node.take(*CT, synthetic.rtstruct(CT))
    node.worker.step_plan()
    (item,) = node.items
    analyst, at_work = node.worker.analyst, threading.Lock()
    assert analyst is not None
    analyst._runner._alone[item.key or ""] = at_work
    with at_work:
        assert node.worker.step_analyse()
        assert not node.worker.step_analyse(), "it is not taken again at once"
    assert (node.items[0].state, node.items[0].attempts) == (State.SCHEDULED, 0)
    node.clock.now += 5.0
    assert node.worker.step_analyse()
    assert node.items[0].state is State.ANALYSED

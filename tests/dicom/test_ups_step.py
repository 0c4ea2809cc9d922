"""What a work item looks like as a Unified Procedure Step: state, readiness, references, required attributes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from analysis.contract import Reason
from config.settings import Node, Peer, Settings, Ups
from dicom_node.demo_pacs import DemoPacs
from dicom_node.procedure_steps import StepFilter, StepRow
from dicom_node.step_state import FINAL, Readiness, Step, StepState, after, born, states_between
from dicom_node.ups_worklist import UpsWorklist
from dicom_node.workitem import State
from reports import ups
from tests import synthetic
from tests.road import Road

CT = synthetic.ct_series(16, 40, 40, seed=1)
# PS3.4 Table CC.2.5-3: what a step must have with a value (Final State R), and what it must have at all (type 1 or 2).
WITH_VALUE = {
    "SOPClassUID", "SOPInstanceUID", "ScheduledProcedureStepPriority", "ScheduledProcedureStepModificationDateTime",
    "ProcedureStepLabel", "WorklistLabel", "ScheduledProcedureStepStartDateTime", "InputReadinessState",
    "ProcedureStepState",
}  # fmt: skip
PRESENT = {
    "ScheduledProcessingParametersSequence", "ScheduledStationNameCodeSequence", "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence", "ScheduledWorkitemCodeSequence",
    "CommentsOnTheScheduledProcedureStep", "InputInformationSequence", "StudyInstanceUID", "PatientName", "PatientID",
    "OtherPatientIDsSequence", "PatientBirthDate", "PatientSex", "AdmissionID", "IssuerOfAdmissionIDSequence",
    "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "ReferencedRequestSequence",
    "ProcedureStepProgressInformationSequence", "UnifiedProcedureStepPerformedProcedureSequence",
}  # fmt: skip
OF_A_REQUEST = {
    "StudyInstanceUID", "AccessionNumber", "IssuerOfAccessionNumberSequence", "OrderPlacerIdentifierSequence",
    "OrderFillerIdentifierSequence", "RequestedProcedureID", "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence",
}  # fmt: skip
PERFORMED = {  # Final State P: with a value (or, for sequences of type 2, present) where the step is COMPLETED
    "PerformedStationNameCodeSequence", "PerformedProcedureStepStartDateTime", "PerformedWorkitemCodeSequence",
    "PerformedProcedureStepEndDateTime", "OutputInformationSequence",
}  # fmt: skip
MODULES = (
    "sop-common", "unified-procedure-step-scheduled-procedure-information", "unified-procedure-step-relationship",
    "unified-procedure-step-progress-information", "unified-procedure-step-performed-procedure-information",
)  # fmt: skip


@pytest.fixture
def node(tmp_path: Path) -> Road:
    settings = Settings(node=Node(ae_title="PROGNODE", site="Test", time_zone="Europe/Berlin"), ups=Ups(enabled=True))
    return Road(tmp_path, settings)


def worklist(node: Road) -> UpsWorklist:
    made = UpsWorklist(node.store, node.spool, node.settings)
    while made.follow():
        pass
    return made


def rows(node: Road) -> list[StepRow]:
    worklist(node)
    return node.store.steps.find(StepFilter(), 0, 100)


def steps(node: Road) -> list[Dataset]:
    """Every step, in the order of birth."""
    return [worklist(node).data_set(row) for row in rows(node)]


def assert_required(step: Dataset) -> None:
    assert {element.keyword for element in step if element.value} >= WITH_VALUE
    assert {element.keyword for element in step} >= PRESENT
    assert set(OF_A_REQUEST) <= {element.keyword for element in step.ReferencedRequestSequence[0]}
    assert step.SOPClassUID == "1.2.840.10008.5.1.4.34.6.1"
    assert "TransactionUID" not in step
    for group in step.InputInformationSequence:
        assert group.TypeOfInstances == "DICOM"
        assert group.StudyInstanceUID
        assert group.SeriesInstanceUID
        assert all(one.ReferencedSOPClassUID and one.ReferencedSOPInstanceUID for one in group.ReferencedSOPSequence)
        assert all(place.RetrieveAETitle for place in group.DICOMRetrievalSequence)
        assert len(group.DICOMRetrievalSequence) >= 1
    if step.ProcedureStepState == "COMPLETED":
        (performed,) = step.UnifiedProcedureStepPerformedProcedureSequence
        assert {element.keyword for element in performed} >= PERFORMED
        assert performed.PerformedProcedureStepStartDateTime
        assert performed.PerformedProcedureStepEndDateTime
    if step.ProcedureStepState == "CANCELED":  # Final State X
        (progress,) = step.ProcedureStepProgressInformationSequence
        assert progress.ProcedureStepCancellationDateTime
        assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue


def assert_of_the_iod(step: Dataset) -> None:
    """Every attribute, at every depth, is one of the modules of the UPS IOD (PS3.3 B.26), as highdicom bundles them."""
    known = _attributes_of_the_iod()

    def look(made: Dataset, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for element in made:
            if element.VR == "SQ":
                for item in element.value:
                    yield from look(item, (*path, element.keyword))
            yield (*path, element.keyword)

    foreign = {path for path in look(step, ()) if path not in known}
    assert not foreign


def _attributes_of_the_iod() -> set[tuple[str, ...]]:
    table = json.loads(resources.files("highdicom").joinpath("_standard/module_attribute_map.json").read_text("utf-8"))
    patient = {"patient-demographic", "patient-medical"} & set(table)
    return {(*attribute["path"], attribute["keyword"]) for name in (*MODULES, *patient) for attribute in table[name]}


def test_a_ct_without_contour_is_scheduled_with_incomplete_inputs(node: Road) -> None:
    node.take(*CT)
    node.work()
    (step,) = steps(node)
    assert (step.ProcedureStepState, step.InputReadinessState) == ("SCHEDULED", "INCOMPLETE")
    assert not step.UnifiedProcedureStepPerformedProcedureSequence
    (images,) = step.InputInformationSequence
    assert {one.ReferencedSOPInstanceUID for one in images.ReferencedSOPSequence} == {ct.SOPInstanceUID for ct in CT}
    assert images.SeriesInstanceUID == CT[0].SeriesInstanceUID
    assert step.ProcedureStepProgressInformationSequence[0].ProcedureStepProgressDescription == (
        "The CT has no tumour contour yet."
    )
    assert_required(step)
    assert_of_the_iod(step)


def test_a_contour_whose_images_are_missing_is_scheduled_with_unavailable_inputs(node: Road) -> None:
    contour = synthetic.rtstruct(CT)
    node.take(contour)
    node.work()
    (step,) = steps(node)
    assert (step.ProcedureStepState, step.InputReadinessState) == ("SCHEDULED", "UNAVAILABLE")
    referenced = {
        one.ReferencedSOPInstanceUID for group in step.InputInformationSequence for one in group.ReferencedSOPSequence
    }
    assert referenced == {ct.SOPInstanceUID for ct in CT} | {contour.SOPInstanceUID}
    assert_required(step)
    assert_of_the_iod(step)


def test_a_scored_study_is_completed_and_names_what_destinations_have_taken(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs", "PACS", commitment="same") as pacs:
        peer = Peer("PACS", port=pacs.port, sends=False, receives_results=True)
        node = Road(tmp_path, Settings(node=Node(ae_title="PROGNODE"), peers=(peer,), ups=Ups(enabled=True)))
        node.take(*CT, synthetic.rtstruct(CT))
        node.work()
        while (
            node.items[0].state != "COMPLETED"
        ):  # a commitment report that a busy machine sends late is not waited for
            node.later(60.0)
        filed = {one.sop_instance_uid: one.series_instance_uid for one in pacs.objects()}
    (step,) = [one for one in steps(node) if one.ProcedureStepState != "CANCELED"]
    assert (step.ProcedureStepState, step.InputReadinessState) == ("COMPLETED", "READY")
    (performed,) = step.UnifiedProcedureStepPerformedProcedureSequence
    outputs = {
        one.ReferencedSOPInstanceUID: group.SeriesInstanceUID
        for group in performed.OutputInformationSequence
        for one in group.ReferencedSOPSequence
    }
    assert outputs == filed
    assert len(filed) >= 4
    for group in (*performed.OutputInformationSequence, *step.InputInformationSequence):
        assert [place.RetrieveAETitle for place in group.DICOMRetrievalSequence] == ["PACS"]
    assert [one.DICOMStorageSequence[0].DestinationAE for one in step.OutputDestinationSequence] == ["PACS"]
    assert performed.PerformedProcedureStepDescription == "Scored"
    assert node.bundle.digest in step.ScheduledProcessingParametersSequence[0].TextValue
    assert_required(step)
    assert_of_the_iod(step)


def test_not_scored_is_completed_with_its_reason_because_the_answer_was_given(node: Road) -> None:
    tilted = synthetic.gantry_tilt(CT)
    node.take(*tilted, synthetic.rtstruct(tilted))
    node.work()
    (step,) = [one for one in steps(node) if one.ProcedureStepState != "CANCELED"]
    assert node.items[0].outcome == "NOT_SCORED"
    assert step.ProcedureStepState == "COMPLETED"
    (performed,) = step.UnifiedProcedureStepPerformedProcedureSequence
    assert performed.PerformedProcedureStepDescription == f"Not scored: {Reason.GANTRY_TILT}"
    assert "tilted gantry" in performed.CommentsOnThePerformedProcedureStep
    assert_required(step)


def test_a_failed_work_item_stays_in_progress_and_says_that_an_operator_has_to_act(node: Road) -> None:
    node.take(*CT, synthetic.rtstruct(CT))
    node.worker.step_plan()
    item = node.store.claim(State.SCHEDULED, "me", 60.0, node.clock())
    assert item is not None
    node.store.note(item.id, "scheduled claimed", node.clock())
    node.store.advance(item, State.FAILED, "me", node.clock(), "the job ended with 70", hint="look")
    (step,) = [one for one in steps(node) if one.ProcedureStepState != "CANCELED"]
    assert step.ProcedureStepState == "IN PROGRESS"
    (progress,) = step.ProcedureStepProgressInformationSequence
    assert progress.ProcedureStepProgressDescription == "stopped, an operator has to act: the job ended with 70"
    node.store.retry(item.id, node.clock())
    node.work()
    (step,) = [one for one in steps(node) if one.ProcedureStepState != "CANCELED"]
    assert step.ProcedureStepState == "COMPLETED"


def test_a_revision_names_the_step_that_it_replaces(node: Road) -> None:
    node.take(*CT, synthetic.rtstruct(CT))
    node.work()
    node.take(synthetic.rtstruct(CT, radius=8.0))
    node.later()
    first, second = [one for one in steps(node) if one.ProcedureStepState == "COMPLETED"]
    assert [one.ReferencedSOPInstanceUID for one in second.ReplacedProcedureStepSequence] == [first.SOPInstanceUID]
    assert_of_the_iod(second)


def test_the_step_of_a_ct_is_canceled_as_rescheduled_when_its_contour_comes_and_the_new_one_replaces_it(
    node: Road,
) -> None:
    node.take(*CT)
    node.work()
    node.take(synthetic.rtstruct(CT))
    node.work()
    waiting, contour = steps(node)
    assert waiting.ProcedureStepState == "CANCELED"
    (progress,) = waiting.ProcedureStepProgressInformationSequence
    assert progress.ReasonForCancellation == "a contour came"
    (why,) = progress.ProcedureStepDiscontinuationReasonCodeSequence
    assert (why.CodeValue, why.CodingSchemeDesignator) == ("110528", "DCM")
    assert [one.ReferencedSOPInstanceUID for one in contour.ReplacedProcedureStepSequence] == [waiting.SOPInstanceUID]
    assert_required(waiting)
    assert_of_the_iod(waiting)


def test_the_uid_of_a_step_stays_the_same_from_waiting_to_completed_and_through_restarts_and_settings(
    node: Road,
) -> None:
    node.take(synthetic.rtstruct(CT))
    node.work()
    (before,) = steps(node)
    node.take(*CT)
    node.later()
    renamed = replace(node.settings, node=replace(node.settings.node, ae_title="OTHER"))
    node.restart(settings=renamed)
    (after_all,) = [one for one in steps(node) if one.ProcedureStepState == "COMPLETED"]
    assert after_all.SOPInstanceUID == before.SOPInstanceUID
    assert after_all.WorklistLabel == "OTHER"


def test_two_nodes_that_get_the_same_study_give_their_steps_different_uids(tmp_path: Path) -> None:
    uids = set()
    for title in ("PROGNODE1", "PROGNODE2"):
        node = Road(tmp_path / title, Settings(node=Node(ae_title=title), ups=Ups(enabled=True)))
        node.take(*CT)
        node.work()
        uids.add(steps(node)[0].SOPInstanceUID)
    assert len(uids) == 2


def test_times_carry_the_offset_of_the_site(node: Road) -> None:
    node.take(*CT)
    node.work()
    moment = datetime.fromtimestamp(node.clock(), UTC)
    assert steps(node)[0].ScheduledProcedureStepStartDateTime == "20231114231320.000000+0100"
    assert moment.strftime("%Y%m%d%H%M") == "202311142213"


def test_a_name_in_any_script_survives(node: Road) -> None:
    for image in (changed := synthetic.ct_series(12, seed=3)):
        image.SpecificCharacterSet = "ISO_IR 192"
        image.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    node.take(*changed)
    node.work()
    (step,) = steps(node)
    assert step.SpecificCharacterSet == "ISO_IR 192"
    assert str(step.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"


def test_a_late_commitment_report_does_not_reopen_a_completed_step() -> None:
    step = Step(StepState.COMPLETED, Readiness.READY, 1.0, ended_at=2.0)
    assert after(step, "reported", "a storage commitment report failed late", 3.0, True) == step
    assert after(step, "canceled", "", 3.0, True) == step


@pytest.mark.parametrize("name", ["analysed", "reported", "completed", "failed", "canceled"])
def test_no_step_leaves_scheduled_for_a_final_state_without_being_in_progress_between(name: str) -> None:
    old = after(born(True, 1.0), "scheduled", "", 2.0, True)
    new = after(old, name, "", 3.0, True)
    told = states_between(old.state, new.state)
    assert told[0] is StepState.IN_PROGRESS
    assert told[-1] is new.state
    if new.state in FINAL:
        assert new.ended_at == 3.0


def test_event_informations_have_what_their_table_asks_for() -> None:
    report = ups.state_report("CANCELED", "READY", "superseded")
    assert (report.ProcedureStepState, report.InputReadinessState) == ("CANCELED", "READY")
    assert report.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110528"
    progress = ups.progress_report(60, "analysed").ProcedureStepProgressInformationSequence[0]
    assert str(progress.ProcedureStepProgress) == "60"
    status = ups.scp_status_change("RESTARTED")
    assert (status.SCPStatus, status.SubscriptionListStatus, status.UnifiedProcedureStepListStatus) == (
        "RESTARTED", "WARM START", "WARM START",
    )  # fmt: skip
    assert ups.assigned("PROGNODE").ScheduledStationNameCodeSequence[0].CodeValue == "PROGNODE"

"""What cannot be scored is refused with its reason, in the right study, and once."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from pydicom.dataset import Dataset

from analysis.contract import Reason
from dicom_node.decision import NotEligible, Plan, Waiting
from dicom_node.instance import CT, Instance
from tests.facts import fact, facts
from tests.planning import CT_FILES, now, uids
from tests.synthetic import drop_slice, localizer, rtstruct, seg, two_phases

MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture(scope="module")
def ct() -> list[Instance]:
    return facts(CT_FILES)


@pytest.fixture(scope="module")
def contour() -> Instance:
    return fact(rtstruct(CT_FILES))


# -- refused by reference ------------------------------------------------------------------------------------


def test_contours_on_mr_are_refused_at_once_without_waiting(ct: list[Instance], contour: Instance) -> None:
    on_mr = replace(contour, referenced_sop_class_uids=(MR,))
    decision = now(on_mr, [], waited=0.0)
    assert isinstance(decision, NotEligible)
    assert decision.reason is Reason.ROI_REFERENCES_NOT_CT
    assert decision.detail == "drawn on images of kind MR"
    assert now(on_mr, ct[:3]) == decision


def test_a_referenced_image_that_is_no_ct_is_refused(ct: list[Instance], contour: Instance) -> None:
    unsaid = replace(contour, referenced_sop_class_uids=())
    for change in ({"sop_class_uid": MR, "modality": "MR"}, {"modality": "PT"}):
        decision = now(unsaid, [replace(ct[0], **change)])
        assert isinstance(decision, NotEligible)
        assert decision.reason is Reason.ROI_REFERENCES_NOT_CT


def test_several_series_are_refused(ct: list[Instance], contour: Instance) -> None:
    several = replace(contour, referenced_series_instance_uids=("1.2.3", "1.2.4"))
    mixed = replace(contour, referenced_sop_class_uids=(CT, MR))
    split = [*ct[:6], *(replace(image, series_instance_uid="1.2.3") for image in ct[6:])]
    for decision in (now(several, []), now(mixed, []), now(contour, split)):
        assert isinstance(decision, NotEligible)
        assert decision.reason is Reason.ROI_REFERENCES_SEVERAL_SERIES
        assert decision.evidence == (contour.sop_instance_uid,)


def test_another_frame_of_reference_is_refused(ct: list[Instance]) -> None:
    for dataset in (rtstruct(CT_FILES, FrameOfReferenceUID="1.2.3"), seg(CT_FILES, FrameOfReferenceUID="1.2.3")):
        decision = now(fact(dataset), ct)
        assert isinstance(decision, NotEligible)
        assert decision.reason is Reason.ROI_FRAME_OF_REFERENCE_DIFFERS


def test_a_frame_of_reference_that_nobody_names_is_no_difference(ct: list[Instance], contour: Instance) -> None:
    silent = replace(
        contour, frame_of_reference_uid="", rois=tuple(replace(r, frame_of_reference_uid="") for r in contour.rois)
    )
    assert isinstance(now(silent, ct), Plan)
    assert isinstance(now(contour, [replace(image, frame_of_reference_uid="") for image in ct]), Plan)


def test_a_series_filed_under_two_studies_waits_in_the_same_one_whatever_the_order(
    ct: list[Instance], contour: Instance
) -> None:
    split = [replace(ct[0], study_instance_uid="1.2.3"), ct[1]]
    assert now(contour, split) == now(contour, split[::-1])


def test_the_frame_of_reference_of_the_chosen_roi_counts(ct: list[Instance], contour: Instance) -> None:
    elsewhere = replace(contour.rois[0], number=2, name="Heart", frame_of_reference_uid="1.2.3")
    assert isinstance(now(replace(contour, rois=(*contour.rois, elsewhere)), ct), Plan)
    assert isinstance(now(replace(contour, frame_of_reference_uid="1.2.3"), ct), Plan)


# -- refused by a gate ---------------------------------------------------------------------------------------


def test_a_gate_refuses_a_complete_series_at_once_with_its_evidence(contour: Instance) -> None:
    images = facts(localizer(CT_FILES))
    decision = now(replace(contour, referenced_sop_instance_uids=uids(images)), images)
    assert isinstance(decision, NotEligible)
    assert decision.reason is Reason.LOCALIZER_IN_SERIES
    assert decision.evidence == (*sorted(uids(images)), contour.sop_instance_uid)


@pytest.mark.parametrize(
    ("defect", "reason"),
    [(localizer, Reason.LOCALIZER_IN_SERIES), (two_phases, Reason.SEVERAL_ACQUISITIONS)],
)
def test_images_of_the_series_that_the_contour_does_not_name_refuse_it_too_once_quiet(
    contour: Instance, defect: Callable[[list[Dataset]], list[Dataset]], reason: Reason
) -> None:
    images = facts(defect(CT_FILES))
    waiting, decision = now(contour, images), now(contour, images, quiet=True)
    assert isinstance(waiting, Waiting)
    assert isinstance(decision, NotEligible)
    assert (waiting.reason, decision.reason) == (reason, reason)


def test_a_list_with_a_gap_is_refused_once_no_more_can_come() -> None:
    gapped = drop_slice(CT_FILES)
    images, contour = facts(gapped), fact(rtstruct(gapped))
    assert isinstance(now(contour, images), Waiting)
    decision = now(contour, images, quiet=True)
    assert isinstance(decision, NotEligible)
    assert decision.reason is Reason.MISSING_SLICE


def test_roi_reasons_wait_for_the_ct_so_that_the_answer_is_given_once(ct: list[Instance]) -> None:
    unnamed = fact(rtstruct(CT_FILES, roi_names=("Heart", "Lung")))
    assert isinstance(now(unnamed, ct[:11]), Waiting)
    decision = now(unnamed, ct)
    assert isinstance(decision, NotEligible)
    assert decision.reason is Reason.ROI_NOT_FOUND
    assert decision.study_instance_uid == ct[0].study_instance_uid

"""References decide what is scored; what is missing is waited for, then stated."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
from pydicom.dataset import Dataset

from analysis.contract import Combine, Reason, RoiKind
from config.settings import Planning
from dicom_node.decision import NotEligible, Plan, Waiting
from dicom_node.instance import CT, Instance
from tests.facts import fact, facts
from tests.planning import CT_FILES, DAY, at_last, now, uids
from tests.synthetic import ct_series, enhanced_ct, item_of, rtstruct, seg, shuffled, uid


@pytest.fixture(scope="module")
def ct() -> list[Instance]:
    return facts(CT_FILES)


@pytest.fixture(scope="module")
def contour() -> Instance:
    return fact(rtstruct(CT_FILES))


@pytest.fixture(scope="module")
def by_contours() -> Instance:
    """Names the contoured slices only, and these at the contours."""
    return fact(rtstruct(CT_FILES, radius=6.0, series_level_references=False))


@pytest.fixture(scope="module")
def bare() -> Instance:
    """Names no image at all."""
    return fact(rtstruct(CT_FILES, series_level_references=False, contour_level_references=False))


# -- complete ------------------------------------------------------------------------------------------------


def test_complete_references_are_planned_at_once_in_slice_order(ct: list[Instance], contour: Instance) -> None:
    plan = now(contour, shuffled(ct, 1), waited=None)
    assert plan == Plan(
        study_instance_uid=ct[0].study_instance_uid,
        ct_series_instance_uid=ct[0].series_instance_uid,
        ct_sop_instance_uids=uids(ct),
        roi_sop_instance_uid=contour.sop_instance_uid,
        roi_kind=RoiKind.RTSTRUCT,
        roi_numbers=(1,),
        combine=Combine.SINGLE,
    )
    assert now(contour, {image.sop_instance_uid: image for image in ct}.values()) == plan


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_segmentation_is_planned_as_one(ct: list[Instance], kind: str) -> None:
    plan = now(fact(seg(CT_FILES, segmentation_type=kind)), ct)
    assert isinstance(plan, Plan)
    assert (plan.roi_kind, plan.roi_numbers, plan.ct_sop_instance_uids) == (RoiKind.SEG, (1,), uids(ct))


@pytest.mark.parametrize("draw", [rtstruct, seg])
def test_an_enhanced_ct_is_one_instance(draw: Callable[[Dataset], Dataset]) -> None:
    multi_frame = enhanced_ct(CT_FILES)
    plan = now(fact(draw(multi_frame)), [fact(multi_frame)])
    assert isinstance(plan, Plan)
    assert plan.ct_sop_instance_uids == (multi_frame.SOPInstanceUID,)


def test_a_contour_in_another_study_is_planned_into_the_study_of_the_ct(ct: list[Instance]) -> None:
    elsewhere = fact(rtstruct(CT_FILES, StudyInstanceUID=uid("another study")))
    plan = now(elsewhere, ct)
    assert isinstance(plan, Plan)
    assert plan.study_instance_uid == ct[0].study_instance_uid != elsewhere.study_instance_uid


def test_another_ct_of_the_same_study_is_not_looked_at(ct: list[Instance], contour: Instance) -> None:
    other = facts(ct_series(seed=2, study_instance_uid=CT_FILES[0].StudyInstanceUID))
    assert now(contour, [*other, *ct]) == now(contour, ct)
    assert isinstance(now(contour, other), Waiting)


def test_our_own_objects_and_contours_are_never_an_input(ct: list[Instance], contour: Instance) -> None:
    own = [replace(image, own=True) for image in ct]
    assert now(contour, [contour, *own]) == now(contour, [])


# -- incomplete ----------------------------------------------------------------------------------------------


def test_what_is_missing_is_waited_for_then_stated(ct: list[Instance], contour: Instance) -> None:
    waiting = now(contour, ct[:10])
    assert waiting == Waiting(
        Reason.REFERENCED_CT_INCOMPLETE,
        2,
        "10 of 12 images are here",
        ct[0].study_instance_uid,
        ct[0].series_instance_uid,
    )
    assert now(contour, ct[:10], DAY - 1, True) == waiting
    stated = now(contour, ct[:10], DAY, True)
    assert stated == NotEligible(
        Reason.REFERENCED_CT_INCOMPLETE,
        "10 of 12 images are here",
        (*sorted(uids(ct[:10])), contour.sop_instance_uid),
        ct[0].study_instance_uid,
        contour.sop_instance_uid,
        ct[0].series_instance_uid,
    )
    assert at_last(contour, ct[:10]) == stated


def test_a_late_series_that_is_just_coming_in_is_not_reported_image_by_image(
    ct: list[Instance], contour: Instance
) -> None:
    assert isinstance(now(contour, ct[:5], 2 * DAY, quiet=False), Waiting)
    assert isinstance(now(contour, ct, 2 * DAY, quiet=False), Plan)


def test_a_contour_without_any_of_its_images_waits_in_its_own_study(contour: Instance) -> None:
    waiting = now(contour, [])
    assert isinstance(waiting, Waiting)
    assert (waiting.missing, waiting.study_instance_uid) == (12, contour.study_instance_uid)
    stated = at_last(contour, [])
    assert isinstance(stated, NotEligible)
    assert stated.evidence == (contour.sop_instance_uid,)


def test_a_series_rewritten_under_other_uids_is_scored_once_quiet_and_the_absent_are_counted(
    ct: list[Instance], contour: Instance
) -> None:
    rewritten = [replace(image, sop_instance_uid=f"1.2.3.{k}") for k, image in enumerate(ct)]
    assert isinstance(now(contour, rewritten), Waiting)
    plan = now(contour, rewritten, quiet=True)
    assert isinstance(plan, Plan)
    assert (plan.absent, plan.ct_sop_instance_uids) == (12, uids(rewritten))
    assert at_last(contour, rewritten) == plan


def test_a_pause_in_sending_is_not_taken_for_a_series_that_was_cropped_and_rewritten(
    ct: list[Instance], contour: Instance, by_contours: Instance
) -> None:
    cropped = [replace(image, sop_instance_uid=f"1.2.3.{k}") for k, image in enumerate(ct[1:11])]
    assert isinstance(now(contour, cropped, quiet=True), Waiting)
    plan = now(contour, cropped, DAY, quiet=True)
    assert isinstance(plan, Plan)
    assert (plan.absent, plan.ct_sop_instance_uids) == (12, uids(cropped))
    assert now(contour, cropped, quiet=True, still=True) == plan, "ten times as long is no pause"
    # More images than are listed, none of them listed: where the contoured ones alone are, that says nothing.
    drawn = set(by_contours.referenced_sop_instance_uids)
    named = replace(by_contours, referenced_series_instance_uids=(ct[0].series_instance_uid,))
    others = [image for image in ct if image.sop_instance_uid not in drawn]
    assert len(others) > len(drawn)
    assert isinstance(now(named, others, quiet=True), Waiting)


def test_an_enhanced_ct_that_is_split_into_slices_is_not_taken_before_its_time(ct: list[Instance]) -> None:
    listed = fact(rtstruct(enhanced_ct(CT_FILES)))
    slices = [replace(image, series_instance_uid=listed.referenced_series_instance_uids[0]) for image in ct]
    frame = listed.frame_of_reference_uid
    slices = [replace(image, frame_of_reference_uid=frame) for image in slices]
    assert isinstance(now(listed, slices[:10], quiet=True), Waiting)
    assert isinstance(now(listed, slices, DAY, quiet=True), Plan)


def test_one_listed_slice_is_no_measure_of_how_long_a_rewritten_series_is(ct: list[Instance]) -> None:
    dataset = rtstruct(CT_FILES)
    (series,) = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence
    series.ContourImageSequence = series.ContourImageSequence[5:6]
    dataset.ROIContourSequence[0].ContourSequence = [
        drawn
        for drawn in dataset.ROIContourSequence[0].ContourSequence
        if drawn.ContourImageSequence[0].ReferencedSOPInstanceUID
        == series.ContourImageSequence[0].ReferencedSOPInstanceUID
    ]
    listed = fact(dataset)
    assert (len(listed.referenced_sop_instance_uids), listed.rois[0].contours) == (1, 1)
    rewritten = [replace(image, sop_instance_uid=f"1.2.3.{k}") for k, image in enumerate(ct)]
    assert isinstance(now(listed, rewritten[:9], quiet=True), Waiting)
    plan = now(listed, rewritten, quiet=True, still=True)
    assert isinstance(plan, Plan)
    assert plan.ct_sop_instance_uids == uids(rewritten)
    multi_frame = enhanced_ct(CT_FILES)
    whole = replace(fact(multi_frame), sop_instance_uid="1.2.3.4")
    assert isinstance(now(fact(rtstruct(multi_frame)), [whole], quiet=True), Plan)


def test_a_rewritten_series_must_share_the_frame_of_reference_and_pass_the_gates(
    ct: list[Instance], contour: Instance
) -> None:
    rewritten = [replace(image, sop_instance_uid=f"1.2.3.{k}") for k, image in enumerate(ct)]
    for frame in ("", "1.2.3"):
        elsewhere = [replace(image, frame_of_reference_uid=frame) for image in rewritten]
        refused = at_last(contour, elsewhere)
        assert isinstance(refused, NotEligible)
        assert (refused.reason, refused.detail) == (Reason.REFERENCED_CT_INCOMPLETE, "0 of 12 images are here")
    refused = at_last(contour, [*rewritten[:3], *rewritten[4:]])
    assert isinstance(refused, NotEligible)
    assert refused.reason is Reason.MISSING_SLICE


def test_where_some_of_the_listed_images_came_others_do_not_stand_in_for_the_rest(
    ct: list[Instance], contour: Instance
) -> None:
    mixed = [*ct[:6], *(replace(image, sop_instance_uid=f"1.2.3.{k}") for k, image in enumerate(ct[6:]))]
    refused = at_last(contour, mixed)
    assert isinstance(refused, NotEligible)
    assert (refused.reason, refused.detail) == (Reason.REFERENCED_CT_INCOMPLETE, "6 of 12 images are here")


# -- only contours name images -------------------------------------------------------------------------------


def test_images_named_by_contours_alone_need_quiet_and_take_their_whole_series(
    ct: list[Instance], by_contours: Instance
) -> None:
    assert by_contours.references_from_contours
    assert len(by_contours.referenced_sop_instance_uids) == 4
    waiting = now(by_contours, ct, quiet=False)
    assert isinstance(waiting, Waiting)
    assert waiting.missing == 0
    plan = now(by_contours, ct, quiet=True)
    assert isinstance(plan, Plan)
    assert plan.ct_sop_instance_uids == uids(ct)
    missing = now(by_contours, ct[:5], quiet=True)
    assert isinstance(missing, Waiting)
    assert missing.missing == 3


def test_contours_on_a_whole_stack_still_take_the_whole_series(ct: list[Instance]) -> None:
    longer = fact(rtstruct(CT_FILES, radius=14.0, series_level_references=False))
    assert len(longer.referenced_sop_instance_uids) == 10
    assert isinstance(now(longer, ct, quiet=False), Waiting)
    plan = now(longer, ct, quiet=True)
    assert isinstance(plan, Plan)
    assert plan.ct_sop_instance_uids == uids(ct)


def test_a_series_level_list_of_the_contoured_slices_alone_takes_the_whole_series_once_quiet(
    ct: list[Instance], contour: Instance
) -> None:
    for listed in (uids(ct[3:7]), uids(ct[1:5] + ct[6:11])):
        partial = replace(contour, referenced_sop_instance_uids=listed)
        assert isinstance(now(partial, ct, quiet=False), Waiting)
        assert isinstance(now(partial, [i for i in ct if i.sop_instance_uid in listed], quiet=False), Waiting)
        plan = now(partial, ct, quiet=True)
        assert isinstance(plan, Plan)
        assert plan.ct_sop_instance_uids == uids(ct)


def test_a_listed_stack_within_a_longer_series_is_what_is_scored(ct: list[Instance], contour: Instance) -> None:
    listed = replace(contour, referenced_sop_instance_uids=uids(ct[1:11]))
    plan = now(listed, ct)
    assert isinstance(plan, Plan)
    assert plan.ct_sop_instance_uids == uids(ct[1:11])


def test_contours_on_a_contiguous_part_of_a_series_are_scored_on_all_of_it_though_they_list_that_part_alone(
    ct: list[Instance],
) -> None:
    dataset = rtstruct(CT_FILES, radius=14.0)
    drawn = set(fact(rtstruct(CT_FILES, radius=14.0, series_level_references=False)).referenced_sop_instance_uids)
    (series,) = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence
    series.ContourImageSequence = [i for i in series.ContourImageSequence if i.ReferencedSOPInstanceUID in drawn]
    cropped = fact(dataset)
    listed = [image for image in ct if image.sop_instance_uid in cropped.referenced_sop_instance_uids]
    assert len(listed) == 10  # a stack by itself
    assert isinstance(now(cropped, listed, quiet=False), Waiting)
    plan = now(cropped, ct, quiet=True)
    assert isinstance(plan, Plan)
    assert plan.ct_sop_instance_uids == uids(ct)


def test_contours_on_images_of_another_series_than_the_listed_one_are_not_scored(
    ct: list[Instance], contour: Instance
) -> None:
    other = [replace(image, sop_instance_uid=f"1.2.3.{k}", series_instance_uid="1.2.3") for k, image in enumerate(ct)]
    dataset = rtstruct(CT_FILES)
    theirs = dict(zip(uids(ct), uids(other), strict=True))
    for drawn in dataset.ROIContourSequence[0].ContourSequence:
        image = drawn.ContourImageSequence[0]
        image.ReferencedSOPInstanceUID = theirs[image.ReferencedSOPInstanceUID]
    on_another = fact(dataset)
    assert on_another.referenced_sop_instance_uids[:12] == contour.referenced_sop_instance_uids
    assert isinstance(now(on_another, ct, quiet=True), Waiting)
    decision = now(on_another, [*ct, *other])
    assert isinstance(decision, NotEligible)
    assert decision.reason is Reason.ROI_REFERENCES_SEVERAL_SERIES


# -- what else is drawn in the object ------------------------------------------------------------------------

MR = "1.2.840.10008.5.1.4.1.1.4"


def _with_a_point(
    image: str, sop_class: str = CT, names: tuple[str, str] = ("GTV-1", "Isocenter"), **how: bool
) -> Instance:
    """A contour object of two ROIs; the second is a point that names this image."""
    dataset = rtstruct(CT_FILES, roi_names=names, **how)
    dataset.ROIContourSequence[1].ContourSequence = dataset.ROIContourSequence[1].ContourSequence[:1]
    (point,) = dataset.ROIContourSequence[1].ContourSequence
    point.ContourGeometricType, point.NumberOfContourPoints, point.ContourData = "POINT", 1, point.ContourData[:3]
    (named,) = point.ContourImageSequence
    named.ReferencedSOPInstanceUID, named.ReferencedSOPClassUID = image, sop_class
    return fact(dataset)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("sop_class", [CT, MR])
def test_an_image_that_another_roi_names_does_not_decide_over_the_tumour(
    ct: list[Instance], sop_class: str, listed: bool
) -> None:
    with_a_point = _with_a_point("1.2.3.4", sop_class, series_level_references=listed)
    alone = fact(rtstruct(CT_FILES, series_level_references=listed))
    plan = now(with_a_point, ct, quiet=not listed)
    assert isinstance(plan, Plan)
    assert plan == now(alone, ct, quiet=not listed)
    elsewhere = replace(ct[0], sop_instance_uid="1.2.3.4", series_instance_uid="1.2.3", sop_class_uid=sop_class)
    assert now(with_a_point, [*ct, elsewhere], quiet=not listed) == plan
    assert now(with_a_point, ct[1:], quiet=True) == now(alone, ct[1:], quiet=True)


def test_an_image_that_another_segment_names_does_not_decide_over_the_tumour(ct: list[Instance]) -> None:
    dataset = seg(CT_FILES, labels=("GTV-1", "Lung"))
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 2:
            (source,) = frame.DerivationImageSequence[0].SourceImageSequence
            elsewhere = deepcopy(source)  # those of the segments may be one object
            elsewhere.ReferencedSOPInstanceUID = "1.2.3.4"
            frame.DerivationImageSequence = [item_of(SourceImageSequence=[elsewhere])]
    two = fact(dataset)
    assert two.referenced_sop_instance_uids[-1] == "1.2.3.4"
    plan = now(two, ct)
    assert isinstance(plan, Plan)
    assert (plan.roi_numbers, plan.ct_sop_instance_uids) == ((1,), uids(ct))


def test_the_images_of_each_roi_that_is_chosen_count(ct: list[Instance]) -> None:
    both = _with_a_point("1.2.3.4", names=("GTV-1", "GTV-2"))
    both = replace(both, rois=tuple(replace(one, geometric_types=("CLOSED_PLANAR",)) for one in both.rois))
    union = Planning(several_rois="union")
    waiting = now(both, ct, quiet=True, settings=union)
    assert isinstance(waiting, Waiting)
    assert waiting.detail == "12 of 13 images are here"
    elsewhere = replace(ct[0], sop_instance_uid="1.2.3.4", series_instance_uid="1.2.3")
    decision = now(both, [*ct, elsewhere], settings=union)
    assert isinstance(decision, NotEligible)
    assert decision.reason is Reason.ROI_REFERENCES_SEVERAL_SERIES


def test_where_no_roi_is_the_tumour_that_is_said_at_once_whatever_a_point_names(ct: list[Instance]) -> None:
    decision = now(_with_a_point("1.2.3.4", MR, names=("Lung", "Isocenter")), ct)
    assert isinstance(decision, NotEligible)
    assert decision.reason is Reason.ROI_NOT_FOUND


def test_where_the_tumour_names_no_image_those_of_the_other_rois_tell_its_series(ct: list[Instance]) -> None:
    dataset = rtstruct(CT_FILES, roi_names=("GTV-1", "Lung"), series_level_references=False)
    for drawn in dataset.ROIContourSequence[0].ContourSequence:
        del drawn.ContourImageSequence
    plan = now(fact(dataset), ct, quiet=True)
    assert isinstance(plan, Plan)
    assert (plan.roi_numbers, plan.ct_sop_instance_uids) == ((1,), uids(ct))


# -- no references -------------------------------------------------------------------------------------------


def test_without_references_the_one_series_of_study_and_frame_is_taken_once_quiet(
    ct: list[Instance], bare: Instance
) -> None:
    assert isinstance(now(bare, ct, quiet=False), Waiting)
    plan = now(bare, ct, quiet=True)
    assert isinstance(plan, Plan)
    assert plan.ct_sop_instance_uids == uids(ct)


def test_without_references_and_several_series_it_is_refused(ct: list[Instance], bare: Instance) -> None:
    first = CT_FILES[0]
    thin = ct_series(
        seed=2, study_instance_uid=first.StudyInstanceUID, frame_of_reference_uid=first.FrameOfReferenceUID
    )
    decision = now(bare, [*ct, *facts(thin)], quiet=True)
    assert isinstance(decision, NotEligible)
    assert decision.reason is Reason.ROI_WITHOUT_REFERENCES
    assert decision.detail == "2 CT series of its study and frame of reference are here"


@pytest.mark.parametrize("change", [{"study_instance_uid": "1.2.3"}, {"frame_of_reference_uid": "1.2.3"}], ids=str)
def test_without_references_another_study_or_frame_does_not_count(
    ct: list[Instance], bare: Instance, change: dict[str, str]
) -> None:
    others = [replace(image, **change) for image in ct]
    assert isinstance(now(bare, others, quiet=True), Waiting)
    decision = at_last(bare, others)
    assert isinstance(decision, NotEligible)
    assert decision.reason is Reason.ROI_WITHOUT_REFERENCES


def test_a_series_named_without_its_images_is_taken_once_quiet(ct: list[Instance], bare: Instance) -> None:
    named = replace(bare, study_instance_uid="1.2.3", referenced_series_instance_uids=(ct[0].series_instance_uid,))
    assert isinstance(now(named, ct, quiet=False), Waiting)
    assert isinstance(now(named, ct, quiet=True), Plan)

"""headers.read fills the facts that planning needs, for every SOP class and for real files."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from config.identity import MANUFACTURER
from dicom_node.headers import read
from dicom_node.instance import CT, ENHANCED_CT, RTSTRUCT, SEG, Geometry, Instance
from tests import cpu
from tests.paths import shared
from tests.synthetic import ct_series, enhanced_ct, item_of, rtstruct, save, seg

DIGEST = "d" * 64


def facts(dataset: Dataset, folder: Path, syntax: str = ExplicitVRLittleEndian) -> Instance:
    instance = read(save(dataset, folder, syntax), DIGEST)
    assert Instance.from_json(instance.to_json()) == instance
    return instance


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
def test_a_ct_slice_in_each_encoding_gives_the_same_facts(tmp_path: Path, syntax: str) -> None:
    dataset = ct_series(4, 16, 20, seed=51)[2]
    instance = facts(dataset, tmp_path, syntax)
    assert (instance.transfer_syntax_uid, instance.sop_class_uid, instance.digest) == (syntax, CT, DIGEST)
    assert (instance.sop_instance_uid, instance.study_instance_uid, instance.series_instance_uid) == (
        dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID,
    )  # fmt: skip
    assert instance.geometry == Geometry(
        rows=16,
        columns=20,
        orientation=(1, 0, 0, 0, 1, 0),
        pixel_spacing=tuple(dataset.PixelSpacing),
        positions=(tuple(dataset.ImagePositionPatient),),
    )
    assert (instance.modality, instance.image_type[:2]) == ("CT", ("ORIGINAL", "PRIMARY"))
    assert (instance.rescale, instance.rescale_type, instance.own) == (True, "HU", False)
    assert instance.acquisition_number == "1"
    assert instance.is_ct
    assert not instance.is_roi


def test_an_enhanced_ct_has_the_geometry_of_every_frame(tmp_path: Path) -> None:
    ct = ct_series(6, seed=52)
    instance = facts(enhanced_ct(ct), tmp_path)
    assert instance.sop_class_uid == ENHANCED_CT
    assert instance.geometry.positions == tuple(tuple(one.ImagePositionPatient) for one in ct)
    assert instance.geometry.pixel_spacing == tuple(ct[0].PixelSpacing)
    assert instance.geometry.orientation == (1, 0, 0, 0, 1, 0)
    assert (instance.geometry.same_orientation, instance.rescale, instance.rescale_type) == (True, True, "HU")


def test_frames_of_different_orientation_or_without_rescale_are_said_to_be_so(tmp_path: Path) -> None:
    dataset = enhanced_ct(ct_series(6, seed=53))
    shared_groups = dataset.SharedFunctionalGroupsSequence[0]
    orientation = shared_groups.PlaneOrientationSequence
    rescale = shared_groups.PixelValueTransformationSequence
    del shared_groups.PlaneOrientationSequence, shared_groups.PixelValueTransformationSequence
    for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.PlaneOrientationSequence = orientation
        if k == 3:
            frame.PlaneOrientationSequence = [item_of(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])]
        else:
            frame.PixelValueTransformationSequence = rescale
    instance = facts(dataset, tmp_path)
    assert not instance.geometry.same_orientation
    assert not instance.rescale


def test_one_frame_without_a_position_leaves_no_positions_at_all(tmp_path: Path) -> None:
    dataset = enhanced_ct(ct_series(6, seed=54))
    del dataset.PerFrameFunctionalGroupsSequence[4].PlanePositionSequence
    assert facts(dataset, tmp_path).geometry.positions == ()


@pytest.mark.parametrize(("slope", "intercept"), [(0, -1024), (None, -1024), (1, None)])
def test_a_ct_without_a_usable_rescale_says_so(tmp_path: Path, slope: int | None, intercept: int | None) -> None:
    dataset = ct_series(1, seed=55)[0]
    for keyword, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    assert not facts(dataset, tmp_path).rescale


def test_an_rtstruct_names_its_rois_and_its_images(tmp_path: Path) -> None:
    ct = ct_series(12, seed=56)
    dataset = rtstruct(ct)
    dataset.RTROIObservationsSequence[0].RTROIInterpretedType = "GTV"
    instance = facts(dataset, tmp_path)
    (roi,) = instance.rois
    assert (roi.number, roi.name, roi.interpreted_type, roi.geometric_types) == (1, "GTV-1", "GTV", ("CLOSED_PLANAR",))
    assert roi.contours == len(dataset.ROIContourSequence[0].ContourSequence)
    assert roi.frame_of_reference_uid == instance.frame_of_reference_uid == ct[0].FrameOfReferenceUID
    assert set(instance.referenced_sop_instance_uids) == {one.SOPInstanceUID for one in ct}
    assert instance.referenced_series_instance_uids == (ct[0].SeriesInstanceUID,)
    assert instance.referenced_sop_class_uids == (CT,)
    assert instance.sop_class_uid == RTSTRUCT
    assert not instance.references_from_contours


def test_an_rtstruct_without_a_series_list_names_the_images_of_its_contours(tmp_path: Path) -> None:
    dataset = rtstruct(ct_series(12, seed=57))
    contours = dataset.ROIContourSequence[0].ContourSequence
    assert "ContourImageSequence" in contours[0]
    del dataset.ReferencedFrameOfReferenceSequence
    instance = facts(dataset, tmp_path)
    named = {str(c.ContourImageSequence[0].ReferencedSOPInstanceUID) for c in contours}
    assert set(instance.referenced_sop_instance_uids) == named
    assert instance.references_from_contours


def _list_only(dataset: Dataset, uids: set[str]) -> None:
    (series,) = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence
    series.ContourImageSequence = [i for i in series.ContourImageSequence if i.ReferencedSOPInstanceUID in uids]


def test_a_list_of_no_image_but_the_contoured_ones_is_not_taken_for_the_whole_series(tmp_path: Path) -> None:
    dataset = rtstruct(ct_series(12, seed=57))
    contours = dataset.ROIContourSequence[0].ContourSequence
    drawn = [str(c.ContourImageSequence[0].ReferencedSOPInstanceUID) for c in contours]
    for listed in (drawn, drawn[1:]):
        _list_only(dataset, set(listed))
        instance = facts(dataset, tmp_path)
        assert set(instance.referenced_sop_instance_uids) == set(drawn)
        assert instance.references_from_contours


def test_a_seg_that_lists_the_images_of_its_frames_alone_need_not_hold_the_whole_series(tmp_path: Path) -> None:
    dataset = seg(ct_series(12, seed=60))
    frames = dataset.PerFrameFunctionalGroupsSequence
    drawn = {str(f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID) for f in frames}
    (series,) = dataset.ReferencedSeriesSequence
    series.ReferencedInstanceSequence = [
        i for i in series.ReferencedInstanceSequence if i.ReferencedSOPInstanceUID in drawn
    ]
    instance = facts(dataset, tmp_path)
    assert set(instance.referenced_sop_instance_uids) == drawn
    assert instance.references_from_contours


@pytest.mark.parametrize("draw", [rtstruct, seg])
def test_one_multi_frame_image_that_is_listed_is_the_whole_series(
    tmp_path: Path, draw: Callable[[Dataset], Dataset]
) -> None:
    instance = facts(draw(enhanced_ct(ct_series(12, seed=61))), tmp_path)
    assert len(instance.referenced_sop_instance_uids) == 1
    assert not instance.references_from_contours


def test_what_a_roi_alone_is_drawn_on_is_kept_with_it(tmp_path: Path) -> None:
    dataset = rtstruct(ct_series(12, seed=62), roi_names=("GTV-1", "Isocenter"))
    for drawn in dataset.ROIContourSequence[1].ContourSequence:
        drawn.ContourImageSequence = [
            item_of(ReferencedSOPInstanceUID="1.2.3.4", ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.4")
        ]
    instance = facts(dataset, tmp_path)
    tumour, point = instance.rois
    assert (tumour.unlisted_images, tumour.unlisted_sop_class_uids) == ((), ())
    assert [instance.referenced_sop_instance_uids[place] for place in point.unlisted_images] == ["1.2.3.4"]
    assert point.unlisted_sop_class_uids == ("1.2.840.10008.5.1.4.1.1.4",)
    assert instance.referenced_sop_class_uids == (CT,)
    assert not instance.references_from_contours


def test_facts_that_were_kept_before_rois_had_their_images_are_read(tmp_path: Path) -> None:
    instance = facts(rtstruct(ct_series(12, seed=63)), tmp_path)
    kept = json.loads(instance.to_json())
    for roi in kept["rois"]:
        del roi["unlisted_images"], roi["unlisted_sop_class_uids"]
    assert Instance.from_json(json.dumps(kept)) == instance


def test_an_rtstruct_without_any_reference_has_none(tmp_path: Path) -> None:
    dataset = rtstruct(ct_series(12, seed=58))
    del dataset.ReferencedFrameOfReferenceSequence
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        del contour.ContourImageSequence
    instance = facts(dataset, tmp_path)
    assert (instance.referenced_sop_instance_uids, instance.references_from_contours) == ((), False)
    assert instance.rois[0].contours > 0


def test_a_seg_names_its_segments_and_its_images(tmp_path: Path) -> None:
    ct = ct_series(12, seed=59)
    dataset = seg(ct)
    instance = facts(dataset, tmp_path)
    (roi,) = instance.rois
    assert (instance.sop_class_uid, roi.number, roi.name, roi.interpreted_type) == (SEG, 1, "GTV-1", "108369006")
    assert roi.contours == dataset.NumberOfFrames
    assert set(instance.referenced_sop_instance_uids) == {one.SOPInstanceUID for one in ct}
    assert instance.referenced_series_instance_uids == (ct[0].SeriesInstanceUID,)
    assert not instance.references_from_contours


def test_a_seg_without_a_series_list_names_the_source_images_of_its_frames(tmp_path: Path) -> None:
    dataset = seg(ct_series(12, seed=60))
    del dataset.ReferencedSeriesSequence
    instance = facts(dataset, tmp_path)
    assert len(instance.referenced_sop_instance_uids) == dataset.NumberOfFrames
    assert instance.references_from_contours


def test_our_own_objects_are_known_again(tmp_path: Path) -> None:
    dataset = seg(ct_series(8, seed=61))
    dataset.Manufacturer = f"{MANUFACTURER} "
    assert facts(dataset, tmp_path).own


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Läsion"),
        ("ISO_IR 144", "Опухоль"),
        ("ISO_IR 126", "Όγκος"),
        ("ISO_IR 192", "종양 腫瘍 肿瘤"),
        ("GB18030", "肿瘤"),
        (["", "ISO 2022 IR 87"], "腫瘍"),
        (["", "ISO 2022 IR 149"], "종양"),
    ],
)
def test_roi_names_are_read_in_their_character_set(tmp_path: Path, charset: str | list[str], name: str) -> None:
    dataset = rtstruct(ct_series(8, seed=62))
    dataset.SpecificCharacterSet = charset
    dataset.StructureSetROISequence[0].ROIName = name
    assert facts(dataset, tmp_path).rois[0].name == name


def test_a_name_keeps_64_characters_and_no_control_characters(tmp_path: Path) -> None:
    dataset = rtstruct(ct_series(8, seed=63))
    dataset.StructureSetROISequence[0].ROIName = "GTV\n\x1b[31m"
    assert facts(dataset, tmp_path).rois[0].name.isprintable()
    dataset.StructureSetROISequence[0].add_new("ROIName", "UT", "GTV" + "x" * 60_000)
    assert facts(dataset, tmp_path).rois[0].name == "GTV" + "x" * 61


def test_contour_points_are_stepped_over_and_not_parsed(tmp_path: Path) -> None:
    dataset = rtstruct(ct_series(8, seed=64))
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [1.25, -3.5, 7.125] * 1000
    contour.NumberOfContourPoints = 1000
    dataset.ROIContourSequence[0].ContourSequence = [contour] * 100
    path = save(dataset, tmp_path)
    taken, found = cpu.seconds_of(lambda: read(path, DIGEST), enough=5.0)
    assert found.rois[0].contours == 100
    assert taken < 5.0


def test_the_phantom_is_read_as_it_is() -> None:
    images = sorted(shared("data", "ibsi_1_ct_phantom", "dicom", "image").glob("*.dcm"))
    (mask,) = shared("data", "ibsi_1_ct_phantom", "dicom", "mask").glob("*.dcm")
    ct = [read(path, DIGEST) for path in images]
    contour = read(mask, DIGEST)
    assert {one.sop_instance_uid for one in ct} == set(contour.referenced_sop_instance_uids)
    assert len(ct) == 60
    assert [(roi.name, roi.contours) for roi in contour.rois] == [("GTV-1", 26)]
    assert {one.frame_of_reference_uid for one in ct} == {contour.frame_of_reference_uid}
    assert {(one.geometry.rows, one.geometry.columns, one.rescale) for one in ct} == {(201, 204, True)}


@pytest.mark.parametrize("folder", ["CT", "PET", "MR_T1"])
def test_each_contour_of_the_soft_tissue_study_references_its_own_series_alone(folder: str) -> None:
    images = [read(path, DIGEST) for path in sorted(shared("data", "sts_005", folder, "image").iterdir())]
    (mask,) = shared("data", "sts_005", folder, "mask").iterdir()
    contour = read(mask, DIGEST)
    assert set(contour.referenced_series_instance_uids) == {one.series_instance_uid for one in images}
    # The images were cropped and got new SOP Instance UIDs, so the contours name images that nobody has.
    assert not {one.sop_instance_uid for one in images} & set(contour.referenced_sop_instance_uids)
    assert contour.referenced_sop_class_uids == (images[0].sop_class_uid,)

"""Contours to voxels: the pixel-centre rule, what is flagged, and what is refused."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from analysis.contract import NotScorable, Reason
from analysis.roi import Mask, RoiMask, mask_from_rtstruct
from analysis.volume import Volume, read_ct
from tests.paths import shared
from tests.synthetic import ball_mask, ct_series, item_of, oblique, rtstruct, sagittal, save, save_all
from tests.volumes import volume_of

Points = NDArray[np.float64]
GRID = volume_of(np.zeros((6, 20, 20)), (3.0, 1.0, 1.0))  # index and mm agree within a slice


def ring(points: list[tuple[float, float]], k: float = 2) -> Points:
    """(row, column) pairs on slice k of GRID as LPS mm."""
    return np.array([(column, row, 3.0 * k) for row, column in points])


def box(low: float, high: float, k: float = 2) -> Points:
    return ring([(low, low), (low, high), (high, high), (high, low)], k)


def structure(contours: list[Any], kind: str = "CLOSED_PLANAR", frame: str | None = "1.2.3") -> Dataset:
    """The least that an RTSTRUCT needs to be one; contours are (n, 3) arrays or raw ContourData."""
    dataset = Dataset()
    dataset.StructureSetROISequence = [item_of(ROINumber=1)]
    if frame is not None:
        dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = frame
    items = [
        item_of(ContourGeometricType=kind, ContourData=[f"{v:.6g}" for v in np.ravel(points)])
        if isinstance(points, np.ndarray)
        else item_of(ContourGeometricType=kind, ContourData=points)
        for points in contours
    ]
    dataset.ROIContourSequence = [item_of(ReferencedROINumber=1, ContourSequence=items)]
    return dataset


def rasterised(*contours: Any, volume: Volume = GRID) -> RoiMask:
    return mask_from_rtstruct(structure(list(contours)), [1], "single", volume)


def refusal(dataset: Dataset | Path, volume: Volume = GRID, numbers: tuple[int, ...] = (1,)) -> NotScorable:
    with pytest.raises(NotScorable) as caught:
        mask_from_rtstruct(dataset, numbers, "single", volume)
    return caught.value


def codes(mask: RoiMask) -> set[str]:
    return {item.code for item in mask.flags}


def plane(mask: RoiMask, k: int = 2) -> Mask:
    assert not np.delete(mask.array, k, axis=0).any()
    array: Mask = mask.array[k]
    return array


# The rule ---------------------------------------------------------------------------------------------------


def test_the_ibsi_phantom_contour_gives_its_reference_mask_voxel_for_voxel() -> None:
    folder = shared("data", "ibsi_1_ct_phantom")
    volume = read_ct(sorted((folder / "dicom" / "image").iterdir()))
    mask = mask_from_rtstruct(next((folder / "dicom" / "mask").iterdir()), [1], "single", volume)
    reference = np.asarray(nibabel.load(folder / "nifti" / "mask" / "mask.nii.gz").dataobj).T > 0
    assert np.count_nonzero(reference) == 125_256
    assert np.count_nonzero(mask.array != reference) == 0
    assert mask.flags == ()
    facts = mask.facts(volume)
    assert (facts.voxels, facts.slices, facts.largest_slice) == (125_256, 26, 23)
    assert facts.volume_ml == pytest.approx(358.68, abs=0.01)


def test_a_contour_through_pixel_centres_keeps_them_all() -> None:
    assert np.count_nonzero(plane(rasterised(box(4, 9)))) == 36


def test_a_contour_between_pixel_centres_keeps_those_inside() -> None:
    mask = plane(rasterised(box(3.5, 9.5)))
    assert mask[4:10, 4:10].all()
    assert np.count_nonzero(mask) == 36


def test_there_is_no_half_pixel_offset() -> None:
    assert np.argwhere(plane(rasterised(box(6.9, 7.1)))).tolist() == [[7, 7]]


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 30), st.floats(2, 8), st.floats(6, 13), st.floats(6, 13), st.integers(0, 10_000))
def test_any_star_shaped_contour_holds_the_centres_that_an_even_odd_count_finds(
    corners: int, reach: float, row: float, column: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    turn = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(1, reach, corners)
    points = np.round(np.stack([row + radius * np.sin(turn), column + radius * np.cos(turn)], axis=1), 3) + 0.0004
    # the corner pixel keeps the mask from being empty, which would be refused
    mask = plane(rasterised(ring([tuple(point) for point in points]), box(18.6, 19.4)))
    assert mask[19, 19]
    mask[19, 19] = False
    assert np.array_equal(mask, even_odd(points))


def even_odd(points: Points) -> Mask:
    """Crossings of a ray from each pixel centre, counted one edge at a time; another route to the same rule."""
    rows, columns = np.mgrid[:20, :20]
    inside = np.zeros((20, 20), bool)
    for (r0, c0), (r1, c1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        straddles = (r0 > rows) != (r1 > rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= straddles & (columns < c0 + (rows - r0) * (c1 - c0) / (r1 - r0))
    return inside


def test_a_contour_inside_another_is_a_hole_in_either_order() -> None:
    for order in ((box(3.5, 12.5), box(5.5, 8.5)), (box(5.5, 8.5), box(3.5, 12.5))):
        mask = rasterised(*order)
        assert np.count_nonzero(plane(mask)) == 81 - 9


def test_the_hole_inside_a_hole_is_filled_again() -> None:
    mask = plane(rasterised(box(1.5, 16.5), box(4.5, 13.5), box(7.5, 9.5)))
    assert np.count_nonzero(mask) == 15 * 15 - 9 * 9 + 2 * 2


def test_a_keyhole_contour_leaves_its_hole_open() -> None:
    outer = [(3.5, 3.5), (3.5, 12.5), (12.5, 12.5), (12.5, 3.5), (3.5, 3.5)]
    inner = [(5.5, 5.5), (8.5, 5.5), (8.5, 8.5), (5.5, 8.5), (5.5, 5.5)]
    mask = rasterised(ring([*outer, *inner, (3.5, 3.5)]))
    assert np.count_nonzero(plane(mask)) == 81 - 9
    assert mask.flags == ()


def test_two_separate_contours_of_a_slice_are_both_taken() -> None:
    mask = rasterised(box(1.5, 4.5), box(10.5, 15.5))
    assert np.count_nonzero(plane(mask)) == 9 + 25
    assert mask.flags == ()


def test_overlapping_contours_are_flagged() -> None:
    mask = rasterised(box(1.5, 8.5), box(5.5, 12.5))
    assert codes(mask) == {"CONTOURS_OVERLAP"}
    assert np.count_nonzero(plane(mask)) == 2 * 49 - 2 * 9


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(lambda points: points, id="the same"),
        pytest.param(lambda points: points[::-1], id="the other way round"),
        pytest.param(lambda points: np.roll(points, 2, axis=0), id="begun elsewhere"),
        pytest.param(lambda points: np.vstack([points, points[:1]]), id="closed"),
        pytest.param(lambda points: points + 0.001, id="other decimals"),
    ],
)
def test_a_contour_that_is_there_twice_counts_once_and_is_flagged(again: Any) -> None:
    mask = rasterised(box(3.51, 12.51), again(box(3.51, 12.51)))
    assert np.count_nonzero(plane(mask)) == 81
    assert codes(mask) == {"CONTOUR_REPEATED"}


def test_the_same_outline_on_two_slices_is_no_repetition() -> None:
    mask = rasterised(box(3.5, 12.5), box(3.5, 12.5, k=3))
    assert np.count_nonzero(mask.array) == 162
    assert mask.flags == ()


def test_a_sliver_drops_no_slice_and_no_other_contour() -> None:
    sliver = ring([(15.3, 3), (15.3, 9), (15.42, 9), (15.42, 3)])
    mask = rasterised(box(3.5, 9.5), sliver)
    assert np.count_nonzero(plane(mask)) == 36
    assert codes(mask) == {"CONTOUR_WITHOUT_VOXEL"}


def test_an_xor_contour_is_a_closed_contour() -> None:
    dataset = structure([box(3.5, 12.5), box(5.5, 8.5)], kind="CLOSEDPLANAR_XOR")
    assert np.count_nonzero(mask_from_rtstruct(dataset, [1], "single", GRID).array) == 72


# Slices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrange", [list, sagittal, oblique])
def test_contours_find_their_slice_in_any_orientation(arrange: Any, tmp_path: Path) -> None:
    ct = arrange(ct_series(10, 30, 32, (0.8, 0.9), 2.0, seed=2))
    volume = read_ct(save_all(ct, tmp_path))
    mask = mask_from_rtstruct(rtstruct(ct, radius=7.0), [1], "single", volume).array
    order = [[instance.SOPInstanceUID for instance in ct].index(uid) for uid in volume.sop_instance_uids]
    ball = ball_mask(ct, radius=7.0)[order]
    # the ball is drawn as a 48-gon: it may lose voxels at the rim, a few per slice, but gain none
    assert not (mask & ~ball).any()
    assert np.count_nonzero(ball & ~mask) < 0.05 * np.count_nonzero(ball)


def test_contour_image_references_are_not_needed(tmp_path: Path) -> None:
    ct = ct_series(8, 30, 32, seed=2)
    volume = read_ct(save_all(ct, tmp_path))
    bare = rtstruct(ct, radius=7.0, series_level_references=False, contour_level_references=False)
    full = rtstruct(ct, radius=7.0)
    masks = [mask_from_rtstruct(source, [1], "single", volume).array for source in (bare, full)]
    assert np.array_equal(*masks)


def test_a_contour_a_little_off_its_slice_is_moved_onto_it_with_a_flag() -> None:
    mask = rasterised(box(3.5, 9.5, k=2.2))
    assert plane(mask).any()
    assert codes(mask) == {"CONTOUR_OFF_PLANE"}
    assert codes(rasterised(box(3.5, 9.5, k=2.03))) == set()


def test_a_contour_between_two_slices_is_refused() -> None:
    assert refusal(structure([box(3.5, 9.5, k=2.5)])).reason is Reason.ROI_GEOMETRY_UNSUPPORTED


def test_contours_of_two_planes_never_meet_on_one_slice() -> None:
    """Drawn on 1.5 mm slices and rasterised on 3 mm ones, even-odd would cancel them."""
    answer = refusal(structure([box(3.5, 9.5, k=1.9), box(3.5, 9.5, k=2.1)]))
    assert answer.reason is Reason.ROI_GEOMETRY_UNSUPPORTED


def test_a_contour_that_is_not_parallel_to_the_slices_is_refused() -> None:
    tilted = box(3.5, 9.5)
    tilted[:2, 2] += 2.0
    answer = refusal(structure([tilted]))
    assert answer.reason is Reason.ROI_GEOMETRY_UNSUPPORTED
    assert "2.0 mm across" in answer.detail


def test_a_gap_between_contours_is_flagged_and_not_filled() -> None:
    mask = rasterised(box(3.5, 9.5, k=1), box(3.5, 9.5, k=2), box(3.5, 9.5, k=5))
    assert [int(part.sum()) for part in mask.array] == [0, 36, 36, 0, 0, 36]
    assert codes(mask) == {"ROI_GAP"}
    assert "2 slices" in mask.flags[0].text


# The edge of the image --------------------------------------------------------------------------------------


@pytest.mark.parametrize("outside", [box(3.5, 9.5, k=7), box(3.5, 9.5, k=-1), box(30, 40), box(-20, -5)])
def test_contours_outside_the_image_are_left_out_with_a_flag(outside: Points) -> None:
    mask = rasterised(box(3.5, 9.5), outside)
    assert np.count_nonzero(plane(mask)) == 36
    assert codes(mask) == {"CONTOUR_OUTSIDE_IMAGE"}
    assert refusal(structure([outside])).reason is Reason.ROI_OUTSIDE_IMAGE


def test_a_contour_over_the_edge_is_cut_there_with_a_flag() -> None:
    mask = rasterised(box(14.5, 25))
    assert np.count_nonzero(plane(mask)) == 25
    assert codes(mask) == {"CONTOUR_CUT_BY_IMAGE_EDGE"}


def test_a_contour_of_a_million_pixels_across_costs_no_memory_of_that_size() -> None:
    assert np.count_nonzero(plane(rasterised(box(-5e5, 5e5)))) == 400


# What is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR", ""])
def test_contours_that_are_not_closed_are_refused(kind: str) -> None:
    assert refusal(structure([box(3.5, 9.5)], kind)).reason is Reason.ROI_GEOMETRY_UNSUPPORTED


def test_contours_of_fewer_than_three_points_are_left_out_with_a_flag() -> None:
    two = ring([(1, 1), (5, 5)])
    mask = rasterised(box(3.5, 9.5), two, two[:1])
    assert np.count_nonzero(plane(mask)) == 36
    assert codes(mask) == {"CONTOUR_WITHOUT_AREA"}
    assert refusal(structure([two])).reason is Reason.ROI_EMPTY
    assert refusal(structure([[]])).reason is Reason.ROI_EMPTY


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_a_coordinate_that_is_no_number_is_refused(bad: str) -> None:
    points = ["1", "1", "6", "1", "5", "6", "5", bad, "6"]
    assert refusal(structure([points])).reason is Reason.ROI_UNREADABLE


def test_coordinates_that_are_not_triples_are_refused() -> None:
    assert refusal(structure([["1", "1", "6", "1"]])).reason is Reason.ROI_UNREADABLE


def test_garbage_in_the_coordinates_of_a_file_is_refused(tmp_path: Path) -> None:
    ct = ct_series(8, 30, 32, seed=2)
    path = save(rtstruct(ct), tmp_path)
    item = dcmread(path).ROIContourSequence[0].ContourSequence[0]
    text = "\\".join(str(v) for v in item.ContourData).encode()[:40]
    damaged = path.read_bytes().replace(text, b"x" * 40)
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    assert refusal(path, read_ct(save_all(ct, tmp_path / "ct"))).reason is Reason.ROI_UNREADABLE


@pytest.mark.filterwarnings("ignore:The value for the data element .3006,0050. exceeds")  # is the point
def test_a_contour_of_more_points_than_an_explicit_length_can_hold_is_read(tmp_path: Path) -> None:
    """Over 65,534 bytes of DS are written as UN: 20,000 points are ten times that."""
    ct = ct_series(4, 40, 40, (1.0, 1.0), 3.0, seed=2, radius=5.0)
    volume = read_ct(save_all(ct, tmp_path / "ct"))
    turn = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    centre = volume.affine[:3] @ (1, 20, 20, 1)
    circle = np.stack([centre[0] + 8.2 * np.cos(turn), centre[1] + 8.2 * np.sin(turn), np.full(20_000, centre[2])], 1)
    path = save(rtstruct(ct, contours=[circle]), tmp_path)
    raw = dcmread(path).ROIContourSequence[0].ContourSequence[0].get_item("ContourData")
    assert raw.length > 65_534
    mask = mask_from_rtstruct(path, [1], "single", volume).array
    rows, columns = np.mgrid[:40, :40]
    assert np.array_equal(mask[1], (rows - 20) ** 2 + (columns - 20) ** 2 <= 8.2**2)


def test_more_points_than_any_hand_draws_are_refused() -> None:
    many = np.tile(box(3.5, 9.5), (500_001, 1))
    dataset = structure([])
    contour = item_of(ContourGeometricType="CLOSED_PLANAR")
    text = ("\\".join(f"{v:g}" for v in many[:4].ravel()) + "\\") * 500_001
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    contour[Tag(0x30060050)] = RawDataElement(
        Tag(0x30060050), "DS", len(text), text.rstrip("\\").encode(), 0, False, True, True
    )
    dataset.ROIContourSequence[0].ContourSequence = [contour]
    answer = refusal(dataset)
    assert (answer.reason, "2000000" in answer.detail) == (Reason.ROI_UNREADABLE, True)


def test_another_frame_of_reference_is_refused() -> None:
    assert refusal(structure([box(3.5, 9.5)], frame="1.2.4")).reason is Reason.ROI_FRAME_OF_REFERENCE_DIFFERS


def test_a_contour_without_frame_of_reference_is_taken_with_a_flag() -> None:
    mask = mask_from_rtstruct(structure([box(3.5, 9.5)], frame=None), [1], "single", GRID)
    assert codes(mask) == {"FRAME_OF_REFERENCE_ASSUMED"}


def test_the_frame_of_reference_of_the_object_stands_in_for_the_regions() -> None:
    dataset = structure([box(3.5, 9.5)], frame=None)
    dataset.ReferencedFrameOfReferenceSequence = [item_of(FrameOfReferenceUID="1.2.4")]
    assert refusal(dataset).reason is Reason.ROI_FRAME_OF_REFERENCE_DIFFERS


def test_a_number_that_is_not_there_is_not_found() -> None:
    assert refusal(structure([box(3.5, 9.5)]), numbers=(7,)).reason is Reason.ROI_NOT_FOUND


def test_a_region_without_contours_is_empty() -> None:
    dataset = structure([])
    del dataset.ROIContourSequence[0].ContourSequence
    assert refusal(dataset).reason is Reason.ROI_EMPTY


def test_a_file_that_is_no_rtstruct_is_refused(tmp_path: Path) -> None:
    ct = ct_series(2, 8, 8, seed=1)
    assert refusal(save(ct[0], tmp_path)).reason is Reason.ROI_UNREADABLE
    junk = tmp_path / "junk.dcm"
    junk.write_bytes(b"junk" * 100)
    assert refusal(junk).reason is Reason.ROI_UNREADABLE
    assert refusal(tmp_path / "absent.dcm").reason is Reason.ROI_UNREADABLE


# Several regions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("combine", "voxels", "numbers"), [("largest", 100, (2,)), ("union", 116, (1, 2)), ("single", 0, ())]
)
def test_several_regions_are_combined_as_the_plan_says(combine: str, voxels: int, numbers: tuple[int, ...]) -> None:
    small, large = structure([box(0.5, 4.5)]), structure([box(7.5, 17.5)])
    large.StructureSetROISequence[0].ROINumber = large.ROIContourSequence[0].ReferencedROINumber = 2
    small.StructureSetROISequence.extend(large.StructureSetROISequence)
    small.ROIContourSequence.extend(large.ROIContourSequence)
    if not voxels:
        assert refusal(small, numbers=(1, 2)).reason is Reason.ROI_AMBIGUOUS
        return
    mask = mask_from_rtstruct(small, [1, 2], combine, GRID)
    assert (np.count_nonzero(mask.array), mask.numbers) == (voxels, numbers)


def test_no_flag_or_refusal_repeats_the_name_of_the_region(tmp_path: Path) -> None:
    ct = ct_series(8, 30, 32, seed=2)
    volume = read_ct(save_all(ct, tmp_path))
    far = np.array([[0, 0, -100], [900, 900, -100], [1, 900, -100]])
    dataset = rtstruct(ct, roi_names=["Jane Doe"], contours=[far])
    try:
        text = str(mask_from_rtstruct(dataset, [1], "single", volume).flags)
    except NotScorable as answer:
        text = str(answer)
    assert "Doe" not in text

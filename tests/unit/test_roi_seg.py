"""SEG to voxels: every kind of segmentation lands on the CT grid voxel for voxel, or is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from analysis.contract import NotScorable, Reason
from analysis.roi import Mask, RoiMask
from analysis.segment import mask_from_seg
from analysis.volume import Volume, read_ct
from tests.synthetic import ball_mask, ct_series, enhanced_ct, jitter, oblique, rtstruct, sagittal, save, save_all, seg

Edit = Callable[[Dataset], None]


@pytest.fixture
def ct() -> list[Dataset]:
    return ct_series(12, 26, 30, (0.9, 0.8), 2.5, seed=6)


@pytest.fixture
def volume(ct: list[Dataset], tmp_path: Path) -> Volume:
    return read_ct(save_all(ct, tmp_path / "ct"))


def read(
    dataset: Dataset, folder: Path, volume: Volume, numbers: tuple[int, ...] = (1,), how: str = "single"
) -> RoiMask:
    return mask_from_seg(save(dataset, folder), numbers, how, volume)


def refusal(dataset: Dataset, folder: Path, volume: Volume, numbers: tuple[int, ...] = (1,)) -> NotScorable:
    with pytest.raises(NotScorable) as caught:
        read(dataset, folder, volume, numbers)
    return caught.value


def shift(dataset: Dataset, mm: float) -> Dataset:
    for group in dataset.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0]
        x, y, z = (float(v) for v in place.ImagePositionPatient)
        place.ImagePositionPatient = [x + mm, y, z]
    return dataset


def without_slice_spacing(dataset: Dataset) -> Dataset:
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    del measures.SpacingBetweenSlices
    measures.SliceThickness = 1.7
    return dataset


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_segment_comes_back_voxel_for_voxel(kind: str, ct: list[Dataset], volume: Volume, tmp_path: Path) -> None:
    ball = ball_mask(ct, radius=8.0)
    mask = read(seg(ct, ball, segmentation_type=kind), tmp_path, volume)
    assert np.array_equal(mask.array, ball)
    assert [item.code for item in mask.flags] == (["SEG_FRACTIONAL"] if kind == "FRACTIONAL" else [])


def test_a_segment_drawn_on_slices_from_head_to_foot_is_not_turned_over(
    ct: list[Dataset], volume: Volume, tmp_path: Path
) -> None:
    ball = ball_mask(ct, radius=8.0)
    ball[:5] = False  # not symmetric along the patient
    assert np.array_equal(read(seg(ct[::-1], ball[::-1]), tmp_path, volume).array, ball)


@pytest.mark.parametrize("arrange", [sagittal, oblique, jitter])
@pytest.mark.parametrize("thickness", [1.0, 2.5])
def test_a_segment_follows_the_orientation_of_its_ct(
    arrange: Callable[[list[Dataset]], list[Dataset]], thickness: float, tmp_path: Path
) -> None:
    ct = arrange(ct_series(12, 26, 30, (0.9, 0.8), thickness, seed=6))
    volume = read_ct(save_all(ct, tmp_path / "ct"))
    ball = ball_mask(ct, radius=8.0)
    ball[7:] = False
    order = [[instance.SOPInstanceUID for instance in ct].index(uid) for uid in volume.sop_instance_uids]
    assert np.array_equal(read(seg(ct, ball), tmp_path, volume).array, ball[order])


def test_a_segment_on_an_enhanced_ct_comes_back_voxel_for_voxel(ct: list[Dataset], tmp_path: Path) -> None:
    multi = enhanced_ct(ct)
    volume = read_ct([save(multi, tmp_path / "ct")])
    assert np.array_equal(read(seg(multi), tmp_path, volume).array, ball_mask(multi))


@pytest.mark.parametrize("slices", [[5], [3, 5, 7], [3, 6], [2, 3, 4, 8], [0], [11]])
@pytest.mark.parametrize("spacing_stated", [True, False])
def test_frames_that_are_left_out_do_not_move_those_that_are_there(
    slices: list[int], spacing_stated: bool, ct: list[Dataset], volume: Volume, tmp_path: Path
) -> None:
    mask: Mask = np.zeros(volume.array.shape, bool)
    mask[slices, 5:9, 6:12] = True
    dataset = seg(ct, mask)
    if not spacing_stated:
        without_slice_spacing(dataset)
    assert np.array_equal(read(dataset, tmp_path, volume).array, mask)


def test_a_fraction_of_one_half_counts_and_less_does_not(ct: list[Dataset], volume: Volume, tmp_path: Path) -> None:
    share = np.zeros(volume.array.shape, np.float32)
    share[4, 4, 4:8] = 0.3, 0.48, 0.5, 0.9
    mask = read(seg(ct, share, segmentation_type="FRACTIONAL"), tmp_path, volume)
    assert np.argwhere(mask.array).tolist() == [[4, 4, 6], [4, 4, 7]]


@pytest.mark.parametrize(("how", "numbers"), [("union", (1, 2)), ("largest", (2,))])
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_several_segments_are_combined_as_the_plan_says(
    how: str, numbers: tuple[int, ...], kind: str, ct: list[Dataset], volume: Volume, tmp_path: Path
) -> None:
    first, second = ball_mask(ct, radius=3.0), ball_mask(ct, radius=8.0) & ~ball_mask(ct, radius=3.0)
    dataset = seg(ct, np.stack([first, second], axis=-1), labels=("a", "b"), segmentation_type=kind)
    mask = read(dataset, tmp_path, volume, (1, 2), how)
    assert mask.numbers == numbers
    assert np.array_equal(mask.array, first | second if how == "union" else second)
    assert refusal(dataset, tmp_path, volume, (1, 2)).reason is Reason.ROI_AMBIGUOUS


def test_an_absent_segment_number_is_not_found(ct: list[Dataset], volume: Volume, tmp_path: Path) -> None:
    assert refusal(seg(ct), tmp_path, volume, (3,)).reason is Reason.ROI_NOT_FOUND


@pytest.mark.filterwarnings("ignore:Encoding an empty segmentation")
def test_an_empty_segment_is_refused(ct: list[Dataset], volume: Volume, tmp_path: Path) -> None:
    empty = seg(ct, np.zeros(volume.array.shape, bool))
    assert refusal(empty, tmp_path, volume).reason is Reason.ROI_EMPTY


def test_a_segment_of_another_frame_of_reference_is_refused(ct: list[Dataset], volume: Volume, tmp_path: Path) -> None:
    assert refusal(seg(ct, FrameOfReferenceUID="1.2.4"), tmp_path, volume).reason is (
        Reason.ROI_FRAME_OF_REFERENCE_DIFFERS
    )


def test_a_segment_outside_the_image_is_refused(ct: list[Dataset], volume: Volume, tmp_path: Path) -> None:
    assert refusal(shift(seg(ct), 800), tmp_path, volume).reason is Reason.ROI_OUTSIDE_IMAGE


@pytest.mark.parametrize("mm", [0.4, 0.2])
def test_a_segment_that_lies_between_the_voxels_is_refused(
    mm: float, ct: list[Dataset], volume: Volume, tmp_path: Path
) -> None:
    assert refusal(shift(seg(ct), mm), tmp_path, volume).reason is Reason.ROI_GEOMETRY_UNSUPPORTED


def test_a_segment_of_finer_pixels_is_refused_not_thinned_out(
    ct: list[Dataset], volume: Volume, tmp_path: Path
) -> None:
    dataset = seg(ct)
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.45, 0.4]
    assert refusal(dataset, tmp_path, volume).reason is Reason.ROI_GEOMETRY_UNSUPPORTED


def test_a_segment_on_turned_axes_is_refused(ct: list[Dataset], volume: Volume, tmp_path: Path) -> None:
    turned = oblique(ct, 3.0)
    dataset = seg(turned, FrameOfReferenceUID=ct[0].FrameOfReferenceUID)
    assert refusal(dataset, tmp_path, volume).reason is Reason.ROI_GEOMETRY_UNSUPPORTED


def test_what_is_no_segmentation_is_refused(ct: list[Dataset], volume: Volume, tmp_path: Path) -> None:
    assert refusal(rtstruct(ct), tmp_path, volume).reason is Reason.ROI_UNREADABLE
    assert refusal(ct[0], tmp_path, volume).reason is Reason.ROI_UNREADABLE

"""CT files to a volume: pixels, Hounsfield units, order and place, and what cannot be decoded."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from analysis.contract import NotScorable, Reason
from analysis.volume import keep_room, read_ct
from tests.paths import shared
from tests.synthetic import (
    INTERCEPT,
    ct_series,
    enhanced_ct,
    item_of,
    oblique,
    rtstruct,
    sagittal,
    save,
    save_all,
    shuffled,
    voxel_centres,
)


@pytest.fixture
def ct() -> list[Dataset]:
    return ct_series(6, 20, 24, (0.7, 0.9), 2.5, seed=3)


def stored(ct: list[Dataset]) -> np.ndarray:
    return np.stack([np.frombuffer(instance.PixelData, "<u2").reshape(20, 24) for instance in ct]).astype(float)


def refusal(paths: list[Path]) -> NotScorable:
    with pytest.raises(NotScorable) as caught:
        read_ct(paths)
    return caught.value


def test_stored_values_become_hounsfield_units_in_slice_order(ct: list[Dataset], tmp_path: Path) -> None:
    volume = read_ct(shuffled(save_all(ct, tmp_path), seed=1))
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, stored(ct) + INTERCEPT)
    assert volume.sop_instance_uids == tuple(instance.SOPInstanceUID for instance in ct)
    assert volume.spacing == pytest.approx((2.5, 0.7, 0.9))
    assert (volume.slice_thickness, volume.convolution_kernel, volume.contrast) == (2.5, "B30f", False)


@pytest.mark.parametrize("half", [0.0, 0.5])
@pytest.mark.parametrize("most", [100, 4096, 1 << 40])
def test_room_that_was_kept_changes_no_value_and_serves_one_volume(
    half: float, most: int, ct: list[Dataset], tmp_path: Path
) -> None:
    for instance in ct:
        instance.RescaleIntercept = INTERCEPT + half
    paths = save_all(ct, tmp_path)
    keep_room(most, (lambda: True) if half else (lambda: False))  # wanted at once, and not before it is touched
    first, second = read_ct(paths).array, read_ct(paths).array
    assert first.dtype == second.dtype == (np.float32 if half else np.int16)
    assert first.flags.c_contiguous
    assert first.flags.aligned
    assert np.array_equal(first, stored(ct) + INTERCEPT + half)
    assert np.array_equal(second, first)
    assert not np.may_share_memory(first, second)


def test_an_intercept_and_slope_that_vary_by_slice_are_applied_by_slice(ct: list[Dataset], tmp_path: Path) -> None:
    for k, instance in enumerate(ct):
        instance.RescaleIntercept, instance.RescaleSlope = -1000 - k, 1 + k / 4
    slopes = 1 + np.arange(6) / 4
    wanted = stored(ct) * slopes[:, None, None] - 1000 - np.arange(6)[:, None, None]
    assert np.allclose(read_ct(save_all(ct, tmp_path)).array, wanted, atol=1e-3)


@pytest.mark.parametrize("arrange", [list, sagittal, oblique])
def test_each_voxel_lies_where_the_headers_put_it(ct: list[Dataset], tmp_path: Path, arrange: object) -> None:
    series = arrange(ct)  # type: ignore[operator]
    volume = read_ct(save_all(series, tmp_path))
    order = [[instance.SOPInstanceUID for instance in series].index(uid) for uid in volume.sop_instance_uids]
    centres = voxel_centres(series)[order]
    index = np.argwhere(np.ones(volume.array.shape))
    assert np.allclose(volume.to_index(centres.reshape(-1, 3)), index, atol=1e-4)
    assert np.linalg.det(volume.direction[:, ::-1]) == pytest.approx(1)
    assert np.allclose((volume.affine @ (5, 19, 23, 1))[:3], centres[-1, -1, -1], atol=1e-4)


def test_an_enhanced_ct_gives_the_volume_of_the_series_it_was_made_of(ct: list[Dataset], tmp_path: Path) -> None:
    single = read_ct(save_all(ct, tmp_path / "single"))
    multi = read_ct([save(enhanced_ct(ct[::-1]), tmp_path)])
    assert np.array_equal(multi.array, single.array)
    assert multi.frame_numbers == (6, 5, 4, 3, 2, 1)
    assert len(set(multi.sop_instance_uids)) == 1
    assert np.array_equal(multi.origin, single.origin)


def test_frames_of_a_perfusion_enhanced_ct_are_several_acquisitions(ct: list[Dataset], tmp_path: Path) -> None:
    twice = enhanced_ct([*ct, *ct])
    assert refusal([save(twice, tmp_path)]).reason is Reason.SEVERAL_ACQUISITIONS


def test_an_enhanced_ct_with_rescale_per_frame_uses_each(ct: list[Dataset], tmp_path: Path) -> None:
    multi = enhanced_ct(ct)
    del multi.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    for k, group in enumerate(multi.PerFrameFunctionalGroupsSequence):
        group.PixelValueTransformationSequence = [item_of(RescaleIntercept=-1000 - k, RescaleSlope=1, RescaleType="HU")]
    array = read_ct([save(multi, tmp_path)]).array
    assert np.array_equal(array, stored(ct) - 1000 - np.arange(6)[:, None, None])


def test_rle_compressed_pixels_are_decoded(ct: list[Dataset], tmp_path: Path) -> None:
    plain = read_ct(save_all(ct, tmp_path / "plain"))
    packed = read_ct([save(instance, tmp_path / "rle", RLELossless) for instance in ct])
    assert np.array_equal(packed.array, plain.array)


def test_a_transfer_syntax_without_a_decoder_is_named(ct: list[Dataset], tmp_path: Path) -> None:
    path = save(ct[2], tmp_path / "odd", RLELossless)
    packed = dcmread(path)
    packed.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"  # HTJ2K: nothing installed decodes it
    packed.save_as(path, enforce_file_format=True)
    answer = refusal([*save_all([*ct[:2], *ct[3:]], tmp_path), path])
    assert answer.reason is Reason.PIXEL_DATA_UNDECODABLE
    assert "High-Throughput" in answer.detail


def test_damaged_compressed_pixels_are_refused(ct: list[Dataset], tmp_path: Path) -> None:
    path = save(ct[2], tmp_path / "odd", RLELossless)
    packed = dcmread(path)
    packed.file_meta.TransferSyntaxUID = JPEG2000Lossless
    packed.save_as(path, enforce_file_format=True)
    answer = refusal([*save_all([*ct[:2], *ct[3:]], tmp_path), path])
    assert answer.reason is Reason.PIXEL_DATA_UNDECODABLE


@pytest.mark.parametrize("cut", [1, 100, 960, 2000])
def test_truncated_pixel_data_is_refused_with_its_own_reason(ct: list[Dataset], tmp_path: Path, cut: int) -> None:
    paths = save_all(ct, tmp_path)
    data = paths[3].read_bytes()
    paths[3].write_bytes(data[: -min(cut, 960)])
    assert refusal(paths).reason is Reason.PIXEL_DATA_TRUNCATED


def test_a_matrix_size_that_the_pixel_data_cannot_fill_is_refused(ct: list[Dataset], tmp_path: Path) -> None:
    for instance in ct:
        instance.Rows = instance.Columns = 65_535
    assert refusal(save_all(ct, tmp_path)).reason in (Reason.PIXEL_DATA_UNDECODABLE, Reason.PIXEL_DATA_TRUNCATED)


def test_an_image_without_pixel_data_is_refused(ct: list[Dataset], tmp_path: Path) -> None:
    del ct[3].PixelData
    assert refusal(save_all(ct, tmp_path)).reason in (Reason.PIXEL_DATA_UNDECODABLE, Reason.PIXEL_DATA_TRUNCATED)


def test_a_file_that_is_not_dicom_is_refused(ct: list[Dataset], tmp_path: Path) -> None:
    paths = save_all(ct, tmp_path)
    paths[0].write_bytes(b"not DICOM at all" * 40)
    assert refusal(paths).reason is Reason.PIXEL_DATA_UNDECODABLE


def test_an_object_of_another_modality_in_the_series_is_refused(ct: list[Dataset], tmp_path: Path) -> None:
    assert refusal(save_all([*ct, rtstruct(ct)], tmp_path)).reason is Reason.ROI_REFERENCES_NOT_CT


def test_the_real_phantom_is_read_in_patient_order() -> None:
    folder = shared("data", "ibsi_1_ct_phantom", "dicom", "image")
    volume = read_ct(sorted(folder.iterdir()))
    assert volume.array.shape == (60, 201, 204)
    assert (volume.array.min(), volume.array.max()) == (-1000, 3065)
    assert volume.spacing == pytest.approx((3, 0.977, 0.977))
    assert volume.origin[2] == pytest.approx(-100.4)

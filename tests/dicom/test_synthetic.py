"""The objects that other tests stand on: clean by dciodvfy, the same from the same arguments, defective as said."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from tests.synthetic import (
    DEFECTS,
    ball_mask,
    ct_series,
    enhanced_ct,
    jitter,
    oblique,
    rtstruct,
    sagittal,
    save,
    seg,
    shuffled,
)

CT = ct_series(seed=1)
OBJECTS = {
    "ct": CT[0],
    "enhanced ct": enhanced_ct(CT),
    "rtstruct": rtstruct(CT, roi_names=("GTV-1", "Heart"), interpreted_types=("GTV", "ORGAN")),
    "rtstruct on enhanced ct": rtstruct(enhanced_ct(CT)),
    "rtstruct without references": rtstruct(CT, series_level_references=False, contour_level_references=False),
    "binary seg": seg(CT, labels=("GTV-1", "Heart")),
    "fractional seg": seg(CT, segmentation_type="FRACTIONAL"),
    "seg on enhanced ct": seg(enhanced_ct(CT)),
}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not here (Debian: dicom3tools)")
@pytest.mark.parametrize("name", OBJECTS)
def test_base_objects_are_clean(name: str, tmp_path: Path) -> None:
    path = save(OBJECTS[name], tmp_path)
    done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Warning"))] == []
    assert done.returncode == 0


@pytest.mark.parametrize(
    "build",
    [
        lambda: ct_series(seed=1)[3],
        lambda: enhanced_ct(CT),
        lambda: rtstruct(CT),
        lambda: seg(CT),
        lambda: seg(CT, segmentation_type="LABELMAP"),
    ],
)
def test_the_same_arguments_give_the_same_bytes(build: Callable[[], Dataset], tmp_path: Path) -> None:
    assert save(build(), tmp_path / "1").read_bytes() == save(build(), tmp_path / "2").read_bytes()


def test_another_seed_is_another_patient_study_and_series() -> None:
    other = ct_series(seed=2)[0]
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PixelData"):
        assert other[keyword].value != CT[0][keyword].value


def test_arguments_reach_the_objects() -> None:
    name = "Ιωάννης^Α"
    ct = ct_series(seed=1, patient_name=name, patient_id="X", character_set="ISO_IR 192", PatientSex="M", KVP=80)
    for dataset in (ct[0], rtstruct(ct), seg(ct)):
        assert (str(dataset.PatientName), dataset.PatientID, dataset.PatientSex) == (name, "X", "M")
    assert ct[0].KVP == 80


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_segmentation_holds_the_ball(kind: str, tmp_path: Path) -> None:
    volume = hd.get_volume_from_series(CT)
    read = hd.seg.segread(save(seg(CT, segmentation_type=kind), tmp_path))
    mask = read.get_volume(combine_segments=kind != "FRACTIONAL").match_geometry(volume).array.squeeze()
    expected = ball_mask(CT)[::-1]  # highdicom's volumes may run against the order of the slices
    assert np.array_equal(mask > 0.5, expected)
    assert expected.sum() > 1500


def test_the_ball_is_soft_tissue_in_lung() -> None:
    hu = np.stack([dataset.pixel_array.astype(int) + dataset.RescaleIntercept for dataset in CT])
    inside = ball_mask(CT)
    assert 20 < hu[inside].mean() < 60
    assert 25 < hu[inside].std() < 60
    assert -870 < hu[~inside].mean() < -830


def test_an_enhanced_ct_has_the_pixels_of_its_series(tmp_path: Path) -> None:
    volume = hd.imread(save(enhanced_ct(CT), tmp_path)).get_volume()
    series = hd.get_volume_from_series(CT)
    assert np.array_equal(volume.array, series.array)
    assert np.array_equal(volume.affine, series.affine)


@pytest.mark.parametrize("name", DEFECTS)
def test_highdicom_refuses_each_defect_but_the_missing_rescale(name: str) -> None:
    series = DEFECTS[name](CT)
    if name == "without rescale":
        assert "RescaleSlope" not in series[0]
        hd.get_volume_from_series(series)
    else:
        with pytest.raises(ValueError, match=r"regularly-spaced|same orientation|same spacing"):
            hd.get_volume_from_series(series)


@pytest.mark.parametrize("change", [jitter, oblique, sagittal])
def test_highdicom_accepts_what_is_no_defect_of_geometry(change: Callable[[list[Dataset]], list[Dataset]]) -> None:
    assert hd.get_volume_from_series(change(CT)).array.shape == (12, 32, 32)


def test_defects_leave_the_series_given_alone() -> None:
    before = [dataset.to_json() for dataset in CT]
    for defect in DEFECTS.values():
        defect(CT)
    assert [dataset.to_json() for dataset in CT] == before


def test_a_compressed_file_has_the_same_pixels(tmp_path: Path) -> None:
    read = pydicom.dcmread(save(CT[0], tmp_path, RLELossless))
    assert read.file_meta.TransferSyntaxUID == RLELossless
    assert np.array_equal(read.pixel_array, CT[0].pixel_array)
    assert read.SOPInstanceUID == CT[0].SOPInstanceUID


def test_shuffling_depends_on_the_seed_alone() -> None:
    order: list[Dataset] = shuffled(CT, 1)
    assert order == shuffled(CT, 1) != shuffled(CT, 2)
    assert sorted(dataset.InstanceNumber for dataset in order) == list(range(1, 13))

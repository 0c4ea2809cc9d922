"""The geometry gate: each defect has its reason, and harmless oddities pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from analysis.contract import NotScorable, Reason
from analysis.volume import read_ct
from tests.synthetic import DEFECTS, ct_series, drop_slice, gantry_tilt, jitter, oblique, sagittal, save_all, uneven_gap

WANTED = {
    "missing slice": Reason.MISSING_SLICE,
    "duplicate position": Reason.DUPLICATE_POSITION,
    "uneven gap": Reason.UNEVEN_SLICE_SPACING,
    "gantry tilt": Reason.GANTRY_TILT,
    "localizer": Reason.LOCALIZER_IN_SERIES,
    "two phases": Reason.SEVERAL_ACQUISITIONS,
    "other pixel spacing": Reason.PIXEL_SPACING_DIFFERS,
    "without rescale": Reason.RESCALE_MISSING,
}


@pytest.fixture
def ct() -> list[Dataset]:
    return ct_series(8, 12, 12, seed=4)


def refusal(series: list[Dataset], folder: Path) -> NotScorable:
    with pytest.raises(NotScorable) as caught:
        read_ct(save_all(series, folder))
    return caught.value


def test_every_defect_of_the_builder_has_a_reason_here() -> None:
    assert set(DEFECTS) == set(WANTED)


@pytest.mark.parametrize("name", sorted(WANTED))
@pytest.mark.parametrize("backwards", [False, True])
def test_a_defective_series_is_refused_with_its_reason(
    ct: list[Dataset], tmp_path: Path, name: str, backwards: bool
) -> None:
    series = DEFECTS[name](ct)
    assert refusal(series[::-1] if backwards else series, tmp_path).reason is WANTED[name]


@pytest.mark.parametrize("thickness", [0.6, 1.0, 3.0, 5.0])
@pytest.mark.parametrize("arrange", [jitter, sagittal, oblique], ids=lambda arrange: str(arrange.__name__))
def test_harmless_geometry_passes(arrange: Callable[[Any], Any], thickness: float, tmp_path: Path) -> None:
    volume = read_ct(save_all(arrange(ct_series(8, 12, 12, thickness=thickness, seed=4)), tmp_path))
    assert volume.spacing[0] == pytest.approx(thickness, abs=0.005)


@pytest.mark.parametrize("thickness", [0.6, 1.0, 5.0])
def test_a_missing_slice_is_found_at_any_thickness(thickness: float, tmp_path: Path) -> None:
    series = drop_slice(ct_series(8, 12, 12, thickness=thickness, seed=4))
    answer = refusal(series, tmp_path)
    assert answer.reason is Reason.MISSING_SLICE
    assert f"{2 * thickness:.2f} mm between slices 4 and 5" in answer.detail


@pytest.mark.parametrize("extra", [0.2, 0.5, 1.4])
def test_a_gap_that_is_no_whole_slice_is_uneven(ct: list[Dataset], tmp_path: Path, extra: float) -> None:
    assert refusal(uneven_gap(ct, extra), tmp_path).reason is Reason.UNEVEN_SLICE_SPACING


def test_slices_that_drift_slowly_are_uneven(tmp_path: Path) -> None:
    ct = ct_series(60, 8, 8, thickness=1.0, seed=4)
    for k, instance in enumerate(ct):
        x, y, z = instance.ImagePositionPatient
        instance.ImagePositionPatient = [x, y, float(z) + 0.02 * max(k - 30, 0)]
    answer = refusal(ct, tmp_path)
    assert answer.reason is Reason.UNEVEN_SLICE_SPACING
    assert "drift" in answer.detail


def test_a_tilt_too_small_to_shift_half_a_pixel_passes(ct: list[Dataset], tmp_path: Path) -> None:
    assert read_ct(save_all(gantry_tilt(ct, 0.5), tmp_path)).array.shape[0] == 8


@pytest.mark.parametrize("degrees", [2.0, -2.0, 25.0])
def test_a_tilt_of_two_degrees_is_refused_and_measured(ct: list[Dataset], tmp_path: Path, degrees: float) -> None:
    answer = refusal(gantry_tilt(ct, degrees), tmp_path)
    assert answer.reason is Reason.GANTRY_TILT
    assert f"{abs(degrees):.1f} degrees" in answer.detail


def test_two_interleaved_acquisitions_are_refused_even_where_positions_are_even(tmp_path: Path) -> None:
    ct = ct_series(8, 12, 12, seed=4)
    for k, instance in enumerate(ct):
        instance.AcquisitionNumber = 1 + k % 2
    assert refusal(ct, tmp_path).reason is Reason.SEVERAL_ACQUISITIONS


def test_step_and_shoot_scans_may_number_their_rotations(tmp_path: Path) -> None:
    ct = ct_series(8, 12, 12, seed=4)
    for k, instance in enumerate(ct):
        instance.AcquisitionNumber = 1 + k // 2
    assert read_ct(save_all(ct, tmp_path)).array.shape[0] == 8


def test_two_phases_without_acquisition_numbers_are_known_by_their_positions(tmp_path: Path) -> None:
    series = DEFECTS["two phases"](ct_series(8, 12, 12, seed=4))
    for instance in series:
        instance.AcquisitionNumber = None
    assert refusal(series, tmp_path).reason is Reason.SEVERAL_ACQUISITIONS


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("ConvolutionKernel", "B70s", Reason.SEVERAL_ACQUISITIONS),
        ("SeriesInstanceUID", "1.2.3", Reason.SEVERAL_ACQUISITIONS),
        ("FrameOfReferenceUID", "1.2.3", Reason.GEOMETRY_INVALID),
        ("FrameOfReferenceUID", "", Reason.GEOMETRY_INVALID),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0.9962, 0.0872], Reason.ORIENTATION_DIFFERS),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], Reason.GEOMETRY_INVALID),
        ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0], Reason.GEOMETRY_INVALID),
        ("ImageOrientationPatient", [2, 0, 0, 0, 1, 0], Reason.GEOMETRY_INVALID),
        ("ImageOrientationPatient", None, Reason.GEOMETRY_INVALID),
        ("ImagePositionPatient", None, Reason.GEOMETRY_INVALID),
        ("ImagePositionPatient", [0, 0], Reason.GEOMETRY_INVALID),
        ("ImagePositionPatient", ["NaN", 0, 0], Reason.GEOMETRY_INVALID),
        ("ImagePositionPatient", ["inf", 0, 0], Reason.GEOMETRY_INVALID),
        ("PixelSpacing", [0, 0.9], Reason.GEOMETRY_INVALID),
        ("PixelSpacing", [-0.9, 0.9], Reason.GEOMETRY_INVALID),
        ("PixelSpacing", ["nan", "nan"], Reason.GEOMETRY_INVALID),
        ("PixelSpacing", None, Reason.GEOMETRY_INVALID),
        ("Columns", 10, Reason.PIXEL_SPACING_DIFFERS),
        ("Rows", 0, Reason.GEOMETRY_INVALID),
        ("RescaleIntercept", None, Reason.RESCALE_MISSING),
        ("RescaleSlope", None, Reason.RESCALE_MISSING),
        ("RescaleSlope", 0, Reason.RESCALE_MISSING),
        ("RescaleSlope", "nan", Reason.RESCALE_MISSING),
        ("RescaleType", "US", Reason.RESCALE_NOT_HU),
        ("RescaleType", "MGML", Reason.RESCALE_NOT_HU),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")  # writing NaN is the point
def test_one_bad_header_in_the_series_is_refused_with_its_reason(
    ct: list[Dataset], tmp_path: Path, keyword: str, value: Any, reason: Reason
) -> None:
    setattr(ct[3], keyword, value)
    assert refusal(ct, tmp_path).reason is reason


def test_a_rescale_type_that_is_left_out_means_hounsfield_units(ct: list[Dataset], tmp_path: Path) -> None:
    for instance in ct:
        del instance.RescaleType
    assert read_ct(save_all(ct, tmp_path)).array.min() < -500


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_slices_make_no_volume(ct: list[Dataset], tmp_path: Path, count: int) -> None:
    assert refusal(ct[:count], tmp_path).reason is Reason.TOO_FEW_SLICES


def test_no_refusal_quotes_an_identifier(ct: list[Dataset], tmp_path: Path) -> None:
    for k, (name, defect) in enumerate(DEFECTS.items()):
        text = str(refusal(defect(ct), tmp_path / str(k)))
        assert "SYN" not in text, name
        assert "2.25." not in text, name
        assert str(tmp_path) not in text, name


def test_noise_in_the_orientation_decimals_passes(ct: list[Dataset], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for instance in ct:
        instance.ImageOrientationPatient = [
            round(float(v), 6) for v in np.array([1, 0, 0, 0, 1, 0]) + rng.normal(0, 1e-5, 6)
        ]
    assert read_ct(save_all(ct, tmp_path)).array.shape[0] == 8


@pytest.mark.parametrize("seed", range(60))
def test_what_makes_a_volume_is_judged_as_highdicom_judges_it(seed: int) -> None:
    from highdicom.spatial import get_volume_positions

    from analysis import geometry

    draw = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(draw.normal(size=(3, 3)))
    row, column = turn[:, 0], turn[:, 1]
    normal = np.cross(row, column)
    step, count = draw.choice([0.6, 1.0, 5.0]), int(draw.integers(2, 30))
    positions = draw.normal(scale=100, size=3) + np.arange(count)[:, None] * step * normal
    positions += draw.choice([0.0, 0.03, 0.09, 0.3]) * draw.uniform(-1, 1, (count, 1)) * normal  # uneven
    positions += draw.choice([0.0, 0.1, 0.2]) * np.arange(count)[:, None] * step * row  # tilted
    positions = positions[np.argsort(positions @ normal)]
    distances = positions @ normal
    even = float(distances[-1] - distances[0]) / (count - 1)
    tolerance = max(geometry.SPACING_RTOL * even, 2 * geometry.POSITION_JITTER_MM)
    spacing, _ = get_volume_positions(
        positions.tolist(), [*row, *column], atol=tolerance, perpendicular_tol=geometry.UPRIGHT
    )
    assert geometry.makes_volume(positions, normal, even) is (spacing is not None)

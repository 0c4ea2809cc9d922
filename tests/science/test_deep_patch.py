"""The patch that the encoder sees: hangs on the ROI alone, whatever the CT around it."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.contract import NotScorable, Reason
from analysis.deep import PatchSettings, cut_patch, windowed
from analysis.volume import Volume

SETTINGS = PatchSettings()
SPACING = (3.0, 1.7, 0.9)


def _volume(array: np.ndarray, spacing: tuple[float, float, float] = SPACING) -> Volume:
    slices = tuple(str(number) for number in range(len(array)))
    return Volume(array.astype(np.float32), spacing, np.zeros(3), np.eye(3), "1.2.3", slices, (1,) * len(array))


@pytest.fixture(scope="module")
def chest() -> tuple[Volume, np.ndarray]:
    """Noise of 60 x 90 x 160 voxels with an ellipsoid in the middle."""
    rng = np.random.default_rng(4)
    array = rng.normal(-300, 200, (60, 90, 160))
    mask = np.zeros(array.shape, np.bool_)
    z, y, x = np.indices(array.shape)
    mask[((z - 30) / 4) ** 2 + ((y - 45) / 8) ** 2 + ((x - 80) / 13) ** 2 < 1] = True
    return _volume(array), mask


def test_what_the_ct_covers_beyond_the_margin_changes_nothing(chest: tuple[Volume, np.ndarray]) -> None:
    volume, mask = chest
    whole = cut_patch(volume, mask, SETTINGS)
    cut = (slice(3, 58), slice(1, 88), slice(4, 159))
    less = cut_patch(replace(volume, array=volume.array[cut]), mask[cut], SETTINGS)
    assert np.allclose(whole.hu, less.hu, atol=1e-3)
    assert np.array_equal(whole.mask, less.mask)


def test_a_shift_by_whole_voxels_leaves_the_patch_as_it_is(chest: tuple[Volume, np.ndarray]) -> None:
    volume, mask = chest
    whole = cut_patch(volume, mask, SETTINGS)
    steps = (3, -4, 5)
    shifted = replace(volume, array=np.roll(volume.array, steps, axis=(0, 1, 2)))
    moved = cut_patch(shifted, np.roll(mask, steps, axis=(0, 1, 2)), SETTINGS)
    assert np.allclose(whole.hu, moved.hu, atol=1e-3)
    assert np.array_equal(whole.mask, moved.mask)


def test_the_mask_keeps_the_volume_of_the_roi(chest: tuple[Volume, np.ndarray]) -> None:
    volume, mask = chest
    patch = cut_patch(volume, mask, SETTINGS)
    ours = patch.mask.sum() * SETTINGS.spacing_mm**3
    assert ours == pytest.approx(mask.sum() * np.prod(SPACING), rel=0.01)
    assert all(edge % SETTINGS.multiple == 0 for edge in patch.hu.shape)


def test_a_straight_ramp_is_resampled_to_itself() -> None:
    z, y, x = np.indices((40, 60, 60))
    ramp = _volume(2.0 * z + 3.0 * y - 1.0 * x, (2.5, 1.0, 0.8))
    mask = np.zeros(ramp.array.shape, np.bool_)
    mask[18:22, 25:35, 25:35] = True
    patch = cut_patch(ramp, mask, replace(SETTINGS, margin_voxels=2))
    steps = [np.diff(patch.hu, axis=axis) for axis in range(3)]
    for found, wanted in zip(steps, (2.0 * 2 / 2.5, 3.0 * 2 / 1.0, -1.0 * 2 / 0.8), strict=True):
        assert np.allclose(found[2:-2, 2:-2, 2:-2], wanted, atol=0.02)


def test_noise_of_a_finer_ct_is_averaged_and_does_not_alias() -> None:
    noise = np.random.default_rng(1).normal(0, 100, (40, 100, 100))
    mask = np.zeros(noise.shape, np.bool_)
    mask[10:30, 20:80, 20:80] = True
    fine = cut_patch(_volume(noise, (2.0, 0.7, 0.7)), mask, SETTINGS)
    assert fine.hu[fine.mask == 1].std() < 50
    exact = cut_patch(_volume(noise, (2.0, 2.0, 2.0)), mask, SETTINGS)
    assert exact.hu[exact.mask == 1].std() == pytest.approx(100, rel=0.05)


def test_a_roi_larger_than_the_cap_is_seen_in_its_middle_and_flagged() -> None:
    array = np.zeros((20, 30, 200), np.float32)
    mask = np.zeros(array.shape, np.bool_)
    mask[5:15, 5:25, 10:190] = True
    patch = cut_patch(_volume(array, (2.0, 2.0, 2.0)), mask, SETTINGS)
    assert patch.cropped
    assert patch.hu.shape == (32, 40, 112)
    assert not cut_patch(_volume(array, (2.0, 2.0, 1.0)), mask, SETTINGS).cropped


def test_an_empty_and_a_tiny_roi_are_not_scored_and_say_why(chest: tuple[Volume, np.ndarray]) -> None:
    volume, mask = chest
    with pytest.raises(NotScorable) as empty:
        cut_patch(volume, np.zeros_like(mask), SETTINGS)
    assert empty.value.reason is Reason.ROI_EMPTY
    speck = np.zeros_like(mask)
    speck[30, 45, 80] = True
    with pytest.raises(NotScorable) as small:
        cut_patch(volume, speck, SETTINGS)
    assert small.value.reason is Reason.ROI_TOO_SMALL
    with pytest.raises(ValueError, match="shape"):
        cut_patch(volume, mask[:-1], SETTINGS)


def test_windows_run_from_0_to_1_and_stop_there() -> None:
    hu = np.array([[[-2000.0, -1350.0, -600.0, 150.0, 3000.0, 40.0]]], np.float32)
    image = windowed(hu, SETTINGS)
    assert np.allclose(image[0, 0, 0, :5], [0, 0, 0.5, 1, 1])
    assert np.allclose(image[1, 0, 0], [0, 0, 0, 1, 1, 0.5])
    assert image.dtype == np.float32


@pytest.mark.parametrize(
    "wrong", [{"spacing_mm": 0.0}, {"largest_voxels": 100}, {"windows": ()}, {"windows": ((0.0, -1.0),)}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        PatchSettings(**wrong)  # type: ignore[arg-type]
    assert PatchSettings.from_json(SETTINGS.to_json()) == SETTINGS

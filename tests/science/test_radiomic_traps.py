"""Each trap that moves radiomic values without a word: measured here, so that it cannot come back.

The sizes in the comments are what the trap costs on this lesion; the tests of the trap itself keep the check honest.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from radiomics import featureextractor, firstorder, imageoperations

from analysis import preprocess
from analysis.intensity import distribution, energy, statistics
from analysis.preprocess import discretise, prepare
from analysis.radiomic import features
from analysis.roi import Mask, bounding_box
from analysis.settings import Discretisation, ExtractionSettings
from analysis.texture import textures
from analysis.volume import Volume
from tests.pyradiomics import quiet_pyradiomics
from tests.volumes import lesion, volume_of

ISO = ExtractionSettings(spacing_mm=(1.0, 1.0, 1.0))
UNROUNDED = replace(ISO, round_intensities=False)


def largest_change(one: dict[str, float], other: dict[str, float]) -> float:
    """Largest relative difference of any feature; 1 stands for a feature that one of them lacks."""
    assert one
    return max(abs(one[name] - other[name]) / max(abs(one[name]), 1e-9) if name in other else 1.0 for name in one)


def whole(volume: Volume, mask: Mask, settings: ExtractionSettings) -> tuple[NDArray[np.float64], Mask]:
    """The same interpolation without any crop, by SimpleITK on the whole image."""
    image = sitk.GetImageFromArray(volume.array.astype(np.float64))
    region = sitk.GetImageFromArray(mask.astype(np.float64))
    for part in (image, region):
        part.SetSpacing(volume.spacing[::-1])
    wanted = [step or old for step, old in zip(settings.spacing_mm or (None,) * 3, volume.spacing, strict=True)]
    size = [int(np.ceil(n * s / w - 1e-6)) for n, s, w in zip(mask.shape, volume.spacing, wanted, strict=True)]
    start = [
        ((n - 1) * s - (m - 1) * w) / 2 for n, s, m, w in zip(mask.shape, volume.spacing, size, wanted, strict=True)
    ]
    resample = sitk.ResampleImageFilter()
    resample.SetSize(size[::-1])
    resample.SetOutputSpacing(wanted[::-1])
    resample.SetOutputOrigin(start[::-1])
    resample.SetUseNearestNeighborExtrapolator(True)
    resample.SetInterpolator(sitk.sitkBSpline)
    array = sitk.GetArrayFromImage(resample.Execute(image))
    resample.SetInterpolator(sitk.sitkLinear)
    return array, sitk.GetArrayFromImage(resample.Execute(region)) >= 0.5 - 1e-6


# Grid, crop and interpolation -------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (None, 1.3, 1.3), (1.5, 0.8, None)])
def test_cropping_first_gives_the_values_of_interpolating_the_whole_image(
    spacing: tuple[float | None, float | None, float | None],
) -> None:
    volume, mask = lesion((30, 90, 96))
    settings = replace(UNROUNDED, spacing_mm=spacing)
    image, region = whole(volume, mask, settings)
    ours = prepare(volume, mask, settings)
    assert ours.image.size < image.size / 3
    box, mine = bounding_box(region), bounding_box(ours.morphological)
    assert box is not None
    assert mine is not None
    assert np.array_equal(ours.morphological[mine], region[box])
    assert np.abs(ours.image[mine] - image[box]).max() < 1e-6  # HU


def test_the_surroundings_that_a_crop_leaves_out_do_not_move_a_feature() -> None:
    volume, mask = lesion((30, 90, 96))
    settings = replace(ISO, image_types=("original", "log-sigma-1.0-mm", "wavelet"))
    changed = volume.array.copy()
    changed[:, :, :4] = 3000  # far off, within the grid
    other = replace(volume, array=changed)
    assert largest_change(features(volume, mask, settings).values(), features(other, mask, settings).values()) < 1e-6


def test_a_crop_that_forgets_the_grid_would_move_features() -> None:
    """The trap: the same image less two columns, so that the grid starts elsewhere."""
    volume, mask = lesion()
    settings = replace(ISO, spacing_mm=(2.0, 2.0, 2.0))
    cut = replace(volume, array=volume.array[:, :, 2:])
    moved = features(cut, mask[:, :, 2:], settings).values()
    assert largest_change(features(volume, mask, settings).values(), moved) > 0.05


def test_a_rounding_error_in_the_spacing_adds_no_voxel_to_the_grid() -> None:
    volume, mask = lesion((20, 40, 40), (3.0, 1.0, 1.0))
    noisy = replace(volume, spacing=(3.0 + 1e-9, 1.0 + 1e-12, 1.0 + 1e-12))
    settings = replace(UNROUNDED, spacing_mm=(2.0, 1.0, 2.0))
    one, other = prepare(volume, mask, settings), prepare(noisy, mask, settings)
    assert one.image.shape == other.image.shape
    assert np.abs(one.image - other.image).max() < 1e-4


def test_planes_halfway_between_two_slices_fall_on_the_same_side_whatever_the_rounding() -> None:
    """3 mm to 2 mm: every third plane weighs both neighbours with one half; IBSI counts 0.5 as inside."""
    mask = np.zeros((10, 12, 12), bool)
    mask[4:7, 3:9, 3:9] = True
    volume = volume_of(np.zeros((10, 12, 12)), (3.0, 1.0, 1.0))
    settings = replace(UNROUNDED, spacing_mm=(2.0, None, None))
    counts = [
        int(prepare(replace(volume, spacing=(3.0 + noise, 1.0, 1.0)), mask, settings).morphological.sum())
        for noise in (-1e-13, 0.0, 1e-13)
    ]
    assert counts == [counts[0]] * 3


def test_interpolated_intensities_are_not_cut_to_whole_numbers() -> None:
    """Resampled as int16, what a scanner's pixels read as, 0.75 and -0.75 become 0."""
    stack = np.zeros((2, 4, 40), np.float32)
    stack[:, :, 1::2] = -3  # a staircase of 0 and -3, read off at quarter steps
    mask = np.ones(stack.shape, bool)
    settings = replace(UNROUNDED, spacing_mm=(None, None, 0.25), image_interpolator="linear")
    values = prepare(volume_of(stack), mask, settings).image
    assert np.unique(np.round(values % 1, 6)).size > 3
    rounded = prepare(volume_of(stack), mask, replace(settings, round_intensities=True)).image
    assert np.array_equal(rounded, np.rint(values))
    assert not np.array_equal(rounded, np.trunc(values))


def test_the_spline_margin_keeps_interpolation_exact_to_a_millionth_of_a_hounsfield_unit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volume, mask = lesion((40, 120, 128))
    images = {}
    for margin in (4, preprocess.SPLINE_MARGIN, 40):
        monkeypatch.setattr(preprocess, "SPLINE_MARGIN", margin)
        images[margin] = prepare(volume, mask, UNROUNDED).image
    assert np.abs(images[16] - images[40]).max() < 1e-6
    assert np.abs(images[4] - images[40]).max() > 1e-2  # the trap


# Filters ----------------------------------------------------------------------------------------------------


@pytest.fixture
def wide() -> tuple[Volume, Mask]:
    """A lesion with the hilum's contrast around it: a filter cut short sees an edge that is not there."""
    volume, mask = lesion((40, 140, 140), (3.0, 0.9, 0.9))
    trend = np.linspace(-300, 300, 140)[None, None, :] + np.linspace(0, 400, 140)[None, :, None]
    return replace(volume, array=np.rint(volume.array + trend).astype(np.float32)), mask


def log_only(sigma: float) -> ExtractionSettings:
    return replace(
        ISO,
        image_types=(f"log-sigma-{sigma:.1f}-mm",),
        resegment_hu=(-2000.0, 3000.0),
        discretisation=Discretisation("FBS", 25.0, None),
        filtered_bin_width=(("log", 10.0),),
    )


def test_eight_sigmas_of_padding_make_the_laplacian_of_gaussian_independent_of_it(
    wide: tuple[Volume, Mask], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for sigmas in (1, preprocess.LOG_PAD_SIGMAS, 12):
        monkeypatch.setattr(preprocess, "LOG_PAD_SIGMAS", sigmas)
        found[sigmas] = features(*wide, log_only(3.0)).values()
    assert largest_change(found[8], found[12]) < 1e-4
    assert largest_change(found[1], found[12]) > 1e-2  # the trap: 5 voxels are less than 2 sigma here


def test_the_padding_of_the_wavelet_covers_its_filter(
    wide: tuple[Volume, Mask], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(ISO, image_types=("wavelet",))
    ours = features(*wide, settings).values()
    monkeypatch.setattr(preprocess, "WAVELET_PAD", 20)
    assert largest_change(ours, features(*wide, settings).values()) < 1e-9
    monkeypatch.setattr(preprocess, "WAVELET_PAD", 0)
    assert largest_change(ours, features(*wide, settings).values()) > 1e-2  # the trap


def test_an_image_type_gives_the_same_values_whatever_else_is_asked_for(wide: tuple[Volume, Mask]) -> None:
    alone = features(*wide, replace(log_only(2.0), image_types=("original", "log-sigma-1.0-mm"))).values()
    together = features(
        *wide, replace(log_only(2.0), image_types=("original", "log-sigma-1.0-mm", "log-sigma-4.0-mm"))
    ).values()
    assert all(together[name] == pytest.approx(value, rel=1e-6, abs=1e-6) for name, value in alone.items())


def test_the_laplacian_of_gaussian_is_the_one_that_pyradiomics_makes() -> None:
    volume, mask = lesion((20, 40, 40), (1.0, 1.0, 1.0), 6.0)
    image = sitk.GetImageFromArray(volume.array.astype(np.float64))
    ((theirs, name, _),) = imageoperations.getLoGImage(image, None, sigma=[2.0])
    settings = replace(ISO, spacing_mm=None, image_types=("log-sigma-2.0-mm",))
    ((_, prefix, ours),) = preprocess.images(prepare(volume, mask, settings), settings)
    box = bounding_box(mask)
    mine = bounding_box(ours.morphological)
    assert box is not None
    assert mine is not None
    assert prefix == name
    assert np.allclose(ours.image[mine], sitk.GetArrayFromImage(theirs)[box], atol=1e-3)


# Grey levels ------------------------------------------------------------------------------------------------


def test_level_one_is_at_the_fixed_origin_not_at_the_darkest_voxel() -> None:
    image = np.array([[[-1000.0, -976, -975, 0, 24.9, 25, 400]]])
    mask = np.ones(image.shape, bool)
    levels = discretise(image, mask, Discretisation("FBS", 25.0, -1000.0))
    assert levels.tolist() == [[[1, 1, 2, 41, 41, 42, 57]]]
    mask[..., 0:3] = False
    assert discretise(image, mask, Discretisation("FBS", 25.0, -1000.0)).tolist() == [[[0, 0, 0, 41, 41, 42, 57]]]
    assert discretise(image, mask, Discretisation("FBS", 25.0, None))[0, 0, 3:].tolist() == [1, 1, 2, 17]


def test_a_fixed_number_of_bins_puts_the_brightest_voxel_into_the_last() -> None:
    image = np.array([[[0.0, 0.99, 1, 7.99, 8]]])
    levels = discretise(image, np.ones(image.shape, bool), Discretisation("FBN", None, None, 8))
    assert levels.tolist() == [[[1, 1, 2, 8, 8]]]


def test_one_dark_voxel_does_not_renumber_the_grey_levels_of_a_lesion() -> None:
    """With bins from the darkest voxel the high grey level emphasis of a soft lesion moves many times over."""
    volume, mask = lesion()
    dark = volume.array.copy()
    dark[tuple(np.argwhere(mask)[len(np.argwhere(mask)) // 2])] = -900
    settings = replace(ISO, spacing_mm=None)
    floating = replace(settings, discretisation=Discretisation("FBS", 25.0, None))
    name = "original_glrlm_HighGrayLevelRunEmphasis"

    def ratio(how: ExtractionSettings) -> float:
        after = features(replace(volume, array=dark), mask, how).values()[name]
        return after / features(volume, mask, how).values()[name]

    assert ratio(settings) == pytest.approx(1, abs=0.01)
    assert ratio(floating) > 10  # the trap


def test_a_gap_in_the_grey_levels_is_kept() -> None:
    """Levels 1 and 5 are four apart; numbered anew as 1 and 2 their contrast would be one."""
    levels = np.ones((1, 4, 4), np.int32)
    levels[:, :, 2:] = 5
    found, _ = textures(levels, np.ones(levels.shape, bool), "2.5D", "merged")
    one_step, _ = textures(np.minimum(levels, 2), np.ones(levels.shape, bool), "2.5D", "merged")
    assert found["glcm_Contrast"] == pytest.approx(16 * one_step["glcm_Contrast"])
    assert found["gldm_HighGrayLevelEmphasis"] == pytest.approx(13)


def test_both_resegmentations_can_be_combined() -> None:
    image = np.array([[[-2000.0, *([10, 20] * 20), 90, 500]]])
    mask = np.ones(image.shape, bool)
    both = replace(UNROUNDED, resegment_hu=(-1000.0, 400.0), outlier_sigma=3.0)
    kept = image[preprocess.resegment(image, mask, both)]
    assert sorted(set(kept.tolist())) == [10, 20]
    assert mask.all()


def test_the_shape_is_that_of_the_whole_region_and_intensities_of_what_is_left_of_it() -> None:
    volume, mask = lesion()
    hole = volume.array.copy()
    hole[tuple(np.argwhere(mask).T[:, ::7])] = 900
    clean = features(volume, mask, ISO).values()
    found = features(replace(volume, array=hole), mask, ISO)
    assert found.intensity_voxels < found.morphological_voxels
    assert found.values()["original_shape_MeshVolume"] == clean["original_shape_MeshVolume"]
    assert found.values()["original_firstorder_Maximum"] <= 400


# Against pyradiomics, where it is right ---------------------------------------------------------------------


@pytest.fixture
def on_its_own_grid() -> Iterator[tuple[Volume, Mask]]:
    volume, mask = lesion((16, 30, 30), (2.0, 1.0, 1.0), 8.0)
    with quiet_pyradiomics():
        yield replace(volume, array=np.maximum(volume.array, -400)), mask


def test_first_order_features_equal_pyradiomics_but_for_the_kurtosis_which_is_excess(
    on_its_own_grid: tuple[Volume, Mask],
) -> None:
    volume, mask = on_its_own_grid
    image, region = sitk.GetImageFromArray(volume.array.astype(float)), sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing((1.0, 1.0, 2.0))
    kernel = firstorder.RadiomicsFirstOrder(image, region, binWidth=25)
    kernel.enableAllFeatures()
    theirs = {name: float(value) for name, value in kernel.execute().items()}
    values = volume.array[mask].astype(np.float64)
    levels = np.floor(values / 25).astype(np.int32)
    ours = {**statistics(values), **energy(values, 2.0), **distribution(levels - levels.min() + 1)}
    assert set(theirs) <= set(ours)
    ours["Kurtosis"] += 3
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("aggregation", ["avg", "merged"])
@pytest.mark.parametrize("dimension", ["3D", "2.5D"])
def test_textures_equal_pyradiomics_where_its_bins_start_at_ours(
    on_its_own_grid: tuple[Volume, Mask], dimension: str, aggregation: str
) -> None:
    """-400 is a multiple of 25 and the ROI's minimum: pyradiomics' first edge is then our origin."""
    volume, mask = on_its_own_grid
    mask = mask.copy()
    mask[np.unravel_index(volume.array.argmin(), mask.shape)] = True
    settings = ExtractionSettings(
        spacing_mm=None,
        round_intensities=False,
        resegment_hu=(-400.0, 3000.0),
        discretisation=Discretisation("FBS", 25.0, -400.0),
        dimension=dimension,
        aggregation=aggregation,
    )  # type: ignore[arg-type]
    extractor = featureextractor.RadiomicsFeatureExtractor(
        binWidth=25,
        additionalInfo=False,
        force2D=dimension == "2.5D",
        weightingNorm="no_weighting" if aggregation == "merged" else None,
    )
    image, region = sitk.GetImageFromArray(volume.array.astype(float)), sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing((1.0, 1.0, 2.0))
    region.CopyInformation(image)
    theirs = {name: float(value) for name, value in extractor.execute(image, region).items()}
    ours = features(volume, mask, settings).values()
    longest = {name for name in theirs if name.endswith(("AxisLength", "Elongation", "Flatness"))}  # N or N - 1
    compared = set(theirs) - longest - {"original_firstorder_Kurtosis"}
    assert len(compared) == 101
    assert {name: ours[name] for name in compared} == pytest.approx({name: theirs[name] for name in compared}, rel=1e-8)

"""Filtered images against ITK's and PyWavelets' own, on whole images."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from radiomics.imageoperations import getWaveletImage

from analysis.filters import laplacian_of_gaussian, wavelet_subbands
from analysis.radiomic import THREADS, features
from analysis.settings import ExtractionSettings
from tests.volumes import lesion

SIZE = (24, 31, 28)


@pytest.fixture
def image() -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.rint(np.random.default_rng(4).normal(-300, 250, SIZE))


@pytest.mark.parametrize("sigma", [1.0, 2.5, 5.0])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.9)])
def test_the_laplacian_of_gaussian_is_itks_but_for_the_last_bit_of_single_precision(
    image: np.ndarray[tuple[int, ...], np.dtype[np.float64]], spacing: tuple[float, float, float], sigma: float
) -> None:
    whole = sitk.GetImageFromArray(image)
    whole.SetSpacing(spacing[::-1])
    itk = sitk.LaplacianRecursiveGaussianImageFilter()
    itk.SetNormalizeAcrossScale(True)
    itk.SetSigma(sigma)
    theirs = sitk.GetArrayFromImage(itk.Execute(whole))
    window = (slice(5, 15), slice(0, 31), slice(20, 28))
    ours = laplacian_of_gaussian(image, spacing, sigma, window)
    differs = ours != theirs[window]
    # a sum in another order falls on the other side of a rounding now and then
    assert differs.mean() < 5e-3
    assert np.abs(ours - theirs[window]).max() <= np.spacing(np.abs(theirs).max())


def test_the_wavelet_subbands_are_those_that_pyradiomics_makes(
    image: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> None:
    window = (slice(6, 18), slice(7, 20), slice(8, 20))
    ours = dict(wavelet_subbands(image, window))
    theirs = {
        name: sitk.GetArrayFromImage(band) for band, name, _ in getWaveletImage(sitk.GetImageFromArray(image), None)
    }
    assert [f"wavelet-{name}" for name in ours] == list(theirs)
    assert all(np.array_equal(ours[name], theirs[f"wavelet-{name}"][window]) for name in ours)


def test_features_are_the_same_bits_whatever_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ExtractionSettings(spacing_mm=(2.0, 2.0, 2.0), image_types=("original", "log-sigma-2.0-mm", "wavelet"))
    found = []
    for cores in (1, 2, THREADS + 4):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        found.append(features(*lesion(), settings).measurements)
    assert found[0] == found[1] == found[2]

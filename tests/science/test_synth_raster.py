"""The synthetic patients' blurring, morphology and outlines: to the last bit those of scipy and scikit-image."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import find_contours, label
from skimage.segmentation import clear_border

from analysis.train.synth import raster


def _masks() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(8)
    for _ in range(60):
        mask = rng.random(rng.integers(2, 13, 3)) < rng.uniform(0.1, 0.9)
        if mask.any() and not mask.all():
            yield mask


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_blur_is_scipys_gaussian_filter(kind: type) -> None:
    rng = np.random.default_rng(8)
    for _ in range(30):
        field = rng.standard_normal(rng.integers(1, 25, 3)).astype(kind)
        sigmas = [float(sigma) for sigma in rng.choice([0, 0.3, 0.46, 1.6, 3.0], 3)]
        made = raster.blurred(field, sigmas)
        assert made.dtype == kind
        assert np.array_equal(made, ndimage.gaussian_filter(field, sigmas))


def test_linear_interpolation_is_scipys() -> None:
    rng = np.random.default_rng(8)
    for _ in range(20):
        field = rng.standard_normal(rng.integers(2, 15, 3)).astype(np.float32)
        at = rng.uniform(-3, 17, (3, 4, 5, 6)).astype(np.float32)
        assert np.array_equal(raster.sampled(field, at), ndimage.map_coordinates(field, at, order=1, mode="nearest"))


def test_distance_and_growth_are_scipys() -> None:
    for mask in _masks():
        assert np.array_equal(raster.depth(mask, 4.0), ndimage.distance_transform_edt(mask, sampling=(4.0,) * 3))
        assert np.array_equal(raster.grown(mask, 2), ndimage.binary_dilation(mask, iterations=2))
        ends = np.ones((3, 1, 1), bool)
        assert np.array_equal(raster.grown(mask, 3, axes=[0]), ndimage.binary_dilation(mask, ends, iterations=3))


def test_pieces_and_holes_are_scipys() -> None:
    for mask in _masks():
        labels, count = ndimage.label(mask)
        sizes = ndimage.sum_labels(mask, labels, range(1, count + 1))
        assert np.array_equal(raster.largest(mask), labels == 1 + int(np.argmax(sizes)))
        assert np.array_equal(raster.pieces(mask, corners=True), label(mask))
        for plane in mask:
            assert np.array_equal(raster.filled(plane), ndimage.binary_fill_holes(plane))
            assert np.array_equal(raster.inner(plane), clear_border(plane))


def test_outlines_are_scikit_images_contours_point_by_point() -> None:
    for mask in _masks():
        for plane in mask:
            padded = np.pad(plane, 1)
            found, expected = raster.outlines(padded), find_contours(padded.astype(float), 0.5)
            assert len(found) == len(expected)
            assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))

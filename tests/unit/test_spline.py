"""Weights of the encoder's grid against scipy.ndimage, which computed them before."""

import numpy as np
import pytest
from scipy import ndimage

from analysis.spline import weights


@pytest.mark.parametrize("order", [1, 3])
def test_weights_are_those_of_scipys_splines(order: int) -> None:
    rng = np.random.default_rng(20)
    for size in (1, 2, 7, 40, 143):
        for ratio in (0.35, 0.8, 1.0, 2 / 0.9765625, 3.9):
            offset, count = float(rng.uniform(-20, size)), int(rng.integers(1, 80))
            lines = ndimage.gaussian_filter(np.eye(size), (0, 0.5 * np.sqrt(max(ratio**2 - 1, 0))), mode="nearest")
            expected = ndimage.affine_transform(
                lines, (1, ratio), (0, offset), (size, count), order=order, mode="nearest"
            ).T
            assert np.abs(weights(size, ratio, offset, count, order) - expected).max() < 1e-14

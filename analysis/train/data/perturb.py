"""The same lesion measured again: another reader's contour, another acquisition's noise.

Features that change much when nothing about the patient has changed must not carry a score (Zwanenburg 2019: noise
addition and contour randomisation). The disturbance is local, so the grid of the CT stays where it is.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from analysis.roi import bounding_box
from analysis.volume import Volume

Mask = NDArray[np.bool_]
AROUND_MM = 30.0  # beyond it no feature looks: LoG of 3 mm reaches 24 mm
READER_MM = 0.8  # SD of the distance between two careful readers' outlines
READER_SMOOTH_MM = 5.0  # over which they deviate in the same direction
READER_BIAS_MM = 0.5  # one draws generously, another tightly
_MAD_TO_SD = 1.4826


def perturbed(volume: Volume, mask: Mask, rng: np.random.Generator) -> tuple[Volume, Mask]:
    """Volume with its own noise added once more around the ROI, and mask with its outline moved.

    Parameters
    ----------
    mask : bool, shape of `volume.array`, not empty
    """
    box = bounding_box(mask)
    assert box is not None
    window = tuple(
        slice(max(0, edge.start - n), edge.stop + n)
        for edge, n in zip(box, (int(np.ceil(AROUND_MM / step)) for step in volume.spacing), strict=True)
    )
    array = volume.array.astype(np.float32)
    view = array[window]
    view += rng.normal(0.0, noise_sd(view), view.shape).astype(array.dtype)
    moved = np.zeros_like(mask)
    moved[window] = _outline_moved(mask[window], volume.spacing, rng)
    return replace(volume, array=array), moved


def noise_sd(array: NDArray[np.floating]) -> float:
    """Noise, HU: what a 3 x 3 in-plane Laplacian leaves (Immerkaer 1996); by the median, so that edges do not count."""
    kernel = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])[None]
    residual = ndimage.convolve(array.astype(np.float64), kernel, mode="nearest")
    return float(_MAD_TO_SD * np.median(np.abs(residual)) / 6.0)


def _outline_moved(mask: Mask, spacing: tuple[float, float, float], rng: np.random.Generator) -> Mask:
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    field = ndimage.gaussian_filter(rng.standard_normal(mask.shape), [READER_SMOOTH_MM / step for step in spacing])
    move = READER_MM * field / max(float(field.std()), 1e-12) + rng.normal(0.0, READER_BIAS_MM)
    moved = np.asarray(np.where(mask, inside, -outside) + move > 0)
    return moved if moved.any() else mask

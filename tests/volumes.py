"""Volumes in memory for tests of the image side: no DICOM needed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.volume import Volume


def volume_of(array: Any, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    """An axial volume at the origin; array and spacing in (slice, row, column) order."""
    pixels = np.asarray(array, dtype=np.float32)
    count = len(pixels)
    return Volume(
        array=pixels,
        spacing=spacing,
        origin=np.zeros(3),
        direction=np.eye(3)[:, ::-1],
        frame_of_reference_uid="1.2.3",
        sop_instance_uids=tuple(f"1.2.3.{k}" for k in range(count)),
        frame_numbers=(1,) * count,
    )


def lesion(
    shape: tuple[int, int, int] = (24, 60, 64),
    spacing: tuple[float, float, float] = (3.0, 0.8, 0.8),
    radius: float = 10.0,
    seed: int = 5,
) -> tuple[Volume, NDArray[np.bool_]]:
    """Textured soft-tissue ball in lung, off the middle, and its mask; whole HU, as a scanner writes."""
    rng = np.random.default_rng(seed)
    centre = np.array(shape) * spacing * np.array([0.45, 0.4, 0.55])
    place = [np.arange(n) * step - mid for n, step, mid in zip(shape, spacing, centre, strict=True)]
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*place, indexing="ij")))
    mask = distance <= radius
    hu = rng.normal(-850, 20, shape) + np.where(mask, 890 + rng.normal(0, 40, shape), 0)
    return volume_of(np.rint(hu), spacing), mask

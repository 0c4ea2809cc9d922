"""Pictures for the page and the mask as NIfTI: what the job hands over besides numbers."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import nifti
from analysis.roi import Mask, bounding_box
from analysis.volume import Volume

WINDOW_CENTRE, WINDOW_WIDTH = -500.0, 1500.0  # HU: lung window wide enough to keep the mediastinum readable


def write(path: Path, volume: Volume, mask: Mask) -> None:
    """Axial, coronal and sagittal planes through the ROI, as analysis.contract.PICTURES_FILE lays down.

    The axial plane is the slice with most ROI voxels; the others pass through the ROI's centre of mass. Coronal and
    sagittal planes have the head up.
    """
    box = bounding_box(mask)
    assert box is not None  # an empty ROI is an answer of its own
    inside = mask[box]
    axial = box[0].start + int(np.count_nonzero(inside, axis=(1, 2)).argmax())
    row, column = (
        round(float((where + part.start).mean())) for where, part in zip(np.nonzero(inside)[1:], box[1:], strict=True)
    )
    head_last = volume.direction[2, 0] > 0  # slices ascend towards the head
    flip = slice(None, None, -1) if head_last else slice(None)
    step, height, width = volume.spacing
    planes = {
        "axial": (volume.array[axial], mask[axial], (height, width)),
        "coronal": (volume.array[flip, row], mask[flip, row], (step, width)),
        "sagittal": (volume.array[flip, :, column], mask[flip, :, column], (step, height)),
    }
    arrays: dict[str, NDArray[Any]] = {}
    for view, (plane, inside, spacing) in planes.items():
        arrays[view] = _windowed(plane)
        arrays[f"{view}_mask"] = inside
        arrays[f"{view}_spacing"] = np.asarray(spacing, dtype=np.float64)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for an array


def write_mask(path: Path, volume: Volume, mask: Mask) -> None:
    """The ROI as NIfTI (RAS, mm), voxels in (column, row, slice) order."""
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    by_column = volume.affine[:, [2, 1, 0, 3]]
    nifti.write(path, mask, lps_to_ras @ by_column)


def _windowed(plane: NDArray[np.int16] | NDArray[np.float32]) -> NDArray[np.uint8]:
    low = WINDOW_CENTRE - WINDOW_WIDTH / 2
    grey: NDArray[np.uint8] = (np.clip((plane.astype(np.float32) - low) / WINDOW_WIDTH, 0, 1) * 255 + 0.5).astype(
        np.uint8
    )
    return grey

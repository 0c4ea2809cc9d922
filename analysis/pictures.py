"""Pictures for the page and the mask as NIfTI: what the job hands over besides numbers."""

from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread

from analysis.volume import Volume

WINDOW_CENTRE, WINDOW_WIDTH = -500.0, 1500.0  # HU: lung window wide enough to keep the mediastinum readable
Mask = NDArray[np.bool_]


def write(path: Path, volume: Volume, mask: Mask) -> None:
    """Axial, coronal and sagittal planes through the ROI, as analysis.contract.PICTURES_FILE lays down.

    The axial plane is the slice with most ROI voxels; the others pass through the ROI's centre of mass. Coronal and
    sagittal planes have the head up.
    """
    axial = int(np.count_nonzero(mask, axis=(1, 2)).argmax())
    _, row, column = (round(float(where.mean())) for where in np.nonzero(mask))
    head_last = volume.direction[2, 0] > 0  # slices ascend towards the head
    flip = slice(None, None, -1) if head_last else slice(None)
    step, height, width = volume.spacing
    planes = {
        "axial": (np.s_[axial, :, :], (height, width)),
        "coronal": (np.s_[flip, row, :], (step, width)),
        "sagittal": (np.s_[flip, :, column], (step, height)),
    }
    arrays: dict[str, NDArray[np.generic]] = {}
    for view, (where, spacing) in planes.items():
        arrays[view] = _windowed(volume.array[where])
        arrays[f"{view}_mask"] = mask[where]
        arrays[f"{view}_spacing"] = np.asarray(spacing, dtype=np.float64)
    np.savez_compressed(path, allow_pickle=False, **arrays)  # type: ignore[arg-type]


def write_mask(path: Path, volume: Volume, mask: Mask) -> None:
    """The ROI as NIfTI (RAS, mm), voxels in (column, row, slice) order."""
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    by_column = volume.affine[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(mask.transpose(2, 1, 0).astype(np.uint8), lps_to_ras @ by_column)
    nibabel.save(image, path)


def file_of_slices(volume: Volume, paths: list[Path]) -> tuple[str, ...]:
    """Name of the file that each slice of the volume came from."""
    names = {
        str(dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): path.name
        for path in paths
    }
    return tuple(names[uid] for uid in volume.sop_instance_uids)


def _windowed(plane: NDArray[np.float32]) -> NDArray[np.uint8]:
    low = WINDOW_CENTRE - WINDOW_WIDTH / 2
    grey: NDArray[np.uint8] = (np.clip((plane - low) / WINDOW_WIDTH, 0, 1) * 255 + 0.5).astype(np.uint8)
    return grey

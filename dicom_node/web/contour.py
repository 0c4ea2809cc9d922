"""The mask of a result as outlines over its slices, along the edges of voxels: what is drawn is what was scored.

Pure but for `read`, which streams the NIfTI slice by slice: the whole mask of a chest is eighty megabytes.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis import nifti
from reports.outline import outlines

MAXIMUM_SLICES, MAXIMUM_PIXELS = 20_000, 4096 * 4096


class MaskUnreadable(ValueError):
    """The mask file is not one that the analysis writes."""


def read(path: Path, shape: tuple[int, int, int]) -> dict[int, str]:
    """Outlines of a mask file by slice (from 0), as SVG path data; slices without a voxel of the mask are left out.

    Parameters
    ----------
    path : gzipped NIfTI-1, uint8, voxels in (column, row, slice) order as `analysis.contract.MASK_FILE`
    shape : (slices, rows, columns) that the result states

    Raises
    ------
    MaskUnreadable
    OSError
    """
    slices, rows, columns = shape
    if not (0 < slices <= MAXIMUM_SLICES and 0 < rows * columns <= MAXIMUM_PIXELS):
        raise MaskUnreadable(f"a mask of {slices} x {rows} x {columns} voxels is not one of a CT")
    found: dict[int, str] = {}
    try:
        with gzip.open(path, "rb") as stream:
            for number, plane in enumerate(nifti.planes(stream, shape)):
                if plane is not None:
                    found[number] = svg_path(plane)
    except nifti.NiftiInvalid as error:
        raise MaskUnreadable(str(error)) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise MaskUnreadable(f"the mask is damaged ({type(error).__name__})") from None
    return found


def svg_path(mask: NDArray[np.bool_]) -> str:
    """Outlines of a slice as SVG path data in pixels, (0, 0) the outer corner of the first one; '' where too many.

    >>> svg_path(np.array([[0, 1, 1], [0, 0, 0]], bool))
    'M1 0H3V1H1Z'
    """
    loops = outlines(mask)
    return "".join(_path(loop) for loop in loops)


def _path(corners: list[tuple[int, int]]) -> str:
    """Path data with H and V only: every edge of a voxel runs along a row or a column."""
    (x, y), *others = corners
    parts = [f"M{x} {y}"]
    for next_x, next_y in others:
        parts.append(f"V{next_y}" if next_x == x else f"H{next_x}")
        x, y = next_x, next_y
    return "".join(parts) + "Z"

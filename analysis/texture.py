"""Texture features (IBSI 3.6 to 3.11) from pyradiomics' C matrices, on grey levels that we made ourselves."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813 (the field writes it so)
from numpy.typing import NDArray
from radiomics import glcm, gldm, glrlm, glszm, ngtdm
from radiomics import logger as radiomics_logger

Mask = NDArray[np.bool_]
Levels = NDArray[np.int32]
Found = dict[str, float]
Failed = dict[str, str]

MATRICES = ("glcm", "glrlm", "glszm", "gldm", "ngtdm")


def textures(
    levels: Levels, mask: Mask, dimension: Literal["3D", "2.5D"], aggregation: Literal["avg", "merged"]
) -> tuple[Found, Failed]:
    """Features as `<matrix>_<name>`, and why a whole matrix gave none.

    Parameters
    ----------
    levels : grey levels from 1 inside `mask`, shape (slices, rows, columns)
    dimension : 3D: 13 directions; 2.5D: 4 directions within slices, matrices summed over slices
    aggregation : GLCM and GLRLM per direction, then the mean (avg), or one matrix of all directions (merged)
    """
    image = sitk.GetImageFromArray(levels)
    region = sitk.GetImageFromArray(mask.astype(np.uint8))
    settings = {
        "binCount": 1,  # its own binning is thrown away; one bin is the cheapest
        "force2D": dimension == "2.5D",
        "force2Ddimension": 0,
        "weightingNorm": "no_weighting" if aggregation == "merged" else None,
        "symmetricalGLCM": True,
        "gldm_a": 0,
    }
    found: Found = {}
    failed: Failed = {}
    with quiet_radiomics():
        for name in MATRICES:
            try:
                values = _matrix(name, image, region, levels, mask, settings)
            except (ValueError, IndexError, ArithmeticError, MemoryError, RuntimeError) as error:
                failed[name] = f"{type(error).__name__}: {error}"
                continue
            found.update({f"{name}_{key}": float(np.real(value)) for key, value in values.items()})
    return found, failed


@contextmanager
def quiet_radiomics() -> Iterator[None]:
    """pyradiomics writes to stderr by a handler of its own, once per image; what failed is in the result."""
    level = radiomics_logger.level
    radiomics_logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        radiomics_logger.setLevel(level)


def _matrix(
    name: str, image: sitk.Image, region: sitk.Image, levels: Levels, mask: Mask, settings: dict[str, Any]
) -> dict[str, Any]:
    kernels = {
        "glcm": glcm.RadiomicsGLCM,
        "glrlm": glrlm.RadiomicsGLRLM,
        "glszm": glszm.RadiomicsGLSZM,
        "gldm": gldm.RadiomicsGLDM,
        "ngtdm": ngtdm.RadiomicsNGTDM,
    }
    kernel = kernels[name](image, region, **settings)
    # pyradiomics would number bins from the ROI's own minimum; level 1 is where our discretisation starts.
    # It reads these three when it builds the matrix, not before.
    kernel.imageArray = levels
    kernel.coefficients["grayLevels"] = np.unique(levels[mask])
    kernel.coefficients["Ng"] = int(levels[mask].max())
    with np.errstate(invalid="ignore", divide="ignore"):
        values: dict[str, Any] = kernel.execute()
    return values

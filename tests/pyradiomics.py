"""pyradiomics as the oracle of our own textures: its matrices and formulas on grey levels that we give it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from radiomics import glcm, gldm, glrlm, glszm, ngtdm
from radiomics import logger as radiomics_logger

KERNELS = {
    "glcm": glcm.RadiomicsGLCM,
    "glrlm": glrlm.RadiomicsGLRLM,
    "glszm": glszm.RadiomicsGLSZM,
    "gldm": gldm.RadiomicsGLDM,
    "ngtdm": ngtdm.RadiomicsNGTDM,
}


@contextmanager
def quiet_pyradiomics() -> Iterator[None]:
    """It writes to stderr by a handler of its own, once per image."""
    level = radiomics_logger.level
    radiomics_logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        radiomics_logger.setLevel(level)


def oracle(levels: NDArray[np.int32], mask: NDArray[np.bool_], dimension: str, aggregation: str) -> dict[str, float]:
    """What `analysis.texture.textures` should give; NaN for what pyradiomics cannot compute."""
    image = sitk.GetImageFromArray(levels)
    region = sitk.GetImageFromArray(mask.astype(np.uint8))
    settings: dict[str, Any] = {
        "binCount": 1,  # its own binning is thrown away
        "force2D": dimension == "2.5D",
        "force2Ddimension": 0,
        "weightingNorm": "no_weighting" if aggregation == "merged" else None,
    }
    found = {}
    with quiet_pyradiomics(), np.errstate(invalid="ignore", divide="ignore"):
        for name, kernel in KERNELS.items():
            made = kernel(image, region, **settings)
            # level 1 is where our discretisation starts, not at the ROI's minimum; read when the matrix is built
            made.imageArray = levels
            made.coefficients["grayLevels"] = np.unique(levels[mask])
            made.coefficients["Ng"] = int(levels[mask].max())
            found.update({f"{name}_{key}": float(np.real(value)) for key, value in made.execute().items()})
    return found

"""What a reader should know about the image and the contour; the score stands. Part of the analyse step."""

import numpy as np
from numpy.typing import NDArray

from analysis.contract import QualityFlag, Severity
from analysis.roi import RoiMask, bounding_box
from analysis.volume import Volume

FEW_SLICES = 3
SMALL_ML = 1.0
THICK_MM = 3.0
AIR_HU, MUCH_AIR = -500.0, 0.20
BONE_HU, MUCH_BONE = 400.0, 0.05
SMALL_PART = 0.02  # of the contour: a crumb of less is not a second lesion


def flags(volume: Volume, roi: RoiMask) -> tuple[QualityFlag, ...]:
    """Flags of the contour reader, then those of the image and of the contour on it."""
    return (*roi.flags, *image_flags(volume), *contour_flags(volume, roi.array))


def image_flags(volume: Volume) -> list[QualityFlag]:
    """Is this a plausible CT of a chest, fine enough for texture?"""
    found = []
    low, high = float(volume.array.min()), float(volume.array.max())
    if low > -700 or high < 200:
        found.append(
            _warning(
                "HU_RANGE_UNUSUAL",
                f"Intensities run from {low:.0f} to {high:.0f} HU: no air or no bone, unlike a chest CT",
            )
        )
    if volume.spacing[0] > THICK_MM + 0.01:
        found.append(
            _warning(
                "THICK_SLICES", f"Slices lie {volume.spacing[0]:.1f} mm apart: texture is coarser than {THICK_MM:g} mm"
            )
        )
    if volume.lossy:
        found.append(
            _warning("CT_LOSSY", "The CT was compressed with loss before it was scored: its texture may be another one")
        )
    thickness = volume.slice_thickness
    if thickness is not None and thickness > 0 and abs(thickness - volume.spacing[0]) > 0.25 * volume.spacing[0]:
        kind = "overlap" if thickness > volume.spacing[0] else "leave gaps"
        found.append(
            _info(
                "SLICES_NOT_CONTIGUOUS",
                f"Slices of {thickness:.2f} mm lie {volume.spacing[0]:.2f} mm apart, so they {kind}",
            )
        )
    return found


def contour_flags(volume: Volume, mask: NDArray[np.bool_]) -> list[QualityFlag]:
    """Is the contour what a tumour contour looks like on this CT?

    Parameters
    ----------
    mask : bool, shape of `volume.array`, not empty
    """
    found = []
    box = bounding_box(mask)
    assert box is not None
    inside = mask[box]
    values = volume.array[box][inside]
    slices = int(np.count_nonzero(inside.any(axis=(1, 2))))
    volume_ml = values.size * float(np.prod(volume.spacing)) / 1000
    if slices < FEW_SLICES:
        found.append(_warning("ROI_FEW_SLICES", f"The contour is on few slices: {slices}"))
    if volume_ml < SMALL_ML:
        found.append(
            _warning("ROI_SMALL", f"The contour holds {volume_ml:.2f} mL: texture is uncertain below {SMALL_ML:g} mL")
        )
    parts = _parts(inside)
    if parts > 1:
        found.append(_info("ROI_SEVERAL_PARTS", f"The contour is in {parts} separate parts, scored as one"))
    if any(part.start == 0 or part.stop == size for part, size in zip(box, mask.shape, strict=True)):
        found.append(_warning("ROI_AT_EDGE", "The contour reaches the edge of the CT: the lesion may be cut off"))
    air, bone = float(np.mean(values < AIR_HU)), float(np.mean(values > BONE_HU))
    if air > MUCH_AIR:
        found.append(_warning("ROI_HOLDS_AIR", f"{air:.0%} of the contour is aerated lung or air"))
    if bone > MUCH_BONE:
        found.append(_warning("ROI_HOLDS_BONE", f"{bone:.0%} of the contour is bone, calcification or metal"))
    return found


def _parts(inside: NDArray[np.bool_]) -> int:
    import SimpleITK  # noqa: PLC0415 - as in `analysis.run`: not before the CT is read

    pieces = SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray(inside.astype(np.uint8)), True)
    sizes = np.bincount(SimpleITK.GetArrayViewFromImage(pieces).ravel())[1:]
    return int(np.count_nonzero(sizes > SMALL_PART * sizes.sum()))


def _warning(code: str, text: str) -> QualityFlag:
    return QualityFlag(code=code, severity=Severity.WARNING, text=text)


def _info(code: str, text: str) -> QualityFlag:
    return QualityFlag(code=code, severity=Severity.INFO, text=text)

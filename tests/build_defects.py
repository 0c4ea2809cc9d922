"""Defects that no CT may have, each applied to a copy of a good series. Tests import from `tests.synthetic`."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
from pydicom.dataset import Dataset

from tests.build_ct import uid

Series = list[Dataset]


def _copy(ct: Sequence[Dataset]) -> Series:
    return [copy.deepcopy(instance) for instance in ct]


def _shift(instance: Dataset, dz: float = 0.0, dy: float = 0.0) -> None:
    x, y, z = (float(v) for v in instance.ImagePositionPatient)
    instance.ImagePositionPatient = [x, y + dy, z + dz]


def _step(ct: Sequence[Dataset]) -> float:
    return float(ct[1].ImagePositionPatient[2]) - float(ct[0].ImagePositionPatient[2])


def drop_slice(ct: Sequence[Dataset], index: int | None = None) -> Series:
    """Without one inner slice (the middle one)."""
    drop = len(ct) // 2 if index is None else index
    return [instance for k, instance in enumerate(_copy(ct)) if k != drop]


def duplicate_position(ct: Sequence[Dataset], index: int | None = None) -> Series:
    """One more instance (other UID) at the position of an existing one; same acquisition."""
    made = _copy(ct)
    double = copy.deepcopy(made[len(ct) // 2 if index is None else index])
    double.SOPInstanceUID = uid("double", double.SOPInstanceUID)
    double.InstanceNumber = len(ct) + 1
    return [*made, double]


def uneven_gap(ct: Sequence[Dataset], extra_mm: float = 0.5) -> Series:
    """The upper half of the series moved up: one gap is `extra_mm` larger than the others."""
    made = _copy(ct)
    for instance in made[len(made) // 2 :]:
        _shift(instance, dz=extra_mm)
    return made


def gantry_tilt(ct: Sequence[Dataset], degrees: float = 15.0) -> Series:
    """Image planes tilted about x while the table moves along z: the stack is sheared."""
    made = _copy(ct)
    angle = np.radians(degrees)
    for instance in made:
        instance.ImageOrientationPatient = [1, 0, 0, 0, round(float(np.cos(angle)), 8), round(float(np.sin(angle)), 8)]
    return made


def oblique(ct: Sequence[Dataset], degrees: float = 15.0) -> Series:
    """Image planes and stacking direction turned together about x: a reformat, not a gantry tilt."""
    made = gantry_tilt(ct, degrees)
    angle, step = np.radians(degrees), _step(ct)
    x, y, z = (float(v) for v in ct[0].ImagePositionPatient)
    for k, instance in enumerate(made):
        offset = k * step * np.array([-np.sin(angle), np.cos(angle)])
        instance.ImagePositionPatient = [x, round(y + float(offset[0]), 6), round(z + float(offset[1]), 6)]
    return made


def sagittal(ct: Sequence[Dataset]) -> Series:
    """A sagittal series: rows along y, columns along -z, stacked along x."""
    made, step = _copy(ct), _step(ct)
    for k, instance in enumerate(made):
        instance.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        instance.ImagePositionPatient = [k * step, -50, 50]
    return made


def localizer(ct: Sequence[Dataset]) -> Series:
    """One more instance in the series: a scout, frontal, with its image type."""
    made = _copy(ct)
    scout = copy.deepcopy(made[0])
    scout.SOPInstanceUID = uid("scout", scout.SOPInstanceUID)
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    scout.InstanceNumber = len(ct) + 1
    return [scout, *made]


def two_phases(ct: Sequence[Dataset]) -> Series:
    """The same positions twice, with Acquisition Number 1 and 2: arterial and venous in one series."""
    first, second = _copy(ct), _copy(ct)
    for instance in second:
        instance.SOPInstanceUID = uid("second phase", instance.SOPInstanceUID)
        instance.AcquisitionNumber = 2
        instance.InstanceNumber = int(instance.InstanceNumber) + len(ct)
    return [*first, *second]


def other_pixel_spacing(ct: Sequence[Dataset], factor: float = 1.1) -> Series:
    """One instance has another pixel spacing than the rest."""
    made = _copy(ct)
    made[len(made) // 2].PixelSpacing = [float(v) * factor for v in made[len(made) // 2].PixelSpacing]
    return made


def without_rescale(ct: Sequence[Dataset]) -> Series:
    """No rescale slope, intercept or type: stored values are not Hounsfield units."""
    made = _copy(ct)
    for instance in made:
        for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
            delattr(instance, keyword)
    return made


def jitter(ct: Sequence[Dataset], amount_mm: float = 0.02) -> Series:
    """Harmless: every other slice off by `amount_mm`, as scanners round."""
    made = _copy(ct)
    for instance in made[1::2]:
        _shift(instance, dz=amount_mm)
    return made


# What must be refused, by name; `jitter`, `oblique` and `sagittal` are other matters.
DEFECTS: dict[str, Callable[[Sequence[Dataset]], Series]] = {
    "missing slice": drop_slice,
    "duplicate position": duplicate_position,
    "uneven gap": uneven_gap,
    "gantry tilt": gantry_tilt,
    "localizer": localizer,
    "two phases": two_phases,
    "other pixel spacing": other_pixel_spacing,
    "without rescale": without_rescale,
}

"""The geometry gate: says of CT planes whether they make one regular volume, or why not.

Part of the job's first step (receive -> plan -> analyse): the planner looks at headers earlier, this is the
last line of defence inside the sandbox. Headers only; no pixel is read here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.contract import NotScorable, Reason

Floats = NDArray[np.float64]

LOSSY = ("01",)  # Lossy Image Compression (0028,2110); it stays with the image for good (PS3.3 C.7.6.1.1.5)

ORIENTATION_TOLERANCE = 1e-3  # direction cosines; DS strings carry as few as four decimals
PIXEL_SPACING_RTOL = 1e-3
# Positions are written with 2 to 3 decimals: jitter of 0.02 mm is the writer's, not the scanner's.
POSITION_JITTER_MM = 0.05
SPACING_RTOL = 0.01
# Drift of the slice corners inside the plane, as a share of a pixel, before we call it a tilt.
TILT_PIXELS = 0.5
UPRIGHT = 1e-2  # 1 - cosine: how far from their normal slices may be stacked; eight degrees, for a few thin ones


@dataclass(frozen=True)
class Plane:
    """One CT plane: a single-frame file, or one frame of a multi-frame file. `frame` counts from 0."""

    path: Path
    frame: int
    sop_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    rows: int
    columns: int
    rescale_slope: float | None
    rescale_intercept: float | None
    rescale_type: str
    image_type: tuple[str, ...]
    acquisition_number: str = ""
    convolution_kernel: str = ""
    slice_thickness: float | None = None
    contrast: bool = False
    lossy: bool = False
    sop_class_uid: str = ""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Regular grid of planes sorted along the slice normal; arrays in (slice, row, column) order, mm, LPS."""

    planes: tuple[Plane, ...]
    spacing: tuple[float, float, float]
    origin: Floats
    direction: Floats = field(repr=False)  # columns: unit vectors of the slice, row and column axes


def regular_geometry(planes: Sequence[Plane]) -> Geometry:
    """Sort planes along their normal and return their grid.

    Raises
    ------
    NotScorable
        TOO_FEW_SLICES, LOCALIZER_IN_SERIES, GEOMETRY_INVALID, ORIENTATION_DIFFERS, PIXEL_SPACING_DIFFERS,
        RESCALE_MISSING, RESCALE_NOT_HU, SEVERAL_ACQUISITIONS, DUPLICATE_POSITION, GANTRY_TILT, MISSING_SLICE
        or UNEVEN_SLICE_SPACING.
    """
    _refuse_localizers(planes)
    if len(planes) < 2:
        raise NotScorable(Reason.TOO_FEW_SLICES, f"{len(planes)} slice, at least 2 are needed for a volume")
    _check_numbers(planes)
    _check_uniform(planes)
    _check_rescale(planes)
    row_axis, column_axis, normal = _axes(planes[0].orientation)
    positions = np.array([plane.position for plane in planes], dtype=np.float64)
    distances = positions @ normal
    order = np.argsort(distances, kind="stable")
    ordered = tuple(planes[i] for i in order)
    _check_one_acquisition(ordered, distances[order])
    _check_duplicates(distances[order])
    _check_tilt(positions[order], normal, planes[0].pixel_spacing)
    step = _check_even(distances[order])
    if not makes_volume(positions[order], normal, step):
        raise NotScorable(Reason.UNEVEN_SLICE_SPACING, "the positions do not make a regular volume")
    # DICOM: the first three cosines point along a row, that is, along increasing column index.
    direction = np.stack([normal, column_axis, row_axis], axis=1)
    spacing = (step, float(planes[0].pixel_spacing[0]), float(planes[0].pixel_spacing[1]))
    return Geometry(ordered, spacing, positions[order[0]], direction)


def _axes(orientation: Sequence[float]) -> tuple[Floats, Floats, Floats]:
    cosines = np.asarray(orientation, dtype=np.float64)
    row_axis = cosines[:3] / np.linalg.norm(cosines[:3])
    column_axis = cosines[3:] - (cosines[3:] @ row_axis) * row_axis
    column_axis /= np.linalg.norm(column_axis)
    return row_axis, column_axis, np.cross(row_axis, column_axis)


def _refuse_localizers(planes: Sequence[Plane]) -> None:
    count = sum("LOCALIZER" in plane.image_type for plane in planes)
    if count:
        raise NotScorable(Reason.LOCALIZER_IN_SERIES, f"{count} of {len(planes)} images")


def _check_numbers(planes: Sequence[Plane]) -> None:
    orthonormal: set[tuple[float, ...]] = set()  # what was looked at: as a rule a series has one orientation
    for number, plane in enumerate(planes, start=1):
        where = f"image {number} of {len(planes)}"
        if not plane.frame_of_reference_uid:
            raise NotScorable(Reason.GEOMETRY_INVALID, f"{where} has no frame of reference")
        wanted = (
            ("position", plane.position, 3),
            ("orientation", plane.orientation, 6),
            ("pixel spacing", plane.pixel_spacing, 2),
        )
        for what, values, count in wanted:
            if len(values) != count or not all(map(math.isfinite, values)):
                raise NotScorable(Reason.GEOMETRY_INVALID, f"{where} has no usable {what}")
        if min(plane.pixel_spacing) <= 0 or min(plane.rows, plane.columns) <= 0:
            raise NotScorable(Reason.GEOMETRY_INVALID, f"{where} has pixel spacing or matrix size 0")
        if plane.orientation in orthonormal:
            continue
        row, column = np.reshape(plane.orientation, (2, 3))
        lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
        if np.abs(lengths - 1).max() > ORIENTATION_TOLERANCE or abs(row @ column) > ORIENTATION_TOLERANCE:
            raise NotScorable(Reason.GEOMETRY_INVALID, f"{where} has axes that are not orthogonal unit vectors")
        orthonormal.add(plane.orientation)


def _check_uniform(planes: Sequence[Plane]) -> None:
    first = planes[0]
    for plane in planes:
        pairs = zip(plane.orientation, first.orientation, strict=True)
        if max(abs(cosine - wanted) for cosine, wanted in pairs) > ORIENTATION_TOLERANCE:
            raise NotScorable(Reason.ORIENTATION_DIFFERS)
        if (plane.rows, plane.columns) != (first.rows, first.columns):
            raise NotScorable(Reason.PIXEL_SPACING_DIFFERS, "matrix sizes differ")
        pairs = zip(plane.pixel_spacing, first.pixel_spacing, strict=True)
        if any(abs(spacing - wanted) > PIXEL_SPACING_RTOL * wanted for spacing, wanted in pairs):
            low, high = sorted((plane.pixel_spacing[0], first.pixel_spacing[0]))
            raise NotScorable(Reason.PIXEL_SPACING_DIFFERS, f"{low:.4f} mm and {high:.4f} mm")
    if len({plane.frame_of_reference_uid for plane in planes}) > 1:
        raise NotScorable(Reason.GEOMETRY_INVALID, "images in several frames of reference")


def _check_rescale(planes: Sequence[Plane]) -> None:
    bare = 0
    for plane in planes:
        if plane.rescale_type not in ("", "HU"):
            raise NotScorable(Reason.RESCALE_NOT_HU, f"rescale type {plane.rescale_type[:16]}")
        pair = (plane.rescale_slope, plane.rescale_intercept)
        bare += any(value is None or not math.isfinite(value) for value in pair) or plane.rescale_slope == 0
    if bare:
        raise NotScorable(Reason.RESCALE_MISSING, f"{bare} of {len(planes)} images")


def _check_one_acquisition(planes: Sequence[Plane], distances: Floats) -> None:
    """Refuse what mixes scans; accept acquisitions that follow one another along the normal.

    A step-and-shoot scan numbers each rotation, so the number alone says nothing; two phases overlap in space.
    """
    if len({plane.series_instance_uid for plane in planes}) > 1:
        raise NotScorable(Reason.SEVERAL_ACQUISITIONS, "images of several series")
    kernels = {plane.convolution_kernel for plane in planes}
    if len(kernels) > 1:
        raise NotScorable(Reason.SEVERAL_ACQUISITIONS, f"{len(kernels)} convolution kernels")
    numbers = [plane.acquisition_number for plane in planes]
    blocks = 1 + sum(a != b for a, b in pairwise(numbers))
    if blocks > len(set(numbers)):
        raise NotScorable(Reason.SEVERAL_ACQUISITIONS, f"{len(set(numbers))} acquisitions overlap in space")
    repeats = np.diff(np.flatnonzero(np.r_[True, np.diff(distances) > POSITION_JITTER_MM / 2, True]))
    if repeats.min() > 1:
        raise NotScorable(Reason.SEVERAL_ACQUISITIONS, f"{repeats.min()} images at each position")
    if len(set(numbers)) > 1 and repeats.max() > 1:
        raise NotScorable(Reason.SEVERAL_ACQUISITIONS, f"{len(set(numbers))} acquisitions overlap in space")


def _check_duplicates(distances: Floats) -> None:
    gaps = np.diff(distances)
    same = gaps < max(POSITION_JITTER_MM / 2, 0.1 * float(np.median(gaps)))
    if same.any():
        raise NotScorable(Reason.DUPLICATE_POSITION, f"{int(same.sum()) + 1} of {len(distances)} images")


def _check_tilt(positions: Floats, normal: Floats, pixel_spacing: Sequence[float]) -> None:
    travel = positions - positions[0]
    along = travel @ normal
    drift = np.linalg.norm(travel - along[:, None] * normal, axis=1)
    if drift.max() > TILT_PIXELS * min(pixel_spacing):
        worst = int(drift.argmax())
        angle = np.degrees(np.arctan2(drift[worst], along[worst]))
        raise NotScorable(Reason.GANTRY_TILT, f"slices are stacked {angle:.1f} degrees off their normal")


def _check_even(distances: Floats) -> float:
    """Slice spacing, mm, when every gap is the same; the median gap is what a gap should have been."""
    gaps = np.diff(distances)
    usual = float(np.median(gaps))
    tolerance = max(SPACING_RTOL * usual, POSITION_JITTER_MM)
    odd = np.flatnonzero(np.abs(gaps - usual) > tolerance)
    if odd.size:
        steps = gaps[odd] / usual
        whole = np.abs(steps - np.rint(steps)) * usual < 2 * tolerance
        where = f"gap of {gaps[odd[0]]:.2f} mm between slices {odd[0] + 1} and {odd[0] + 2}, usual {usual:.2f} mm"
        missing = bool((whole & (np.rint(steps) >= 2)).all())
        raise NotScorable(Reason.MISSING_SLICE if missing else Reason.UNEVEN_SLICE_SPACING, where)
    step = float(distances[-1] - distances[0]) / (len(distances) - 1)
    off_grid = np.abs(distances - distances[0] - step * np.arange(len(distances)))
    if off_grid.max() > max(2 * POSITION_JITTER_MM, 0.05 * step):
        raise NotScorable(Reason.UNEVEN_SLICE_SPACING, f"slices drift {off_grid.max():.2f} mm off an even grid")
    return step


def makes_volume(positions: Floats, normal: Floats, step: float) -> bool:
    """Whether positions in order along `normal` make a regular volume: as highdicom's `get_volume_positions` judges.

    A second opinion; ours is the finer one. Importing highdicom for it would be a quarter of the job's start.
    """
    tolerance = max(SPACING_RTOL * step, 2 * POSITION_JITTER_MM)
    spans = positions[1:] - positions[0]
    upright = spans @ normal / np.linalg.norm(spans, axis=1)
    gaps = np.diff(positions @ normal)
    return bool((np.abs(gaps - step) <= tolerance).all() and (1 - upright < UPRIGHT).all())

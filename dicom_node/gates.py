"""Is this CT one even, axial stack of slices in Hounsfield units? The planner's look at headers, before any job runs.

Refused here with a reason, never interpolated away: readers such as ITK's take all of these silently and return a
distorted volume. Pure; the job checks again on the pixels (`analysis.volume`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from analysis.contract import Reason
from config.settings import Planning
from dicom_node.instance import Geometry, Instance

Vector = tuple[float, float, float]

# Scanners round ImagePositionPatient: 0.02 mm of jitter either way is common, so a gap may be off by 0.04 mm, far below
# a voxel. A tenth of the spacing bounds it for thin slices.
SPACING_TOLERANCE_MM = 0.05
SPACING_TOLERANCE_SHARE = 0.1
SAME_POSITION_MM = 0.05  # closer than any two slices of one reconstruction
IN_PLANE_TOLERANCE_MM = 0.1  # a slice shifted sideways against the others, about a tenth of a pixel
TILT_DEGREES = 0.5  # stacking direction against the normal: above rounding, below any tilt that is set on purpose
AXIAL_DEGREES = 10.0  # normal against the patient's long axis
COSINE_TOLERANCE = 1e-3  # orientations alike, unit length, perpendicular: 0.06 degrees
RELATIVE_PIXEL_TOLERANCE = 1e-3  # pixel spacings alike: decimal strings are rounded


@dataclass(frozen=True)
class Defect:
    """Why a CT cannot be scored, with figures for the reader."""

    reason: Reason
    detail: str


def series_defect(series: Sequence[Instance]) -> Defect | None:
    """A defect that no further image of the series could heal, so it may be looked for in an incomplete one too.

    `series` is everything on hand of one CT series, whether the ROI references it or not.
    """
    checks = (
        _identity,
        _localizer,
        _unusable_geometry,
        _orientations,
        _pixel_grids,
        _several_acquisitions,
        _same_positions,
    )
    return next((defect for check in checks if (defect := check(series)) is not None), None)


def stack_defect(images: Sequence[Instance], settings: Planning) -> Defect | None:
    """A defect of the images to be scored as one volume; `images` has passed `series_defect`."""
    geometry = images[0].geometry
    normal = _normal(geometry)
    points = sorted((p for image in images for p in image.geometry.positions), key=lambda p: _dot(p, normal))
    if len(points) < max(settings.minimum_slices, 2):
        return Defect(Reason.TOO_FEW_SLICES, f"{len(points)} slices; at least {settings.minimum_slices} are needed")
    return (
        _tilt(points, normal)
        or _off_axis(normal)
        or _uneven(points, normal)
        or _spacing_bounds(points, normal, geometry, settings)
        or _rescale(images)
    )


def slice_order(images: Sequence[Instance]) -> tuple[Instance, ...]:
    """Images sorted by their (first) position along the normal; they have passed `series_defect`."""
    normal = _normal(images[0].geometry)
    return tuple(sorted(images, key=lambda image: _dot(image.geometry.positions[0], normal)))


# -- of the series -------------------------------------------------------------------------------------------


def _identity(series: Sequence[Instance]) -> Defect | None:
    """A result is filed under one patient and one study: slices of two must not be scored as one volume."""
    patients, studies = {image.patient for image in series}, {image.study_instance_uid for image in series}
    if len(patients) > 1 or len(studies) > 1:
        return Defect(Reason.IDENTITY_DIFFERS, f"{len(patients)} patient IDs, {len(studies)} studies in one series")
    return None


def _localizer(series: Sequence[Instance]) -> Defect | None:
    scouts = sum("LOCALIZER" in (value.strip().upper() for value in image.image_type) for image in series)
    if scouts:
        return Defect(Reason.LOCALIZER_IN_SERIES, f"{scouts} of {len(series)} images are localizers")
    return None


def _unusable_geometry(series: Sequence[Instance]) -> Defect | None:
    bad = sum(not _usable(image.geometry) for image in series)
    if bad:
        return Defect(
            Reason.GEOMETRY_INVALID,
            f"{bad} of {len(series)} images lack a usable position, orientation, pixel spacing or matrix",
        )
    frames = {image.frame_of_reference_uid for image in series}
    if len(frames) > 1:
        return Defect(Reason.GEOMETRY_INVALID, f"the series has {len(frames)} frames of reference")
    return None


def _usable(geometry: Geometry) -> bool:
    """All there, finite, spacing and matrix positive, orientation of two perpendicular unit vectors."""
    orientation, spacing = geometry.orientation, geometry.pixel_spacing
    if orientation is None or spacing is None or not geometry.positions or not geometry.rows or not geometry.columns:
        return False
    if len(orientation) != 6 or len(spacing) != 2 or any(len(p) != 3 for p in geometry.positions):
        return False
    numbers = (*orientation, *spacing, *(v for p in geometry.positions for v in p))
    if not all(map(math.isfinite, numbers)) or min(spacing) <= 0 or min(geometry.rows, geometry.columns) <= 0:
        return False
    row, column = _cosines(geometry)
    lengths_off = max(abs(_dot(row, row) - 1), abs(_dot(column, column) - 1), abs(_dot(row, column)))
    return lengths_off <= COSINE_TOLERANCE


def _orientations(series: Sequence[Instance]) -> Defect | None:
    first = series[0].geometry.orientation or ()
    other = sum(
        not image.geometry.same_orientation
        or any(abs(a - b) > COSINE_TOLERANCE for a, b in zip(image.geometry.orientation or (), first, strict=True))
        for image in series
    )
    if other:
        other = min(other, len(series) - other) or other  # the odd ones out are the fewer
        return Defect(Reason.ORIENTATION_DIFFERS, f"{other} of {len(series)} images are oriented otherwise")
    return None


def _pixel_grids(series: Sequence[Instance]) -> Defect | None:
    first = series[0].geometry
    other = sum(not _same_grid(image.geometry, first) for image in series)
    if not other:
        return None
    spacings = sorted({image.geometry.pixel_spacing or (0.0, 0.0) for image in series})
    matrices = sorted({(image.geometry.rows or 0, image.geometry.columns or 0) for image in series})
    detail = (
        f"pixel spacing from {min(spacings[0]):.3f} to {max(spacings[-1]):.3f} mm, "
        f"matrix from {matrices[0][0]}x{matrices[0][1]} to {matrices[-1][0]}x{matrices[-1][1]}"
    )
    return Defect(Reason.PIXEL_SPACING_DIFFERS, detail)


def _same_grid(geometry: Geometry, first: Geometry) -> bool:
    pairs = zip(geometry.pixel_spacing or (), first.pixel_spacing or (), strict=True)
    alike = all(math.isclose(a, b, rel_tol=RELATIVE_PIXEL_TOLERANCE) for a, b in pairs)
    return alike and (geometry.rows, geometry.columns) == (first.rows, first.columns)


def _several_acquisitions(series: Sequence[Instance]) -> Defect | None:
    """Scans that overlap in space. Acquisitions one behind the other are one scan: step-and-shoot numbers each step."""
    multi_frame = sum(len(image.geometry.positions) > 1 for image in series)
    if multi_frame and len(series) > 1:
        detail = f"{len(series)} objects in the series, {multi_frame} of them multi-frame"
        return Defect(Reason.SEVERAL_ACQUISITIONS, detail)
    places = _places(series)
    if len(places) > 1 and min(len(place) for place in places) > 1:
        return Defect(Reason.SEVERAL_ACQUISITIONS, f"{min(map(len, places))} images at each position")
    numbers = [number for place in places for number in sorted(place)]
    blocks = sum(True for _ in groupby(numbers))
    if blocks > len(set(numbers)) or (len(set(numbers)) > 1 and len(places) < len(numbers)):
        return Defect(Reason.SEVERAL_ACQUISITIONS, f"{len(set(numbers))} acquisitions overlap in space")
    return None


def _same_positions(series: Sequence[Instance]) -> Defect | None:
    places = _places(series)
    slices = sum(map(len, places))
    if slices > len(places):
        return Defect(
            Reason.DUPLICATE_POSITION, f"{slices - len(places)} of {slices} slices lie where another one lies"
        )
    return None


def _places(series: Sequence[Instance]) -> list[list[str]]:
    """Acquisition Numbers at each position, in the order of the positions along the normal."""
    normal = _normal(series[0].geometry)
    slices = sorted(
        (_dot(point, normal), image.acquisition_number.strip())
        for image in series
        for point in image.geometry.positions
    )
    places = [[slices[0][1]]]
    for (before, _), (depth, number) in pairwise(slices):
        if depth - before < SAME_POSITION_MM:
            places[-1].append(number)
        else:
            places.append([number])
    return places


# -- of the stack --------------------------------------------------------------------------------------------


def _tilt(points: Sequence[Vector], normal: Vector) -> Defect | None:
    """Tilted gantry: planes sheared against each other. An oblique reformat is not: it stacks along its normal."""
    run = _minus(points[-1], points[0])
    length = _dot(run, normal)
    drift = math.dist(run, _scale(normal, length))
    degrees = math.degrees(math.atan2(drift, length))
    if degrees > TILT_DEGREES and drift > IN_PLANE_TOLERANCE_MM:
        return Defect(Reason.GANTRY_TILT, f"slices are stacked {degrees:.1f} degrees off their normal")
    for number, point in enumerate(points, start=1):
        offset = _minus(point, points[0])
        on_line = _scale(run, _dot(offset, normal) / length)
        aside = math.dist(offset, on_line)
        if aside > IN_PLANE_TOLERANCE_MM:
            return Defect(Reason.GEOMETRY_INVALID, f"slice {number} is shifted {aside:.1f} mm in its plane")
    return None


def _off_axis(normal: Vector) -> Defect | None:
    degrees = math.degrees(math.acos(min(1.0, abs(normal[2]))))
    if degrees > AXIAL_DEGREES:
        return Defect(Reason.NOT_AXIAL, f"image planes are {degrees:.0f} degrees off the axial plane")
    return None


def _uneven(points: Sequence[Vector], normal: Vector) -> Defect | None:
    gaps = [_dot(_minus(b, a), normal) for a, b in pairwise(points)]
    usual = _usual(gaps)
    tolerance = _tolerance(usual)
    odd = [(k, gap) for k, gap in enumerate(gaps, start=1) if abs(gap - usual) > tolerance]
    if not odd:
        return None
    where, widest = max(odd, key=lambda item: abs(item[1] - usual))
    detail = f"{widest:.2f} mm between slices {where} and {where + 1} of {len(points)}, where {usual:.2f} mm is usual"
    missing = [round(gap / usual) - 1 for _, gap in odd]
    whole = all(abs(gap - (n + 1) * usual) <= (n + 1) * tolerance for n, (_, gap) in zip(missing, odd, strict=True))
    if whole:
        return Defect(Reason.MISSING_SLICE, f"{detail}; {sum(missing)} missing")
    return Defect(Reason.UNEVEN_SLICE_SPACING, detail)


def _usual(gaps: Sequence[float]) -> float:
    """Mean of the gaps near the lower median: the smaller distance where half of the slices are missing."""
    median = sorted(gaps)[(len(gaps) - 1) // 2]
    near = [gap for gap in gaps if abs(gap - median) <= SPACING_TOLERANCE_SHARE * median]
    return sum(near) / len(near)


def _tolerance(usual: float) -> float:
    return min(SPACING_TOLERANCE_MM, SPACING_TOLERANCE_SHARE * usual) + 1e-6  # rounding of the sums themselves


def _spacing_bounds(points: Sequence[Vector], normal: Vector, geometry: Geometry, settings: Planning) -> Defect | None:
    mean = _dot(_minus(points[-1], points[0]), normal) / (len(points) - 1)
    low, high = settings.minimum_slice_spacing_mm, settings.maximum_slice_spacing_mm
    slack = _tolerance(mean)  # a series at the bound is inside it, whatever its rounding
    if not low - slack <= mean <= high + slack:
        return Defect(
            Reason.SLICE_SPACING_OUT_OF_RANGE, f"{mean:.2f} mm between slices; {low:g} to {high:g} mm are accepted"
        )
    low, high = settings.minimum_pixel_spacing_mm, settings.maximum_pixel_spacing_mm
    smallest, largest = min(geometry.pixel_spacing or ()), max(geometry.pixel_spacing or ())
    if smallest < low * (1 - RELATIVE_PIXEL_TOLERANCE) or largest > high * (1 + RELATIVE_PIXEL_TOLERANCE):
        return Defect(
            Reason.PIXEL_SPACING_OUT_OF_RANGE,
            f"pixel spacing {smallest:.3f} x {largest:.3f} mm; {low:g} to {high:g} mm are accepted",
        )
    return None


def _rescale(images: Sequence[Instance]) -> Defect | None:
    without = sum(not image.rescale for image in images)
    if without:
        return Defect(
            Reason.RESCALE_MISSING, f"{without} of {len(images)} images have no usable rescale slope and intercept"
        )
    # PS3.3 C.8.2.1.1.2: where Rescale Type is absent, a CT's output units are HU
    other = sum(image.rescale_type.strip().upper() not in {"", "HU"} for image in images)
    if other:
        return Defect(Reason.RESCALE_NOT_HU, f"{other} of {len(images)} images have another rescale type than HU")
    return None


# -- vectors -------------------------------------------------------------------------------------------------


def _cosines(geometry: Geometry) -> tuple[Vector, Vector]:
    a, b, c, d, e, f = geometry.orientation or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    return (a, b, c), (d, e, f)


def _normal(geometry: Geometry) -> Vector:
    (a, b, c), (d, e, f) = _cosines(geometry)
    cross = (b * f - c * e, c * d - a * f, a * e - b * d)
    return _scale(cross, 1 / math.hypot(*cross))


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _minus(a: Vector, b: Vector) -> Vector:
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def _scale(a: Vector, factor: float) -> Vector:
    return (a[0] * factor, a[1] * factor, a[2] * factor)

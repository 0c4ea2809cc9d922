"""Tumour contour -> voxel mask on the CT grid; the second step of the job (receive -> plan -> analyse).

A voxel belongs to the ROI when its centre lies in an odd number of the slice's closed contours, edges included:
the rule that reproduces the IBSI phantom's reference mask and keeps contours drawn through pixel centres whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.uid import RTStructureSetStorage

from analysis.contract import Combine, NotScorable, QualityFlag, Reason, RoiFacts, RoiKind, Severity
from analysis.polygon import PolygonTooIntricate, polygon_mask
from analysis.volume import UNREADABLE, Volume

Mask = NDArray[np.bool_]
Window = tuple[slice, slice, slice]

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# A contour farther than this from its slice, as a share of the slice spacing, was not drawn on these slices:
# at one half it would fit two slices equally well.
PLANE_TOLERANCE = 0.25
# Below this distance (mm) an offset is the rounding of decimal strings and not worth a word.
PLANE_ROUNDING_MM = 0.1
REPEATED_DECIMALS = 2  # mm: two contours with all corners alike so far are one, written twice
MAX_POINTS = 2_000_000  # per ROI; a hand-drawn one has thousands
LONGEST_NAME = 64  # VR LO


@dataclass(frozen=True, eq=False)
class RoiMask:
    """The voxels to score.

    Attributes
    ----------
    array : bool, shape (slices, rows, columns) of the CT
    numbers : ROI or segment numbers that make up the mask, after `combine`
    flags : what the reader should know about the contour
    names : of each number, fit to be shown (`shown`)
    """

    array: Mask
    kind: RoiKind
    numbers: tuple[int, ...]
    combine: Combine
    flags: tuple[QualityFlag, ...] = ()
    names: tuple[str, ...] = ()

    @cached_property
    def box(self) -> Window:
        """The smallest box around the voxels: what is asked of the mask is asked in it, a hundredth of a chest."""
        found = bounding_box(self.array)
        assert found is not None  # combine_masks refuses an empty one
        return found

    def facts(self, volume: Volume) -> RoiFacts:
        """Counts and volume (mL) for the result."""
        box = self.box
        per_slice = np.count_nonzero(self.array[box], axis=(1, 2))
        voxels = int(per_slice.sum())
        return RoiFacts(
            kind=self.kind,
            numbers=self.numbers,
            names=self.names,
            combine=self.combine,
            voxels=voxels,
            volume_ml=voxels * float(np.prod(volume.spacing)) / 1000,
            slices=int(np.count_nonzero(per_slice)),
            largest_slice=box[0].start + int(per_slice.argmax()),
        )


def bounding_box(mask: Mask) -> Window | None:
    """Slices of the smallest box around the mask, or None if it is empty."""
    hits = np.flatnonzero(mask.any(axis=(1, 2)))
    if hits.size == 0:
        return None
    first = slice(int(hits[0]), int(hits[-1]) + 1)
    plane: Mask = np.logical_or.reduce(mask[first], axis=0)
    second, third = (np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0))
    return first, slice(int(second[0]), int(second[-1]) + 1), slice(int(third[0]), int(third[-1]) + 1)


def mask_from_rtstruct(
    source: Dataset | Path, roi_numbers: Sequence[int], combine: Combine | str, volume: Volume
) -> RoiMask:
    """Rasterise the chosen ROIs of an RTSTRUCT (PS3.3 C.8.8.6) on the CT grid.

    Contours are matched to slices by their distance along the normal (PLANE_TOLERANCE), never by
    ContourImageSequence, which is optional.

    Raises
    ------
    NotScorable
        ROI_UNREADABLE, ROI_NOT_FOUND, ROI_AMBIGUOUS, ROI_FRAME_OF_REFERENCE_DIFFERS, ROI_GEOMETRY_UNSUPPORTED,
        ROI_OUTSIDE_IMAGE or ROI_EMPTY.
    """
    dataset = source if isinstance(source, Dataset) else _read(source)
    flags = _Flags()
    masks, names = {}, {}
    for number in dict.fromkeys(roi_numbers):
        contours = _contours_of(dataset, number, volume.frame_of_reference_uid, flags)
        masks[number] = _rasterise(contours, volume, flags)
        names[number] = _name_of(dataset, number)
    return combine_masks(masks, Combine(combine), RoiKind.RTSTRUCT, flags.flags, names)


def combine_masks(
    masks: dict[int, Mask],
    combine: Combine,
    kind: RoiKind,
    flags: Iterable[QualityFlag] = (),
    names: Mapping[int, str] = MappingProxyType({}),
) -> RoiMask:
    """One mask from the chosen ones: the only one, the largest by voxels, or their union.

    Raises
    ------
    NotScorable
        ROI_NOT_FOUND, ROI_AMBIGUOUS (several where `single` was asked) or ROI_EMPTY.
    """
    if not masks:
        raise NotScorable(Reason.ROI_NOT_FOUND, "no ROI or segment number was asked for")
    if combine is Combine.SINGLE and len(masks) > 1:
        raise NotScorable(Reason.ROI_AMBIGUOUS, f"{len(masks)} ROIs")
    if combine is Combine.LARGEST:
        largest = max(masks, key=lambda number: (np.count_nonzero(masks[number]), -number))
        masks = {largest: masks[largest]}
    array = reduce(np.logical_or, masks.values())
    if not array.any():
        raise NotScorable(Reason.ROI_EMPTY)
    called = tuple(names[number] for number in masks) if names else ()
    return RoiMask(array, kind, tuple(masks), combine, (*flags, *_gap_flags(array)), called)


def shown(name: object) -> str:
    """A name of the sender, fit for a report.

    >>> shown("GTV-1 "), len(shown("x" * 999)), shown(None)
    ('GTV-1', 64, '')
    """
    text = str(name or "")[:LONGEST_NAME].strip()
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def flag(code: str, text: str, severity: Severity = Severity.WARNING) -> QualityFlag:
    """A quality flag; WARNING unless told otherwise."""
    return QualityFlag(code=code, severity=severity, text=text)


def _gap_flags(array: Mask) -> list[QualityFlag]:
    used = np.flatnonzero(array.any(axis=(1, 2)))
    missing = int(used[-1] - used[0] + 1 - used.size)
    if not missing:
        return []
    return [
        flag(
            "ROI_GAP",
            f"{missing} slices between the first and the last of the ROI carry no contour; "
            "they were left out, not interpolated.",
        )
    ]


_TEXTS = MappingProxyType(
    {
        "CONTOUR_OUTSIDE_IMAGE": "{0} contours outside the CT were left out.",
        "CONTOUR_CUT_BY_IMAGE_EDGE": "{0} contours reach over the edge of the CT and were cut there.",
        "CONTOUR_WITHOUT_AREA": "{0} contours of fewer than 3 points enclose nothing and were left out.",
        "CONTOUR_WITHOUT_VOXEL": "{0} contours are so small or thin that they enclose no voxel centre.",
        "CONTOUR_REPEATED": "{0} contours are there more than once and were counted once.",
        "CONTOUR_OFF_PLANE": "{0} contours lie beside their CT slice and were moved onto it.",
        "CONTOURS_OVERLAP": "{0} contours overlap another one of their slice without lying inside it; "
        "the shared voxels count as outside (even-odd rule).",
        "FRAME_OF_REFERENCE_ASSUMED": "{0} ROIs name no frame of reference; that of the CT was assumed.",
    }
)


class _Flags:
    """Counts what happened to contours and says it once per kind."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, code: str) -> None:
        self._counts[code] = self._counts.get(code, 0) + 1

    def __getitem__(self, code: str) -> int:
        return self._counts.get(code, 0)

    @property
    def flags(self) -> list[QualityFlag]:
        return [flag(code, _TEXTS[code].format(count)) for code, count in self._counts.items()]


# Reading ----------------------------------------------------------------------------------------------------


def _read(path: Path) -> Dataset:
    try:
        dataset = dcmread(path)
    except UNREADABLE as error:
        raise NotScorable(Reason.ROI_UNREADABLE, type(error).__name__) from None
    if dataset.get("SOPClassUID") != RTStructureSetStorage:
        raise NotScorable(Reason.ROI_UNREADABLE, "not an RT Structure Set")
    return dataset


def _contours_of(
    dataset: Dataset, number: int, frame_of_reference_uid: str, flags: _Flags
) -> list[NDArray[np.float64]]:
    """Points of the ROI's closed contours, each (n, 3) LPS mm."""
    try:
        names = [item for item in dataset.get("StructureSetROISequence") or () if item.get("ROINumber") == number]
        items = [item for item in dataset.get("ROIContourSequence") or () if item.get("ReferencedROINumber") == number]
        if not names or not items:
            raise NotScorable(Reason.ROI_NOT_FOUND, f"ROI number {number}")
        _check_frame(dataset, names[0], frame_of_reference_uid, flags)
        contours = [_points(item) for roi in items for item in roi.get("ContourSequence") or ()]
    except UNREADABLE as error:
        raise NotScorable(Reason.ROI_UNREADABLE, type(error).__name__) from None
    if sum(len(contour) for contour in contours) > MAX_POINTS:
        raise NotScorable(Reason.ROI_UNREADABLE, f"more than {MAX_POINTS} contour points")
    if not contours:
        raise NotScorable(Reason.ROI_EMPTY, f"ROI number {number} has no contours")
    return contours


def _name_of(dataset: Dataset, number: int) -> str:
    try:
        names = [item.get("ROIName") for item in dataset.StructureSetROISequence if item.get("ROINumber") == number]
    except UNREADABLE:  # a repertoire that nobody knows: the contour itself was read
        return ""
    return shown(names[0])


def _check_frame(dataset: Dataset, roi: Dataset, frame_of_reference_uid: str, flags: _Flags) -> None:
    named = roi.get("ReferencedFrameOfReferenceUID")
    if not named:
        frames = dataset.get("ReferencedFrameOfReferenceSequence") or ()
        uids = {item.get("FrameOfReferenceUID") for item in frames} - {None, ""}
        named = uids.pop() if len(uids) == 1 else None
    if not named:
        flags.add("FRAME_OF_REFERENCE_ASSUMED")
    elif named != frame_of_reference_uid:
        raise NotScorable(Reason.ROI_FRAME_OF_REFERENCE_DIFFERS)


def _points(contour: Dataset) -> NDArray[np.float64]:
    kind = contour.get("ContourGeometricType")
    if kind not in CLOSED:
        raise NotScorable(Reason.ROI_GEOMETRY_UNSUPPORTED, f"contour of type {str(kind)[:16]}")
    # Straight from the bytes where they are still bytes: pydicom's DS objects are 50 times slower.
    element: Any = contour.get_item("ContourData")
    if element is None:
        values = np.empty(0)
    elif isinstance(element, RawDataElement):
        text = (element.value or b"").strip(b" \0")
        values = np.array(text.split(b"\\") if text else (), dtype=np.float64)
    else:
        values = np.array(element.value if element.value is not None else (), dtype=np.float64)
    if values.size % 3:
        raise NotScorable(Reason.ROI_UNREADABLE, "contour data is not made of triples")
    if not np.isfinite(values).all():
        raise NotScorable(Reason.ROI_UNREADABLE, "a contour coordinate is not a finite number")
    return values.reshape(-1, 3)


# Rasterising ------------------------------------------------------------------------------------------------


def _rasterise(contours: Sequence[NDArray[np.float64]], volume: Volume, flags: _Flags) -> Mask:
    mask = np.zeros(volume.array.shape, dtype=np.bool_)
    planes: dict[int, float] = {}  # slice -> where its first contour lies, in slices
    drawn: set[bytes] = set()
    for points in contours:
        if len(points) < 3:
            flags.add("CONTOUR_WITHOUT_AREA")
            continue
        corners = _corners(points)
        if corners in drawn:  # even-odd, the same contour again would wipe out the first without a word
            flags.add("CONTOUR_REPEATED")
            continue
        drawn.add(corners)
        index = volume.to_index(points)
        number = _slice_of(index[:, 0], volume, planes, flags)
        if number is not None:
            _toggle(mask[number], index[:, 1:], flags)
    if not mask.any() and flags["CONTOUR_OUTSIDE_IMAGE"]:
        raise NotScorable(Reason.ROI_OUTSIDE_IMAGE)
    return mask


def _corners(points: NDArray[np.float64]) -> bytes:
    """What a contour and its repetition have in common, wherever it begins and whichever way it runs."""
    rounded = points.round(REPEATED_DECIMALS) + 0.0  # no -0.0, which has other bytes than 0.0
    corners: NDArray[np.float64] = np.unique(rounded, axis=0)
    return corners.tobytes()


def _slice_of(along: NDArray[np.float64], volume: Volume, planes: dict[int, float], flags: _Flags) -> int | None:
    """Slice that a contour was drawn on; `along` is the slice coordinate of its points. None: outside the CT."""
    spacing = volume.spacing[0]
    if np.ptp(along) > PLANE_TOLERANCE:
        raise NotScorable(
            Reason.ROI_GEOMETRY_UNSUPPORTED, f"a contour spans {np.ptp(along) * spacing:.1f} mm across the slices"
        )
    where = float(along.mean())
    nearest = round(where)
    if not -0.5 <= where <= volume.array.shape[0] - 0.5:
        flags.add("CONTOUR_OUTSIDE_IMAGE")
        return None
    offset = abs(where - nearest)
    if offset > PLANE_TOLERANCE:
        raise NotScorable(
            Reason.ROI_GEOMETRY_UNSUPPORTED, f"a contour lies {offset * spacing:.2f} mm off the nearest slice"
        )
    if abs(planes.setdefault(nearest, where) - where) * spacing > PLANE_ROUNDING_MM:
        raise NotScorable(Reason.ROI_GEOMETRY_UNSUPPORTED, "contours of two planes fall on one slice")
    if offset * spacing > PLANE_ROUNDING_MM:
        flags.add("CONTOUR_OFF_PLANE")
    return nearest


def _toggle(plane: Mask, points: NDArray[np.float64], flags: _Flags) -> None:
    """Even-odd: flip the pixels whose centre lies in the polygon. `points` are (row, column) indices."""
    last = np.array(plane.shape) - 0.5
    low, high = points.min(axis=0), points.max(axis=0)
    if (high < -0.5).any() or (low > last).any():
        flags.add("CONTOUR_OUTSIDE_IMAGE")
        return
    if (low < -0.5).any() or (high > last).any():
        flags.add("CONTOUR_CUT_BY_IMAGE_EDGE")
    try:
        rows, columns, inside = polygon_mask(points, (plane.shape[0], plane.shape[1]))
    except PolygonTooIntricate as error:
        raise NotScorable(Reason.ROI_GEOMETRY_UNSUPPORTED, f"a contour makes {error}") from None
    pixels = np.count_nonzero(inside)
    if not pixels:
        flags.add("CONTOUR_WITHOUT_VOXEL")
        return
    if 0 < np.count_nonzero(plane[rows, columns] & inside) < pixels:
        flags.add("CONTOURS_OVERLAP")
    plane[rows, columns] ^= inside

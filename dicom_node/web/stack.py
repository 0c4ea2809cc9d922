"""The CT of a work item as a stack of slices in the order of its mask: which file and frame each one is, and where."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.contract import JobResult
from dicom_node.decision import Plan
from dicom_node.instance import Instance
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.ticket import ticket_of
from dicom_node.workitem import WorkItem


@dataclass(frozen=True)
class Slice:
    """One image plane: `frame` counts from 0; `z` is Image Position (Patient) z in mm, None where absent."""

    path: Path
    frame: int
    z: float | None


@dataclass(frozen=True)
class Stack:
    """Slices ascending along the normal. `name` changes whenever a slice of a number would be another picture.

    `ratio` is the height of a pixel by its width; `edges` are the letters left, right, top, bottom of the picture,
    '' where not known; `largest` is the slice (from 0) with most of the contour, None where there is no contour.
    """

    name: str
    slices: tuple[Slice, ...]
    rows: int
    columns: int
    ratio: float
    edges: tuple[str, str, str, str]
    largest: int | None = None

    @property
    def head_last(self) -> bool:
        """Whether slices ascend towards the head."""
        heights = [item.z for item in self.slices if item.z is not None]
        return len(heights) < 2 or heights[-1] >= heights[0]


def stack_of(item: WorkItem, result: JobResult | None, store: Store, spool: Spool) -> Stack | None:
    """The stack of a work item; None where no CT image of it is here.

    A scored item shows the very bytes that were scored, in the order of its mask. What was not scored, or waits, shows
    what is on hand, ordered by position.
    """
    ticket = ticket_of(item.plan)
    if ticket is None:
        images = store.arrivals.series(item.ct_series_instance_uid or "")
    else:
        images = store.arrivals.contents(ticket.digests)
    ct = {image.sop_instance_uid: image for image in _one_series(images, item.ct_series_instance_uid)}
    if not ct:
        return None
    if ticket and isinstance(ticket.decision, Plan) and result and result.geometry and result.roi:
        planes = _as_scored(ticket.decision, result, ct)
        largest, order = result.roi.largest_slice, "scored"
    else:
        planes, largest, order = _by_position(ct.values()), None, "placed"
    slices = tuple(_slice(image, frame, spool) for image, frame in planes)
    first = planes[0][0].geometry
    height, width = first.pixel_spacing or (1.0, 1.0)
    name = f"{item.key}-{order}" if item.key else f"waiting-{item.id}-{len(slices)}-{item.updated_at}"
    ratio = height / width if 0.1 < height / (width or 1.0) < 10 else 1.0
    return Stack(
        name=name,
        slices=slices,
        rows=first.rows or 1,
        columns=first.columns or 1,
        ratio=ratio,
        edges=edge_letters(first.orientation),
        largest=largest if largest is not None and largest < len(slices) else None,
    )


def _one_series(images: Iterable[Instance], series: str | None) -> list[Instance]:
    """The CT images of the item's series; where it has none, of the series with most of them."""
    ct = [image for image in images if image.is_ct and image.geometry.rows and image.geometry.columns]
    counts = Counter(image.series_instance_uid for image in ct)
    chosen = series if series in counts else next((uid for uid, _ in counts.most_common(1)), "")
    return [image for image in ct if image.series_instance_uid == chosen]


def _as_scored(plan: Plan, result: JobResult, ct: Mapping[str, Instance]) -> list[tuple[Instance, int]]:
    """Files and frames as the result's geometry lists them."""
    assert result.geometry is not None
    names = {Spool.ct_name(place): uid for place, uid in enumerate(plan.ct_sop_instance_uids)}
    return [
        (ct[names[name]], frame - 1) for name, frame in zip(result.geometry.files, result.geometry.frames, strict=True)
    ]


def _by_position(images: Iterable[Instance]) -> list[tuple[Instance, int]]:
    """Planes along the normal of the first; those without a position come last, in order of their UIDs."""
    planes = [(image, frame) for image in images for frame in range(max(1, len(image.geometry.positions)))]
    normal = next((n for image, _ in planes if (n := _normal(image.geometry.orientation)) is not None), None)

    def place(plane: tuple[Instance, int]) -> tuple[bool, float]:
        image, frame = plane
        if normal is None or frame >= len(image.geometry.positions):
            return True, 0.0
        return False, float(normal @ np.asarray(image.geometry.positions[frame]))

    return sorted(planes, key=place)


def _normal(orientation: tuple[float, ...] | None) -> "np.ndarray[tuple[int], np.dtype[np.float64]] | None":
    if orientation is None:
        return None
    row, column = np.asarray(orientation[:3], float), np.asarray(orientation[3:], float)
    normal = np.cross(row, column)
    return normal if float(np.linalg.norm(normal)) > 0.5 else None


def _slice(image: Instance, frame: int, spool: Spool) -> Slice:
    positions = image.geometry.positions
    z = positions[frame][2] if frame < len(positions) else None
    return Slice(spool.instance_path(image.sop_instance_uid, image.digest), frame, z)


def edge_letters(orientation: tuple[float, ...] | None) -> tuple[str, str, str, str]:
    """Patient directions at the left, right, top and bottom of an image (PS3.3 C.7.6.1.1.1), the main one first.

    >>> edge_letters((1, 0, 0, 0, 1, 0)), edge_letters((0, 1, 0, 0, 0, -1))
    (('R', 'L', 'A', 'P'), ('A', 'P', 'H', 'F'))
    >>> edge_letters(None)
    ('', '', '', '')
    """
    if orientation is None or len(orientation) != 6:
        return "", "", "", ""
    right, bottom = _letters(orientation[:3]), _letters(orientation[3:])
    left, top = (_letters([-value for value in half]) for half in (orientation[:3], orientation[3:]))
    return left, right, top, bottom


def _letters(direction: Iterable[float]) -> str:
    """Letters of the axes that a direction follows by more than about 15 degrees, the strongest first."""
    named = [
        ("L" if x > 0 else "R", "P" if x > 0 else "A", "H" if x > 0 else "F")[axis] for axis, x in _axes(direction)
    ]
    return "".join(named)


def _axes(direction: Iterable[float]) -> list[tuple[int, float]]:
    strong = [(axis, value) for axis, value in enumerate(direction) if abs(value) > 0.26]
    return sorted(strong, key=lambda item: -abs(item[1]))

"""Image planes and rescaling of single- and multi-frame images, for `headers`. Pure."""

from collections.abc import Sequence

from pydicom.dataset import Dataset

from dicom_node.elements import (
    Header,
    UnreadableHeader,
    ascii_text,
    first_item,
    items,
    numbers,
    unsigned_short,
    whole_number,
)
from dicom_node.instance import Geometry

MAXIMUM_FRAMES = 20_000
_SAME = 1e-4  # cosines and mm: what converters lose when they print a decimal string


def geometry_of(dataset: Header) -> Geometry:
    """Image plane (PS3.3 C.7.6.2), or that of every frame from the functional groups (C.7.6.16.2).

    `positions` is empty when any frame's is absent or not finite: half a geometry is none.
    """
    rows, columns = unsigned_short(dataset, "Rows"), unsigned_short(dataset, "Columns")
    frames = frames_of(dataset)
    if not frames:
        return Geometry(
            rows=rows,
            columns=columns,
            orientation=numbers(dataset, "ImageOrientationPatient", 6),
            pixel_spacing=_two(numbers(dataset, "PixelSpacing", 2)),
            positions=position_of(dataset),
        )
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    positions = [_group(f, shared, "PlanePositionSequence", "ImagePositionPatient", 3) for f in frames]
    orientations = [_group(f, shared, "PlaneOrientationSequence", "ImageOrientationPatient", 6) for f in frames]
    spacings = [_group(f, shared, "PixelMeasuresSequence", "PixelSpacing", 2) for f in frames]
    return Geometry(
        rows=rows,
        columns=columns,
        orientation=orientations[0],
        pixel_spacing=_two(spacings[0]),
        positions=tuple(_three(p) for p in positions if p) if all(positions) else (),
        same_orientation=_all_same(orientations) and _all_same(spacings),
    )


def position_of(dataset: Header) -> tuple[()] | tuple[tuple[float, float, float]]:
    """`Geometry.positions` of a single-frame object."""
    position = numbers(dataset, "ImagePositionPatient", 3)
    return (_three(position),) if position else ()


def frames_of(dataset: Header) -> Sequence[Dataset]:
    """Items of Per-Frame Functional Groups; () for a single-frame object. Raises UnreadableHeader."""
    frames = items(dataset, "PerFrameFunctionalGroupsSequence")
    if len(frames) > MAXIMUM_FRAMES:
        raise UnreadableHeader(f"PerFrameFunctionalGroupsSequence has {len(frames)} items")
    stated = whole_number(dataset, "NumberOfFrames")
    if frames and stated is not None and stated != len(frames):
        raise UnreadableHeader(f"PerFrameFunctionalGroupsSequence has {len(frames)} items, but NumberOfFrames differs")
    return frames


def rescale_of(dataset: Header) -> tuple[bool, str]:
    """Whether slope and intercept are there (in every frame), finite and the slope not zero; and the Rescale Type."""
    frames = frames_of(dataset)
    if not frames:
        return _rescales(dataset), ascii_text(dataset, "RescaleType", 16)
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    groups = [_functional_group(frame, shared, "PixelValueTransformationSequence") for frame in frames]
    kinds = {ascii_text(group, "RescaleType", 16) for group in groups}
    return all(_rescales(group) for group in groups), kinds.pop() if len(kinds) == 1 else ""


def _rescales(group: Header) -> bool:
    slope, intercept = numbers(group, "RescaleSlope", 1), numbers(group, "RescaleIntercept", 1)
    return slope is not None and intercept is not None and slope[0] != 0


def _functional_group(frame: Dataset, shared: Dataset, sequence: str) -> Dataset:
    return first_item(frame, sequence) or first_item(shared, sequence)


def _group(frame: Dataset, shared: Dataset, sequence: str, keyword: str, count: int) -> tuple[float, ...] | None:
    return numbers(_functional_group(frame, shared, sequence), keyword, count)


def _all_same(values: Sequence[tuple[float, ...] | None]) -> bool:
    first = values[0]
    for value in values:
        if value is first:
            continue
        if value is None or first is None or any(abs(a - b) > _SAME for a, b in zip(value, first, strict=True)):
            return False
    return True


def _two(values: tuple[float, ...] | None) -> tuple[float, float] | None:
    return (values[0], values[1]) if values else None


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    return (values[0], values[1], values[2])

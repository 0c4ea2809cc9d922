"""What a contour object (RTSTRUCT, SEG) draws and on which images, for `headers`. Pure.

Images are named in series-level lists, and at contours or frames. What only the latter name is kept by ROI: a point or
an organ says nothing of the tumour. A list that names no image but those drawn on is marked: it need not hold the whole
series.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset

from dicom_node.elements import (
    Encodings,
    UnreadableHeader,
    ascii_text,
    first_item,
    items,
    name_text,
    uid,
    unsigned_short,
    whole_number,
)
from dicom_node.frames import frames_of
from dicom_node.instance import Roi

MAXIMUM_REFERENCES = 20_000
MAXIMUM_ROIS = 1_000
MAXIMUM_CONTOURS = 200_000
MAXIMUM_UNLISTED = 200_000  # images of all ROIs together

_Images = Mapping[str, Dataset]  # by SOP Instance UID


@dataclass(frozen=True)
class References:
    """ROIs and references of a contour object; UIDs in the order of first mention, each once."""

    rois: tuple[Roi, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()
    series_instance_uids: tuple[str, ...] = ()
    sop_class_uids: tuple[str, ...] = ()
    frame_of_reference_uid: str = ""
    from_contours: bool = False


def rtstruct_facts(dataset: Dataset, encodings: Encodings) -> References:
    """ROIs (PS3.3 C.8.8.5, C.8.8.6, C.8.8.8) and referenced images of an RTSTRUCT. Raises UnreadableHeader."""
    frames = items(dataset, "ReferencedFrameOfReferenceSequence")
    series = [
        one
        for frame in frames
        for study in items(frame, "RTReferencedStudySequence")
        for one in items(study, "RTReferencedSeriesSequence")
    ]
    listed = _limited(image for one in series for image in items(one, "ContourImageSequence"))
    structures = _structures(dataset)
    contours = {whole_number(roi, "ReferencedROINumber"): roi for roi in items(dataset, "ROIContourSequence")}
    # Once for each number: a hostile object has a thousand structures of one number, and many contours of that.
    drawings = {number: _drawing(contours.get(number)) for number in dict.fromkeys(number for number, _ in structures)}
    rois = tuple(_rtstruct_rois(dataset, structures, drawings, encodings))
    drawn_on: dict[int | None, _Images] = {number: drawing.images for number, drawing in drawings.items()}
    frame_uids = {uid(frame, "FrameOfReferenceUID") for frame in frames} - {""}
    return _references(
        listed,
        drawn_on,
        series,
        rois,
        frame_of_reference_uid=frame_uids.pop() if len(frame_uids) == 1 else "",
    )


@dataclass(frozen=True)
class _Drawing:
    """What is drawn of a ROI number."""

    contours: int
    geometric_types: tuple[str, ...]
    images: _Images


def _drawing(roi: Dataset | None) -> _Drawing:
    contours = items(roi, "ContourSequence") if roi is not None else []
    if len(contours) > MAXIMUM_CONTOURS:
        raise UnreadableHeader(f"ContourSequence has {len(contours)} items")
    types = {ascii_text(one, "ContourGeometricType", 16) for one in contours}
    images = _limited(image for one in contours for image in items(one, "ContourImageSequence"))
    return _Drawing(len(contours), tuple(sorted(types)), images)


def _structures(dataset: Dataset) -> list[tuple[int, Dataset]]:
    """The items of the Structure Set ROI Sequence, each with its ROI number."""
    structures = items(dataset, "StructureSetROISequence")
    if len(structures) > MAXIMUM_ROIS:
        raise UnreadableHeader(f"StructureSetROISequence has {len(structures)} items")
    found = []
    for one in structures:
        number = whole_number(one, "ROINumber")
        if number is None:
            raise UnreadableHeader("ROINumber is absent or not a number")
        found.append((number, one))
    return found


def _rtstruct_rois(
    dataset: Dataset, structures: list[tuple[int, Dataset]], drawings: Mapping[int, _Drawing], encodings: Encodings
) -> Iterator[Roi]:
    types = {
        whole_number(one, "ReferencedROINumber"): ascii_text(one, "RTROIInterpretedType", 16)
        for one in items(dataset, "RTROIObservationsSequence")
    }
    for number, structure in structures:
        yield Roi(
            number=number,
            name=name_text(structure, "ROIName", encodings),
            interpreted_type=types.get(number, ""),
            contours=drawings[number].contours,
            geometric_types=drawings[number].geometric_types,
            frame_of_reference_uid=uid(structure, "ReferencedFrameOfReferenceUID"),
        )


def seg_facts(dataset: Dataset, encodings: Encodings, *, label_map: bool) -> References:
    """Segments (PS3.3 C.8.20.2) and referenced images of a SEG. Raises UnreadableHeader.

    The frames of a label map name no segment: each segment then counts them all.
    """
    frames = frames_of(dataset)
    series = list(items(dataset, "ReferencedSeriesSequence"))
    listed = _limited(image for one in series for image in items(one, "ReferencedInstanceSequence"))
    segments = items(dataset, "SegmentSequence")
    if len(segments) > MAXIMUM_ROIS:
        raise UnreadableHeader(f"SegmentSequence has {len(segments)} items")
    by_segment = _frames_per_segment(dataset, frames)
    frame_of_reference_uid = uid(dataset, "FrameOfReferenceUID")
    rois = []
    for segment in segments:
        number = unsigned_short(segment, "SegmentNumber")
        if number is None:
            raise UnreadableHeader("SegmentNumber is absent or not a number")
        rois.append(
            Roi(
                number=number,
                name=name_text(segment, "SegmentLabel", encodings),
                interpreted_type=ascii_text(first_item(segment, "SegmentedPropertyTypeCodeSequence"), "CodeValue", 16),
                contours=len(frames if label_map else by_segment[number]),
                frame_of_reference_uid=frame_of_reference_uid,
            )
        )
    by_roi = {None: frames} if label_map else by_segment
    drawn_on = {number: _limited(_sources(of_roi)) for number, of_roi in by_roi.items()}
    if not listed and not any(drawn_on.values()):
        drawn_on = {None: _limited(items(dataset, "SourceImageSequence"))}
    return _references(listed, drawn_on, series, tuple(rois))


def _sources(frames: Iterable[Dataset]) -> Iterator[Dataset]:
    for frame in frames:
        for derivation in items(frame, "DerivationImageSequence"):
            yield from items(derivation, "SourceImageSequence")


def _frames_per_segment(dataset: Dataset, frames: Iterable[Dataset]) -> defaultdict[int | None, list[Dataset]]:
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    common = first_item(shared, "SegmentIdentificationSequence")
    found = defaultdict[int | None, list[Dataset]](list)
    for frame in frames:
        segment = first_item(frame, "SegmentIdentificationSequence") or common
        found[unsigned_short(segment, "ReferencedSegmentNumber")].append(frame)
    return found


def _references(
    listed: _Images,
    drawn_on: Mapping[int | None, _Images],
    series: list[Dataset],
    rois: tuple[Roi, ...],
    frame_of_reference_uid: str = "",
) -> References:
    """`drawn_on` by ROI number; those of None are of all ROIs."""
    drawn: dict[str, Dataset] = {}
    for of_roi in drawn_on.values():
        drawn.update(of_roi)
        _check_number(drawn)
    # Contours leave slices above and below free: only a list that holds these, too, can be that of the whole series.
    # One image that is listed is a multi-frame one, or too few.
    whole = bool(listed.keys() - drawn.keys()) or len(listed) == 1
    images = {**listed, **drawn, **listed}  # in the list's order and words, then the others
    uids = tuple(one for one in images if one)
    unlisted = {
        number: {one: image for one, image in drawn_on.get(number, {}).items() if one not in listed}
        for number in {roi.number for roi in rois}
    }
    if sum(len(unlisted[roi.number]) for roi in rois) > MAXIMUM_UNLISTED:
        raise UnreadableHeader(f"ROIs are drawn on more than {MAXIMUM_UNLISTED} images that are not listed")
    places = {one: place for place, one in enumerate(uids)}
    of_rois = frozenset[str]().union(*unlisted.values())
    return References(
        rois=tuple(_with_unlisted(roi, unlisted[roi.number], places) for roi in rois),
        sop_instance_uids=uids,
        series_instance_uids=_once(uid(one, "SeriesInstanceUID") for one in series),
        sop_class_uids=_classes(image for one, image in images.items() if one not in of_rois),
        frame_of_reference_uid=frame_of_reference_uid,
        from_contours=bool(images) and not whole,
    )


def _with_unlisted(roi: Roi, unlisted: _Images, places: Mapping[str, int]) -> Roi:
    found = tuple(sorted(places[one] for one in unlisted if one))
    return replace(roi, unlisted_images=found, unlisted_sop_class_uids=_classes(unlisted.values()))


def _classes(images: Iterable[Dataset]) -> tuple[str, ...]:
    return _once(uid(image, "ReferencedSOPClassUID") for image in images)


def _once(uids: Iterable[str]) -> tuple[str, ...]:
    return tuple(one for one in dict.fromkeys(uids) if one)


def _limited(images: Iterable[Dataset]) -> dict[str, Dataset]:
    """Images by SOP Instance UID, once each; contours name the same image again and again."""
    found: dict[str, Dataset] = {}
    for image in images:
        found.setdefault(uid(image, "ReferencedSOPInstanceUID"), image)
        _check_number(found)
    return found


def _check_number(images: _Images) -> None:
    if len(images) > MAXIMUM_REFERENCES:
        raise UnreadableHeader(f"more than {MAXIMUM_REFERENCES} images are referenced")

"""What a contour object (RTSTRUCT, SEG) draws and on which images, for `headers`. Pure.

All images that are named count: those of the series-level lists, and those at contours or frames. A list that names no
image but the latter is marked: it need not hold the whole series.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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
    contours = {whole_number(roi, "ReferencedROINumber"): roi for roi in items(dataset, "ROIContourSequence")}
    listed = _limited(image for one in series for image in items(one, "ContourImageSequence"))
    drawn_on = _limited(
        image
        for roi in contours.values()
        for contour in items(roi, "ContourSequence")
        for image in items(contour, "ContourImageSequence")
    )
    frame_uids = {uid(frame, "FrameOfReferenceUID") for frame in frames} - {""}
    return _references(
        listed,
        drawn_on,
        series,
        rois=tuple(_rtstruct_rois(dataset, contours, encodings)),
        frame_of_reference_uid=frame_uids.pop() if len(frame_uids) == 1 else "",
    )


def _rtstruct_rois(dataset: Dataset, contours: dict[int | None, Dataset], encodings: Encodings) -> Iterator[Roi]:
    structures = items(dataset, "StructureSetROISequence")
    if len(structures) > MAXIMUM_ROIS:
        raise UnreadableHeader(f"StructureSetROISequence has {len(structures)} items")
    types = {
        whole_number(one, "ReferencedROINumber"): ascii_text(one, "RTROIInterpretedType", 16)
        for one in items(dataset, "RTROIObservationsSequence")
    }
    for structure in structures:
        number = whole_number(structure, "ROINumber")
        if number is None:
            raise UnreadableHeader("ROINumber is absent or not a number")
        drawn = items(contours.get(number, Dataset()), "ContourSequence")
        if len(drawn) > MAXIMUM_CONTOURS:
            raise UnreadableHeader(f"ContourSequence has {len(drawn)} items")
        yield Roi(
            number=number,
            name=name_text(structure, "ROIName", encodings),
            interpreted_type=types.get(number, ""),
            contours=len(drawn),
            geometric_types=tuple(sorted({ascii_text(one, "ContourGeometricType", 16) for one in drawn})),
            frame_of_reference_uid=uid(structure, "ReferencedFrameOfReferenceUID"),
        )


def seg_facts(dataset: Dataset, encodings: Encodings, *, label_map: bool) -> References:
    """Segments (PS3.3 C.8.20.2) and referenced images of a SEG. Raises UnreadableHeader.

    The frames of a label map name no segment: each segment then counts them all.
    """
    frames = frames_of(dataset)
    series = list(items(dataset, "ReferencedSeriesSequence"))
    listed = _limited(image for one in series for image in items(one, "ReferencedInstanceSequence"))
    drawn_on = _limited(
        image
        for frame in frames
        for derivation in items(frame, "DerivationImageSequence")
        for image in items(derivation, "SourceImageSequence")
    )
    if not listed and not drawn_on:
        drawn_on = _limited(items(dataset, "SourceImageSequence"))
    segments = items(dataset, "SegmentSequence")
    if len(segments) > MAXIMUM_ROIS:
        raise UnreadableHeader(f"SegmentSequence has {len(segments)} items")
    counts = _frames_per_segment(dataset, frames)
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
                contours=len(frames) if label_map else counts[number],
                frame_of_reference_uid=frame_of_reference_uid,
            )
        )
    return _references(listed, drawn_on, series, rois=tuple(rois))


def _frames_per_segment(dataset: Dataset, frames: Iterable[Dataset]) -> Counter[int | None]:
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    common = first_item(shared, "SegmentIdentificationSequence")
    return Counter(
        unsigned_short(first_item(frame, "SegmentIdentificationSequence") or common, "ReferencedSegmentNumber")
        for frame in frames
    )


def _references(
    listed: dict[str, Dataset],
    drawn_on: dict[str, Dataset],
    series: list[Dataset],
    *,
    rois: tuple[Roi, ...],
    frame_of_reference_uid: str = "",
) -> References:
    # Contours leave slices above and below free: only a list that holds these, too, can be that of the whole series.
    # One image that is listed is a multi-frame one, or too few.
    whole = drawn_on.keys() < listed.keys() or (drawn_on.keys() == listed.keys() and len(listed) == 1)
    images = listed | (drawn_on | listed)  # in the list's order and words, then the others
    return References(
        rois=rois,
        sop_instance_uids=tuple(one for one in images if one),
        series_instance_uids=_once(uid(one, "SeriesInstanceUID") for one in series),
        sop_class_uids=_once(uid(image, "ReferencedSOPClassUID") for image in images.values()),
        frame_of_reference_uid=frame_of_reference_uid,
        from_contours=bool(images) and not whole,
    )


def _once(uids: Iterable[str]) -> tuple[str, ...]:
    return tuple(one for one in dict.fromkeys(uids) if one)


def _limited(images: Iterable[Dataset]) -> dict[str, Dataset]:
    """Images by SOP Instance UID, once each; contours name the same image again and again."""
    found: dict[str, Dataset] = {}
    for image in images:
        found.setdefault(uid(image, "ReferencedSOPInstanceUID"), image)
        if len(found) > MAXIMUM_REFERENCES:
            raise UnreadableHeader(f"more than {MAXIMUM_REFERENCES} images are referenced")
    return found

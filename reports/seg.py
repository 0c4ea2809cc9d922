"""SEG: the exact voxels that were scored, frozen as a BINARY segmentation of the CT."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    SegmentationTypeValues,
    SegmentDescription,
)
from highdicom.seg import Segmentation as HighdicomSegmentation
from highdicom.spatial import get_volume_positions
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from config.identity import MANUFACTURER, MODEL_NAME
from reports import codes
from reports.context import ReportContext, described, local_time
from reports.evidence import EvidenceError, Mask, frame_count, refer, slice_stand_in, sop_reference, stand_in
from reports.finish import CHARACTER_SET, finish
from reports.sr_document import Slot
from reports.uids import derive

SEGMENT_LABEL = "Region scored"
_POSITION = Tag("ImagePositionPatient")


def build(
    ct: Sequence[Dataset],
    mask: Mask,
    tracking_uid: str,
    slot: Slot,
    context: ReportContext,
    frame_numbers: Sequence[int] | None = None,
    names: Sequence[str] = (),
) -> Dataset:
    """A SEG of one segment; empty frames are omitted.

    Parameters
    ----------
    ct : sequence of Dataset
        Headers in the order of the mask's slices; one header where the CT is multi-frame.
    mask : Mask
    frame_numbers : sequence of int, optional
        Multi-frame CT only: 1-based frame of each mask slice; default 1, 2, 3 ...
    names : sequence of str
        Of the ROIs that were scored; they become the Segment Description (0062,0006).

    Raises
    ------
    EvidenceError
        Where mask and CT do not fit, or the mask is empty.
    """
    numbers = _frame_numbers(ct, mask, frame_numbers)
    chosen = _chosen(mask.held, numbers) if len(ct) > 1 else None
    images = _source_images(ct, chosen or [0])
    now = local_time(context, ct[0])
    made: Dataset = HighdicomSegmentation(
        source_images=images,
        pixel_array=_frames(mask.voxels, numbers, chosen or range(frame_count(ct[0]))),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(tracking_uid, context)],
        series_instance_uid=slot.series_instance_uid,
        series_number=slot.series_number,
        sop_instance_uid=slot.sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=context.software_version[:64],
        device_serial_number=context.device_uid,
        content_description=described("Voxels of the contour that was scored", context),
        content_label="REGION_SCORED",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
        specific_character_set=CHARACTER_SET,
        content_date=now.date(),
        content_time=now.time(),
        series_description=slot.series_description,
    )
    if any(names):
        made.SegmentSequence[0].SegmentDescription = ", ".join(names)[:1024]
    if chosen is not None:
        _as_of_all(made, ct, images[0])
    _derive_dimension_uid(made, slot)
    return finish(made, ct[0], context)


def _chosen(held: NDArray[np.bool_], numbers: NDArray[np.int_]) -> list[int]:
    """Places of the slices that highdicom is given, in the order of the CT: the first, from which it takes what all
    share, and those that hold any of the mask. It leaves the others out, but only after it has copied their headers.
    """
    return sorted({0, *(numbers[held] - 1).tolist()})


def _as_of_all(made: Dataset, ct: Sequence[Dataset], first: Dataset) -> None:
    """What highdicom says of the whole series: references to every slice, and the distance between neighbours."""
    references = [sop_reference(refer(header)) for header in ct]
    made.SourceImageSequence = references
    made.ReferencedSeriesSequence[0].ReferencedInstanceSequence = references
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if "SpacingBetweenSlices" in first:
        return
    positions = [_position(header) for header in ct]
    spacing, _ = get_volume_positions(image_positions=positions, image_orientation=first.ImageOrientationPatient)
    if spacing is not None:
        measures.SpacingBetweenSlices = format_number_as_ds(spacing)
    elif "SpacingBetweenSlices" in measures:
        del measures.SpacingBetweenSlices


def _position(header: Dataset) -> Sequence[float]:
    """Image Position (Patient), without an object of pydicom for each number: there are 900."""
    found: Any = header.get_item(_POSITION)  # raw, where nobody has looked at it
    if isinstance(found, RawDataElement) and found.value and found.value.count(b"\\") == 2:
        with suppress(ValueError):
            return [float(part) for part in found.value.split(b"\\")]
    return header.ImagePositionPatient  # type: ignore[no-any-return]


def _source_images(ct: Sequence[Dataset], chosen: Sequence[int]) -> list[Dataset]:
    """Stand-ins, the first with a Slice Thickness: it is type 2 in CT, but a SEG of a volume cannot be without it.

    Where it is missing, the distance between slices takes its place: that is how thick a voxel of the mask is.
    """
    images = [stand_in(ct[chosen[0]]), *(slice_stand_in(ct[place]) for place in chosen[1:])]
    if len(ct) > 1 and not images[0].get("SliceThickness"):
        first, second = (np.asarray(header.ImagePositionPatient, float) for header in ct[:2])
        distance = round(float(np.linalg.norm(second - first)), 4)
        images[0].SliceThickness = distance
    return images


def _frame_numbers(ct: Sequence[Dataset], masked: Mask, given: Sequence[int] | None) -> NDArray[np.int_]:
    """Of each slice of the mask its source instance, or frame of a multi-frame source, from 1."""
    mask = masked.voxels
    if mask.ndim != 3 or mask.shape[1:] != (int(ct[0].Rows), int(ct[0].Columns)):
        raise EvidenceError(f"mask of shape {mask.shape} does not fit the CT's matrix; analyse the series again")
    if not masked.held.any():
        raise EvidenceError("the mask is empty; an empty ROI is a NOT_SCORED result, not a segmentation")
    total = frame_count(ct[0]) if len(ct) == 1 else len(ct)
    numbers = list(given) if given is not None else list(range(1, len(mask) + 1))
    fits = len(numbers) == len(mask) == len(set(numbers)) and all(1 <= number <= total for number in numbers)
    if not fits or (len(ct) > 1 and len(mask) != total):
        raise EvidenceError(f"{len(mask)} mask slices do not fit a CT of {total} slices; analyse the series again")
    return np.array(numbers)


def _frames(mask: NDArray[np.bool_], numbers: NDArray[np.int_], chosen: Sequence[int]) -> NDArray[np.uint8]:
    """The mask as highdicom wants it: a plane for each source instance, or frame, that it is given."""
    places = {number - 1: place for place, number in enumerate(numbers.tolist())}
    planes = np.zeros((len(chosen), *mask.shape[1:]), np.uint8)
    for plane, place in zip(planes, chosen, strict=True):
        if place in places:
            plane[:] = mask[places[place]]
    return planes


def _segment(tracking_uid: str, context: ReportContext) -> SegmentDescription:
    return SegmentDescription(
        segment_number=1,
        segment_label=SEGMENT_LABEL,
        segmented_property_category=codes.ABNORMAL_STRUCTURE,
        segmented_property_type=codes.NEOPLASM,
        # Someone else drew the contour; we turned it into voxels.
        algorithm_type=SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name="Contour to voxels, pixel-centre rule",
            family=codes.MANUAL_PROCESSING,
            version=context.software_version,
            source=MANUFACTURER,
        ),
        tracking_uid=tracking_uid,
        tracking_id=SEGMENT_LABEL,
    )


def _derive_dimension_uid(segmentation: Dataset, slot: Slot) -> None:
    """highdicom draws a random Dimension Organization UID; a rebuild must give the same bytes."""
    uid = derive("dimension organization", slot.sop_instance_uid)
    for item in segmentation.DimensionOrganizationSequence:
        item.DimensionOrganizationUID = uid
    for item in segmentation.DimensionIndexSequence:
        item.DimensionOrganizationUID = uid

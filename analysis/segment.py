"""DICOM SEG -> voxel mask on the CT grid; the other half of the second step of the job."""

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.errors import InvalidDicomError

from analysis.contract import Combine, NotScorable, Reason, RoiKind
from analysis.roi import Mask, RoiMask, combine_masks, flag
from analysis.volume import Volume

FRACTION = 0.5  # a voxel of a FRACTIONAL segment counts from here
_UNREADABLE = (InvalidDicomError, OSError, EOFError, ValueError, TypeError, KeyError, AttributeError,
               IndexError, RuntimeError, NotImplementedError, OverflowError)


def mask_from_seg(
    source: Path, segment_numbers: Sequence[int], combine: Combine | str, volume: Volume
) -> RoiMask:
    """Put the chosen segments of a Segmentation or Label Map Segmentation (PS3.3 A.51) on the CT grid.

    FRACTIONAL segments are cut at 0.5, with a flag. The SEG's pixels must coincide with the CT's; nothing is
    resampled.

    Raises
    ------
    NotScorable
        ROI_UNREADABLE, ROI_NOT_FOUND, ROI_AMBIGUOUS, ROI_FRAME_OF_REFERENCE_DIFFERS, ROI_GEOMETRY_UNSUPPORTED,
        ROI_OUTSIDE_IMAGE or ROI_EMPTY.
    """
    try:
        segmentation = hd.seg.segread(source)
        known = set(segmentation.segment_numbers)
        frame_of_reference_uid = segmentation.get("FrameOfReferenceUID")
    except _UNREADABLE as error:
        raise NotScorable(Reason.ROI_UNREADABLE, type(error).__name__) from None
    if frame_of_reference_uid != volume.frame_of_reference_uid:
        raise NotScorable(Reason.ROI_FRAME_OF_REFERENCE_DIFFERS)
    missing = set(segment_numbers) - known
    if missing:
        raise NotScorable(Reason.ROI_NOT_FOUND, f"segment number {min(missing)}")
    masks = {number: _segment(segmentation, number, volume) for number in dict.fromkeys(segment_numbers)}
    fractional = segmentation.segmentation_type is hd.seg.SegmentationTypeValues.FRACTIONAL
    flags = [flag("SEG_FRACTIONAL", "The segment is fractional; voxels of 0.5 and more were taken.")]
    return combine_masks(masks, Combine(combine), RoiKind.SEG, flags if fractional else ())


def geometry_of(volume: Volume) -> hd.VolumeGeometry:
    """The CT grid as highdicom knows it."""
    return hd.VolumeGeometry(
        affine=volume.affine,
        spatial_shape=volume.array.shape,
        coordinate_system="PATIENT",
        frame_of_reference_uid=volume.frame_of_reference_uid,
    )


def _segment(segmentation: hd.seg.Segmentation, number: int, volume: Volume) -> Mask:
    try:
        cut = segmentation.get_volume(segment_numbers=[number], rescale_fractional=True, dtype=np.float32)
    except _UNREADABLE as error:
        raise NotScorable(Reason.ROI_GEOMETRY_UNSUPPORTED, f"segment frames: {type(error).__name__}") from None
    inside = int(np.count_nonzero(cut.array >= FRACTION))
    if not inside:
        raise NotScorable(Reason.ROI_EMPTY, f"segment number {number}")
    try:
        # Where frames are few highdicom cannot know their distance: the CT's is meant.
        matched = cut.match_geometry(geometry_of(volume), tol=1e-2)
    except (RuntimeError, ValueError) as error:
        raise NotScorable(Reason.ROI_GEOMETRY_UNSUPPORTED,
                          f"the segment's grid is not the CT's ({type(error).__name__})") from None
    array: Mask = np.squeeze(matched.array, axis=-1) >= FRACTION if matched.array.ndim == 4 else (
        matched.array >= FRACTION)
    if not array.any():
        raise NotScorable(Reason.ROI_OUTSIDE_IMAGE)
    return array

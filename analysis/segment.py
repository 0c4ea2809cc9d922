"""DICOM SEG -> voxel mask on the CT grid; the other half of the second step of the job."""

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np

from analysis.contract import Combine, NotScorable, Reason, RoiKind
from analysis.geometry import POSITION_JITTER_MM, SPACING_RTOL
from analysis.roi import Mask, RoiMask, combine_masks, flag, shown
from analysis.volume import Volume

FRACTION = 0.5  # a voxel of a FRACTIONAL segment counts from here
AXIS_TOLERANCE = 1e-3  # cosines: half a pixel over 512
VOXEL_TOLERANCE = 0.05  # of a voxel between a segment's centres and the CT's


def mask_from_seg(source: Path, segment_numbers: Sequence[int], combine: Combine | str, volume: Volume) -> RoiMask:
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
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the boundary to highdicom: its tables raise errors of SQLite, too
        raise NotScorable(Reason.ROI_UNREADABLE, type(error).__name__) from None
    if frame_of_reference_uid != volume.frame_of_reference_uid:
        raise NotScorable(Reason.ROI_FRAME_OF_REFERENCE_DIFFERS)
    missing = set(segment_numbers) - known
    if missing:
        raise NotScorable(Reason.ROI_NOT_FOUND, f"segment number {min(missing)}")
    masks = {number: _segment(segmentation, number, volume) for number in dict.fromkeys(segment_numbers)}
    fractional = segmentation.segmentation_type is hd.seg.SegmentationTypeValues.FRACTIONAL
    flags = [flag("SEG_FRACTIONAL", "The segment is fractional; voxels of 0.5 and more were taken.")]
    names = {number: shown(segmentation.get_segment_description(number).segment_label) for number in masks}
    return combine_masks(masks, Combine(combine), RoiKind.SEG, flags if fractional else (), names)


def geometry_of(volume: Volume) -> hd.VolumeGeometry:
    """The CT grid as highdicom knows it."""
    return hd.VolumeGeometry(
        affine=volume.affine,
        spatial_shape=volume.array.shape,
        coordinate_system="PATIENT",
        frame_of_reference_uid=volume.frame_of_reference_uid,
    )


def _segment(segmentation: hd.seg.Segmentation, number: int, volume: Volume) -> Mask:
    cut = _volume_of(segmentation, number)
    # one half is stored as 127 or 128 of 255
    rounding = 0.5 / int(segmentation.get("MaximumFractionalValue") or 255)
    inside = cut.array.reshape(cut.spatial_shape) >= FRACTION - rounding
    if not inside.any():
        raise NotScorable(Reason.ROI_EMPTY, f"segment number {number}")
    placed = _on_ct_slices(inside, cut, volume)
    _check_axes(placed, volume)
    try:
        matched = placed.match_geometry(geometry_of(volume), tol=VOXEL_TOLERANCE)
    except (RuntimeError, ValueError) as error:
        raise NotScorable(
            Reason.ROI_GEOMETRY_UNSUPPORTED, f"the segment's voxels do not fall on the CT's ({type(error).__name__})"
        ) from None
    array: Mask = matched.array.astype(np.bool_)
    if not array.any():
        raise NotScorable(Reason.ROI_OUTSIDE_IMAGE)
    return array


def _volume_of(segmentation: hd.seg.Segmentation, number: int) -> hd.Volume:
    # Where frames may be missing, highdicom counts in steps of the smallest gap, and jitter adds up along the stack;
    # without gaps it takes the mean. So the second try is for thin slices with rounded positions.
    for gaps in (True, False):
        try:
            return segmentation.get_volume(
                segment_numbers=[number],
                rescale_fractional=True,
                dtype=np.float32,
                atol=2 * POSITION_JITTER_MM,
                allow_missing_positions=gaps,
            )
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            kind = type(error).__name__
    raise NotScorable(Reason.ROI_GEOMETRY_UNSUPPORTED, f"the segment's frames make no volume ({kind})")


def _on_ct_slices(inside: Mask, cut: hd.Volume, volume: Volume) -> hd.Volume:
    """The segment with the CT's slice spacing.

    Empty frames may be left out of a SEG and Spacing Between Slices with them; highdicom then takes the frames
    that are there for neighbours, and one frame alone has no spacing at all.
    """
    affine = cut.affine.copy()
    spacing = float(cut.spacing[0])
    steps = 1 if len(inside) == 1 else round(spacing / volume.spacing[0])
    normal = affine[:3, 0] / spacing
    parallel = abs(float(normal @ volume.direction[:, 0])) > 1 - AXIS_TOLERANCE
    if not parallel or steps < 1 or (len(inside) > 1 and abs(spacing / volume.spacing[0] - steps) > VOXEL_TOLERANCE):
        steps = 1
    elif len(inside) == 1 or steps > 1:
        affine[:3, 0] = normal * volume.spacing[0]
    spread = np.zeros(((len(inside) - 1) * steps + 1, *inside.shape[1:]), dtype=np.uint8)
    spread[::steps] = inside
    return hd.Volume(
        array=spread, affine=affine, coordinate_system="PATIENT", frame_of_reference_uid=volume.frame_of_reference_uid
    )


def _check_axes(placed: hd.Volume, volume: Volume) -> None:
    """Same axes up to order and sign, same spacing: highdicom would thin out a finer SEG without a word."""
    turned = np.abs(volume.direction.T @ np.stack(placed.unit_vectors(), axis=1))
    order = turned.argmax(axis=1)
    square = sorted(order) == [0, 1, 2] and np.abs(np.sort(turned, axis=1) - (0, 0, 1)).max() < AXIS_TOLERANCE
    if not square:
        raise NotScorable(Reason.ROI_GEOMETRY_UNSUPPORTED, "the segment's axes are not the CT's")
    spacing = np.asarray(placed.spacing)[order]
    if not np.allclose(spacing, volume.spacing, rtol=SPACING_RTOL):
        found = " x ".join(f"{step:.3f}" for step in spacing)
        raise NotScorable(Reason.ROI_GEOMETRY_UNSUPPORTED, f"the segment's voxels measure {found} mm, not the CT's")

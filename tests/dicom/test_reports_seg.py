"""The SEG holds the voxels that were scored, no more and no fewer, wherever it is read."""

import io

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from reports import build
from reports.evidence import EvidenceError
from tests.report_inputs import Case, context, header, part10, phantom_case, result, scored, small_case
from tests.synthetic import ball_mask, ct_series, enhanced_ct, oblique, rtstruct


def mask_read_back(segmentation: Dataset, ct: list[Dataset]) -> NDArray[np.bool_]:
    """The mask on the grid of the CT, by highdicom's match_geometry."""
    seg = hd.seg.segread(io.BytesIO(part10(segmentation)))
    volume = hd.get_volume_from_series(ct) if len(ct) > 1 else hd.Image.from_dataset(ct[0]).get_volume()
    # highdicom's volume may run along the slices the other way round than the CT was given
    found = np.asarray(seg.get_volume(combine_segments=True).match_geometry(volume).array) > 0
    order = [float(volume.get_plane_position(k)[0].ImagePositionPatient @ _normal(volume)) for k in range(len(found))]
    return found if order[0] < order[-1] else found[::-1]


def _normal(volume: hd.Volume) -> NDArray[np.float64]:
    return np.abs(np.asarray(volume.direction)[:, 0])


@pytest.mark.parametrize("ascending", [True, False])
def test_no_voxel_is_off_after_write_and_read(ascending: bool) -> None:
    full = ct_series(12, seed=7)
    mask = ball_mask(full)
    mask[2, 3, 4] = True  # not symmetric in any direction
    ordered, planes = (full, mask) if ascending else (full[::-1], mask[::-1])
    case = Case(tuple(header(instance) for instance in ordered), header(rtstruct(full)), planes)
    segmentation = scored(case).segmentation
    assert segmentation is not None
    assert int(np.count_nonzero(mask_read_back(segmentation, full) != mask)) == 0


def test_no_voxel_is_off_on_an_oblique_series() -> None:
    full = oblique(ct_series(12, seed=7))
    mask = ball_mask(full)
    case = Case(tuple(header(instance) for instance in full), header(rtstruct(full)), mask)
    segmentation = scored(case).segmentation
    assert segmentation is not None
    seg = hd.seg.segread(io.BytesIO(part10(segmentation)))
    volume = hd.get_volume_from_series(full)
    found = np.asarray(seg.get_volume(combine_segments=True).match_geometry(volume).array) > 0
    assert min(np.count_nonzero(found != mask), np.count_nonzero(found[::-1] != mask)) == 0


def test_no_voxel_is_off_on_a_multi_frame_ct_in_any_frame_order() -> None:
    full = enhanced_ct(ct_series(10, seed=3))
    mask = ball_mask(full)
    mask[1, 3, 4] = True
    case = Case((header(full),), header(rtstruct(full)), mask[::-1])
    made = build.scored(
        case.ct, case.roi, case.mask, None, result(case.mask), context(), frame_numbers=list(range(10, 0, -1))
    )
    assert made.segmentation is not None
    for item in made.segmentation.PerFrameFunctionalGroupsSequence:
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        position = item.PlanePositionSequence[0].ImagePositionPatient
        groups = full.PerFrameFunctionalGroupsSequence[int(source.ReferencedFrameNumber) - 1]
        assert list(position) == list(groups.PlanePositionSequence[0].ImagePositionPatient)
    assert int(np.count_nonzero(mask_read_back(made.segmentation, [full]) != mask)) == 0


def test_no_voxel_is_off_on_a_real_lung_ct() -> None:
    case = phantom_case()
    segmentation = scored(case).segmentation
    assert segmentation is not None
    read = dcmread(io.BytesIO(part10(segmentation)))
    place = {str(instance.SOPInstanceUID): k for k, instance in enumerate(case.ct)}
    found = np.zeros_like(case.mask)
    for frame, item in zip(read.pixel_array, read.PerFrameFunctionalGroupsSequence, strict=True):
        source = item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        found[place[str(source)]] = frame > 0
    assert int(np.count_nonzero(found != case.mask)) == 0
    assert read.NumberOfFrames == int(case.mask.any(axis=(1, 2)).sum()), "empty frames are left out"


def test_an_empty_mask_is_refused() -> None:
    case = small_case()
    empty = Case(case.ct, case.roi, np.zeros_like(case.mask))
    with pytest.raises(EvidenceError, match="empty"):
        build.scored(empty.ct, empty.roi, empty.mask, None, result(case.mask), context())


@pytest.mark.parametrize("cut", [np.s_[:-1], np.s_[:, :-1], np.s_[:, :, :-1]], ids=["slice", "row", "column"])
def test_a_mask_that_does_not_fit_the_ct_is_refused(cut: slice) -> None:
    case = small_case()
    with pytest.raises(EvidenceError, match=r"does not fit|do not fit"):
        build.scored(case.ct, case.roi, case.mask[cut], None, result(case.mask), context())


def test_a_frame_that_is_not_there_or_comes_twice_is_refused() -> None:
    full = enhanced_ct(ct_series(6, seed=3, radius=6.0))
    case = Case((header(full),), header(rtstruct(full, radius=6.0)), ball_mask(full, radius=6.0))
    for frames in ([1, 2, 3, 4, 5, 7], [1, 1, 2, 3, 4, 5]):
        with pytest.raises(EvidenceError, match="do not fit"):
            build.scored(case.ct, case.roi, case.mask, None, result(case.mask), context(), frame_numbers=frames)


def test_the_segment_says_what_it_is_and_how_it_was_made() -> None:
    segmentation = scored(small_case()).segmentation
    assert segmentation is not None
    assert segmentation.SegmentationType == "BINARY"
    assert len(segmentation.SegmentSequence) == 1
    segment = segmentation.SegmentSequence[0]
    assert segment.SegmentLabel == "Region scored"
    assert segment.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "0.1.0"
    assert segmentation.FrameOfReferenceUID == small_case().ct[0].FrameOfReferenceUID

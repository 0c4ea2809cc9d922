"""Writes a synthetic lesion as a BINARY DICOM Segmentation (PS3.3 A.51); every byte follows from the seed."""

import datetime
from pathlib import Path

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from analysis.train.synth.anatomy import Grid
from analysis.train.synth.dicom_files import Study, file_meta

_TIME = datetime.time(11, 0)


def write_seg(path: Path, mask: NDArray[np.bool_], grid: Grid, ct: list[Dataset], study: Study) -> None:
    """Write the lesion as segment GTV-1 on the CT's own voxels; slices without lesion are left out.

    Parameters
    ----------
    mask : bool array, (slices, rows, columns)
        In the order of `ct`, which is that of the grid.
    """
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="GTV-1",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        tracking_uid=study.uid("seg/tracking"),
        tracking_id="GTV-1",
    )
    made = hd.seg.Segmentation(
        source_images=[_with_meta(header) for header in ct],
        pixel_array=mask.astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=study.uid("seg-series"),
        series_number=2,
        sop_instance_uid=study.uid("seg"),
        instance_number=1,
        manufacturer="SYNTHETIC",
        manufacturer_model_name="Prognode cohort synth",
        software_versions="2",
        device_serial_number=f"{study.seed}",
        content_label="SYNTHETIC",
        content_description="SYNTHETIC lesion",
        series_description="SYNTHETIC contour",
        omit_empty_frames=True,
        specific_character_set="ISO_IR 192",
    )
    _freeze(made, study)
    made.save_as(path, enforce_file_format=True)


def _with_meta(header: Dataset) -> Dataset:
    """highdicom asks the source images for their transfer syntax."""
    source = Dataset()
    source.update(header)
    source.file_meta = file_meta(header)
    return source


def _freeze(made: hd.seg.Segmentation, study: Study) -> None:
    """Replace what highdicom takes from the clock and from chance."""
    for element in made.iterall():
        if element.keyword == "DimensionOrganizationUID":
            element.value = study.uid("seg/dimensions")
        elif element.keyword == "ContributionDateTime":
            element.value = datetime.datetime.combine(study.date, _TIME)
    for prefix in ("Content", "Series", "InstanceCreation"):
        if f"{prefix}Date" in made:
            setattr(made, f"{prefix}Date", study.date)
            setattr(made, f"{prefix}Time", _TIME)
    made.file_meta = file_meta(made)

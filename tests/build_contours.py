"""RTSTRUCT and SEG on a synthetic CT. Tests import from `tests.synthetic`."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tests.build_ct import item_of, patient_and_study, series_module, uid, with_meta

RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management: what RTSTRUCTs name a study by

Points = NDArray[np.float64]  # (n, 3) mm, patient coordinates
Contours = Sequence[Points]


def planes(ct: Sequence[Dataset] | Dataset) -> list[Points]:
    """ImagePositionPatient of each slice (or frame), mm, in the order given."""
    if isinstance(ct, Dataset):
        frames = ct.PerFrameFunctionalGroupsSequence
        return [np.array(f.PlanePositionSequence[0].ImagePositionPatient, float) for f in frames]
    return [np.array(instance.ImagePositionPatient, float) for instance in ct]


def _plane_facts(ct: Sequence[Dataset] | Dataset) -> tuple[Points, Points, tuple[int, int], list[float]]:
    """Row and column direction, (rows, columns), pixel spacing."""
    first = ct if isinstance(ct, Dataset) else ct[0]
    shared = first.SharedFunctionalGroupsSequence[0] if isinstance(ct, Dataset) else None
    orientation = shared.PlaneOrientationSequence[0] if shared else first
    measures = shared.PixelMeasuresSequence[0] if shared else first
    cosines = np.array(orientation.ImageOrientationPatient, float)
    return cosines[:3], cosines[3:], (first.Rows, first.Columns), [float(v) for v in measures.PixelSpacing]


def voxel_centres(ct: Sequence[Dataset] | Dataset) -> NDArray[np.float64]:
    """Patient coordinates (mm) of every voxel centre, shape (slices, rows, columns, 3)."""
    along_row, along_column, (rows, columns), (row_step, column_step) = _plane_facts(ct)
    down = np.arange(rows)[:, None, None] * row_step * along_column
    across = np.arange(columns)[None, :, None] * column_step * along_row
    return np.stack([origin + down + across for origin in planes(ct)])


def middle(ct: Sequence[Dataset] | Dataset) -> Points:
    """Centre of the ball, mm."""
    grid = voxel_centres(ct)
    return (grid[0, 0, 0] + grid[-1, -1, -1]) / 2


def ball_mask(ct: Sequence[Dataset] | Dataset, centre: Any = None, radius: float = 10.0) -> NDArray[np.bool_]:
    """Voxels whose centre lies in the ball, shape (slices, rows, columns) in the order of `ct`."""
    centre = middle(ct) if centre is None else np.asarray(centre, float)
    return np.linalg.norm(voxel_centres(ct) - centre, axis=-1) <= radius


def ball_contours(ct: Sequence[Dataset] | Dataset, centre: Any = None, radius: float = 10.0) -> list[Points]:
    """A circle of 48 points on each slice that the ball meets, mm."""
    centre = middle(ct) if centre is None else np.asarray(centre, float)
    along_row, along_column, _, _ = _plane_facts(ct)
    normal = np.cross(along_row, along_column)
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)[:, None]
    circles = []
    for origin in planes(ct):
        offset = float((origin - centre) @ normal)
        if abs(offset) < radius:
            reach = np.sqrt(radius**2 - offset**2)
            circles.append(centre + offset * normal + reach * (np.cos(turn) * along_row + np.sin(turn) * along_column))
    return circles


def rtstruct(
    ct: Sequence[Dataset] | Dataset,
    centre: Any = None,
    radius: float = 10.0,
    *,
    contours: Contours | Mapping[str, Contours] | None = None,
    roi_names: Sequence[str] = ("GTV-1",),
    interpreted_types: Sequence[str] = (),
    geometric_type: str = "CLOSED_PLANAR",
    series_level_references: bool = True,
    contour_level_references: bool = True,
    seed: int = 0,
    **attributes: Any,
) -> Dataset:
    """An RTSTRUCT on a CT series or Enhanced CT: a ball, or the given contours ((n, 3) mm; by ROI name or for all).

    Further keyword arguments are DICOM keywords that win (`StudyInstanceUID=...` puts it into another study).
    """
    instances = [ct] if isinstance(ct, Dataset) else list(ct)
    first = instances[0]
    dataset = _like(first)
    sop_uid = uid("rtstruct", first.SeriesInstanceUID, seed)
    frame: str = attributes.pop("FrameOfReferenceUID", first.FrameOfReferenceUID)
    series_module(dataset, RTSTRUCT, sop_uid, uid("series", sop_uid), "RTSTRUCT", 4, frame)
    dataset.StructureSetLabel, dataset.StructureSetDate, dataset.StructureSetTime = "Contours", "20240103", "090000"
    dataset.InstanceNumber, dataset.OperatorsName = 1, ""
    dataset.ReferencedFrameOfReferenceSequence = [item_of(FrameOfReferenceUID=frame)]
    if series_level_references:
        images = [_reference(instance) for instance in instances]
        series = item_of(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
        study = item_of(
            ReferencedSOPClassUID=STUDY_MANAGEMENT,
            ReferencedSOPInstanceUID=first.StudyInstanceUID,
            RTReferencedSeriesSequence=[series],
        )
        dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence = [study]
    every = ball_contours(ct, centre, radius) if contours is None else contours
    by_name = dict(every) if isinstance(every, Mapping) else dict.fromkeys(roi_names, every)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    for number, (name, drawn) in enumerate(by_name.items(), start=1):
        dataset.StructureSetROISequence.append(
            item_of(
                ROINumber=number, ReferencedFrameOfReferenceUID=frame, ROIName=name, ROIGenerationAlgorithm="MANUAL"
            )
        )
        dataset.RTROIObservationsSequence.append(
            item_of(
                ObservationNumber=number,
                ReferencedROINumber=number,
                ROIInterpreter="",
                RTROIInterpretedType=interpreted_types[number - 1] if interpreted_types else "",
            )
        )
        items = [_contour(ct, points, geometric_type, contour_level_references) for points in drawn]
        roi = item_of(ReferencedROINumber=number, ROIDisplayColor=[255, 0, 0])
        if items:
            roi.ContourSequence = items
        dataset.ROIContourSequence.append(roi)
    dataset.ApprovalStatus = "UNAPPROVED"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return with_meta(dataset)


def _like(source: Dataset) -> Dataset:
    """Patient and study attributes of `source`, with its character set."""
    template = patient_and_study(0)
    dataset = Dataset()
    for element in template:
        if element.keyword in source:
            dataset[element.tag] = copy.deepcopy(source[element.tag])
    return dataset


def _reference(instance: Dataset, frame: int | None = None) -> Dataset:
    item = item_of(ReferencedSOPClassUID=instance.SOPClassUID, ReferencedSOPInstanceUID=instance.SOPInstanceUID)
    if frame is not None:
        item.ReferencedFrameNumber = frame
    return item


def _contour(ct: Sequence[Dataset] | Dataset, points: Points, geometric_type: str, with_reference: bool) -> Dataset:
    item = item_of(ContourGeometricType=geometric_type, NumberOfContourPoints=len(points))
    item.ContourData = [f"{v:.6g}" for v in np.asarray(points).ravel()]
    if with_reference:
        along_row, along_column, _, _ = _plane_facts(ct)
        normal = np.cross(along_row, along_column)
        nearest = int(np.argmin([abs(float((points[0] - origin) @ normal)) for origin in planes(ct)]))
        image = _reference(ct, nearest + 1) if isinstance(ct, Dataset) else _reference(ct[nearest])
        item.ContourImageSequence = [image]
    return item


def seg(
    ct: Sequence[Dataset] | Dataset,
    mask: NDArray[Any] | None = None,
    *,
    segmentation_type: str = "BINARY",
    labels: Sequence[str] = ("GTV-1",),
    seed: int = 0,
    **attributes: Any,
) -> Dataset:
    """A SEG (BINARY, FRACTIONAL or LABELMAP) by highdicom; `mask` is (slices, rows, columns) in the order of `ct`,
    or (..., segments) for several labels; the ball where none is given."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    sources = [ct] if isinstance(ct, Dataset) else list(ct)
    pixels = ball_mask(ct) if mask is None else np.asarray(mask)
    if segmentation_type == "FRACTIONAL":
        pixels = pixels.astype(np.float32)
    elif pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)
    if len(labels) > 1 and pixels.ndim == 3:
        pixels = np.stack([pixels] * len(labels), axis=-1)
    sop_uid = uid("seg", sources[0].SeriesInstanceUID, segmentation_type, seed)
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number, segment_label=label, algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Neoplasm, tracking_id=label,
            tracking_uid=uid("tracking", sop_uid, number))
        for number, label in enumerate(labels, start=1)
    ]  # fmt: skip
    dataset = hd.seg.Segmentation(
        source_images=sources, pixel_array=pixels, segmentation_type=segmentation_type,
        segment_descriptions=descriptions,
        series_instance_uid=uid("series", sop_uid), series_number=5, sop_instance_uid=sop_uid, instance_number=1,
        manufacturer="Synthetic contours", manufacturer_model_name="Builder", software_versions="1",
        device_serial_number="1", content_label="LESION", max_fractional_value=255,
    )  # fmt: skip
    _freeze(dataset)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return with_meta(dataset)


def _freeze(dataset: Dataset) -> None:
    """Replace what highdicom takes from the clock and from chance: same arguments, same bytes."""
    for element in dataset.iterall():
        if element.keyword == "DimensionOrganizationUID":
            element.value = uid("dimensions", dataset.SOPInstanceUID)
        elif element.keyword == "ContributionDateTime":
            element.value = "20240103090000"
    for prefix in ("Content", "Series", "InstanceCreation"):
        for kind, value in (("Date", "20240103"), ("Time", "090000")):
            if f"{prefix}{kind}" in dataset:
                setattr(dataset, f"{prefix}{kind}", value)

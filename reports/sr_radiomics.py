"""Radiomics SR: every measurement of the region scored (TID 1500, one TID 1411 group that references our SEG)."""

from collections.abc import Sequence

from highdicom.sr import (
    ContainerContentItem,
    ContentItem,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from analysis import contract
from reports import codes, particulars
from reports.context import ReportContext
from reports.language import speaker
from reports.sr_content import algorithm, measurement, measurement_report, number, provenance, statements, text

_CONTENT = Tag("ContentSequence")


def content(
    result: contract.JobResult,
    measured: Sequence[Dataset],
    segmentation: Dataset,
    ct_series_instance_uid: str,
    key_image: Dataset,
    context: ReportContext,
) -> ContainerContentItem:
    """Content of the radiomics SR: `measurements` of the result; the segment's tracking identifiers name the group."""
    segment = segmentation.SegmentSequence[0]
    reference = ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=1,
        source_series=SourceSeriesForSegmentation(referenced_series_instance_uid=ct_series_instance_uid),
    )
    group = VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=segment.TrackingUID, identifier=segment.TrackingID),
        referenced_segment=reference,
        finding_type=codes.NEOPLASM,
        algorithm_id=algorithm(result.bundle),
    )
    items = list(group[0].ContentSequence)
    items[-len(reference) : -len(reference)] = measured  # highdicom's place for them
    group[0].add(DataElement(_CONTENT, "SQ", items))  # not by keyword: highdicom would look at each of them anew
    return measurement_report(codes.IMAGING_REPORT, context, [group], _evaluations(result, context), key_image)


def measurements(found: Sequence[contract.Measurement]) -> list[Dataset]:
    """NUM items, one for each measurement."""
    taken: set[str] = set()
    made = []
    for item in found:
        name = codes.feature(item, ibsi_taken=item.ibsi_id in taken)
        if item.ibsi_id:
            taken.add(item.ibsi_id)
        made.append(measurement(name, number(item.value, item.name), codes.unit(item.unit)))
    return made


def _evaluations(result: contract.JobResult, context: ReportContext) -> list[ContentItem]:
    items, voice = statements(result.bundle, context), speaker(context.language)
    if result.roi is not None:
        items.append(text(codes.REGION, particulars.roi(result.roi, voice.code)))
    items += [text(codes.FAILED_FEATURE, f"{item.name}: {voice.retell(item.why)}") for item in result.failed_features]
    items += [text(codes.EXTRACTION, f"{name} = {value}") for name, value in sorted(result.extraction.items())]
    items += [text(codes.LIFEX_NAMES, line) for line in _lifex_names(result.measurements)]
    items += [text(codes.QUALITY, particulars.quality(flag, voice.code)) for flag in result.quality]
    return items + provenance(result.bundle, context, result.software)


def _lifex_names(measurements: Sequence[contract.Measurement]) -> list[str]:
    """One line per family: two texts per feature would double the document."""
    families: dict[str, list[str]] = {}
    for item in measurements:
        if item.lifex_name:
            families.setdefault(item.family, []).append(f"{item.lifex_name} = {item.name}")
    return [f"{family}: {'; '.join(names)}" for family, names in families.items()]

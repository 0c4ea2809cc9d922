"""Risk SR: the five lines a radiologist needs, then what they rest on (TID 1500, one TID 1501 group)."""

from dataclasses import dataclass

from highdicom.sr import (
    AlgorithmIdentification,
    ContainerContentItem,
    ContentItem,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset

from analysis.contract import Endpoint, JobResult, RiskScore, by_modality
from reports import codes, particulars, words
from reports.context import ReportContext
from reports.language import speaker
from reports.refusal import Refusal
from reports.sr_content import algorithm, code, measurement_report, number, provenance, statements, text

CONTRIBUTIONS_PER_ENDPOINT = 5


@dataclass(frozen=True)
class KeyImage:
    """The slice with most of the tumour; `frame` is its Referenced Frame Number where the CT is multi-frame."""

    dataset: Dataset
    frame: int | None = None


def scored(result: JobResult, key_image: KeyImage, tracking_uid: str, context: ReportContext) -> ContainerContentItem:
    """Content of the risk SR of a scored study."""
    return measurement_report(
        codes.ONCOLOGY_REPORT,
        context,
        [_group(result, key_image, tracking_uid)],
        _evaluations(result, context),
        key_image.dataset,
    )


def not_scored(refusal: Refusal, key_image: Dataset | None, context: ReportContext) -> ContainerContentItem:
    """Content of the SR that says why there is no score, and what would make one possible."""
    language = context.language
    wording = words.reason(refusal.reason, language)
    verdict: list[ContentItem] = [
        code(codes.OUTCOME, codes.NOT_SCORED),
        code(codes.REASON, codes.reason(refusal.reason)),
    ]
    items: list[ContentItem] = [text(codes.REASON_TEXT, wording.sentence)]
    if refusal.detail:
        items.append(text(codes.REASON_DETAIL, speaker(language).retell(refusal.detail)))
    items.append(text(codes.REMEDY, wording.remedy))
    items += [text(codes.QUALITY, particulars.quality(flag, language)) for flag in refusal.quality]
    # TID 1500 row 13 (CODE) comes before row 13b (TEXT).
    everything = [*verdict, *items, *statements(refusal.bundle, context), *provenance(refusal.bundle, context)]
    return measurement_report(codes.ONCOLOGY_REPORT, context, [], everything, key_image)


def _group(result: JobResult, key_image: KeyImage, tracking_uid: str) -> MeasurementsAndQualitativeEvaluations:
    identification = algorithm(result.bundle)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=tracking_uid, identifier="Predicted survival"),
        finding_type=codes.NEOPLASM,
        measurements=[_measurement(score, identification) for score in result.scores],
        qualitative_evaluations=[
            QualitativeEvaluation(codes.risk_group_name(item.endpoint), codes.risk_group(item.group))
            for item in result.groups
        ],
        source_images=[_source_image(key_image)],
    )


def _measurement(score: RiskScore, identification: AlgorithmIdentification) -> Measurement:
    name = codes.probability(score.endpoint, score.horizon_months)
    value = _percent(score.event_probability, name.meaning)
    # The interval is a text below: PixelMed takes the NUM children of TID 310 for those of TID 300 rows 9 and 10.
    return Measurement(name=name, value=value, unit=codes.PERCENT, algorithm_id=identification)


def _percent(probability: float, what: str) -> float:
    return words.figure(number(probability, what))


def _source_image(key_image: KeyImage) -> SourceImageForMeasurementGroup:
    return SourceImageForMeasurementGroup(
        referenced_sop_class_uid=key_image.dataset.SOPClassUID,
        referenced_sop_instance_uid=key_image.dataset.SOPInstanceUID,
        referenced_frame_numbers=None if key_image.frame is None else [key_image.frame],
    )


def _evaluations(result: JobResult, context: ReportContext) -> list[ContentItem]:
    language = context.language
    items = statements(result.bundle, context)
    items += [text(codes.group_in_words(item.endpoint), words.group_sentence(item, language)) for item in result.groups]
    for score in result.scores:
        name = codes.in_words(score.endpoint, score.horizon_months)
        items.append(text(name, words.natural_frequency(score, language)))
        name = codes.interval(score.endpoint, score.horizon_months)
        items.append(text(name, words.interval_sentence(score, language)))
    items += [text(codes.CLIPPED, words.clipped(score, language)) for score in result.scores if score.clipped]
    if result.sub_model is not None:
        items.append(text(codes.SUB_MODEL, words.sub_model(result.sub_model, language)))
    items += [text(codes.NOT_AVAILABLE, line) for line in words.not_available(result, language)]
    if result.sub_model is not None:
        items += [text(codes.VALIDATION, words.validation(item, language)) for item in result.sub_model.performance]
        items.append(text(codes.VALIDATION, words.intervals_are_narrow(language)))
    items += _contributions(result, language)
    known = result.contributions
    items += [text(codes.CLINICAL_VALUE, particulars.clinical_value(item, known, language)) for item in result.clinical]
    items += [text(codes.QUALITY, particulars.quality(flag, language)) for flag in result.quality]
    if result.roi is not None:
        items.append(text(codes.REGION, particulars.roi(result.roi, language)))
    return items + provenance(result.bundle, context)


def _contributions(result: JobResult, language: str) -> list[ContentItem]:
    items: list[ContentItem] = []
    for endpoint in Endpoint:
        mine = [item for item in result.contributions if item.endpoint == endpoint]
        top = sorted(mine, key=lambda item: -abs(item.contribution))[:CONTRIBUTIONS_PER_ENDPOINT]
        shares = particulars.shares(by_modality(mine, endpoint), language)
        lines = [*([shares] if shares else []), *(particulars.contribution(item, language) for item in top)]
        items += [text(codes.contribution_name(endpoint), line) for line in lines]
    return items

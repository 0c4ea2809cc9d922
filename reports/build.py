"""The report stage's one door: result, pictures and evidence headers in; DICOM objects out. Pure: no I/O, no clock."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from analysis.contract import JobResult
from reports import gsps, page, sc, seg, sr_radiomics, sr_risk
from reports.context import ReportContext, local
from reports.drawing import Canvas
from reports.evidence import Mask, frame_count, stand_in
from reports.refusal import Refusal, refusal_of
from reports.sr_content import ReportError
from reports.sr_document import SR_SOP_CLASSES, Slot, document
from reports.uids import content_parts, derive, digest

__all__ = [
    "NOTHING_MORE",
    "Documents",
    "Mask",
    "Optional",
    "Page",
    "Refusal",
    "ReportError",
    "not_scored",
    "refusal_of",
    "scored",
]

Pictures = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Optional:
    """Which objects are made beside SR, pages and SEG."""

    encapsulated_pdf: bool = False
    presentation_state: bool = False


NOTHING_MORE: Final = Optional()


@dataclass(frozen=True)
class Page:
    """A page as an object, and as pixels, (768, 1024, 3) uint8 RGB."""

    dataset: Dataset
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Documents:
    """What goes to the PACS, each in a series of its own; the pages share one."""

    risk_sr: Dataset
    pages: tuple[Page, ...]
    radiomics_sr: Dataset | None = None
    segmentation: Dataset | None = None
    pdf: Dataset | None = None
    presentation_state: Dataset | None = None


def scored(
    ct: Sequence[Dataset],
    roi: Dataset,
    mask: NDArray[np.bool_] | Callable[[], Mask],
    pictures: Pictures | None,
    result: JobResult,
    context: ReportContext,
    sr_sop_class: str = SR_SOP_CLASSES[0],
    frame_numbers: Sequence[int] | None = None,
    optional: Optional = NOTHING_MORE,
) -> Documents:
    """All objects of a scored study, in the study of the CT.

    Parameters
    ----------
    ct : sequence of Dataset
        Headers in the order of the mask's slices; one header where the CT is multi-frame.
    roi : Dataset
        Header of the RTSTRUCT or SEG that was scored.
    mask : bool array, (slices, rows, columns); or who gives it, asked when all that needs no mask has been made
    pictures : mapping of arrays, optional
        As in OUT/pictures.npz; a missing view is left out of the page.
    sr_sop_class : str
        Comprehensive 3D, Comprehensive or Enhanced SR: what the destination accepted.
    frame_numbers : sequence of int, optional
        Multi-frame CT only: frame (from 1) of each mask slice; default: what the result says (geometry.frames).
    optional : Optional
        A presentation state is not made where one cannot show the slices (`gsps.build`).

    Raises
    ------
    ReportError, EvidenceError
        Where result, mask and evidence do not fit together.
    """
    if not ct or result.roi is None or not result.scores:
        raise ReportError("a scored report needs CT headers, a ROI and scores; use not_scored for anything else")
    if frame_numbers is None and result.geometry is not None and frame_count(ct[0]) > 1:
        frame_numbers = result.geometry.frames
    synthetic, evidence = result.bundle.synthetic, [*ct, roi]
    key_image = _key_image(ct, result.roi.largest_slice, frame_numbers)
    tracking_uid = _tracking_uid(roi, result.roi.numbers)
    seen = _seen(key_image)
    drawn = page.pages(result, pictures, local(context, ct[0]), page.key_slice(key_image.dataset, key_image.frame))
    risk = sr_risk.scored(result, seen, derive("finding", tracking_uid), context)
    measured = sr_radiomics.measurements(result.measurements)
    asked = mask() if callable(mask) else Mask.of(mask)
    parts = content_parts(local(context, ct[0]), result, *_evidence_uids(evidence), asked.digest)
    slot = _slot("SEG", 3, synthetic, context, parts)
    segmentation = seg.build(ct, asked, tracking_uid, slot, context, frame_numbers, result.roi.names)
    slot = _slot("Risk report", 0, synthetic, context, (*parts, sr_sop_class))
    risk_sr = document(sr_sop_class, risk, evidence, slot, context.previous_risk_sr, context)
    radiomics_sr = document(
        sr_sop_class,
        sr_radiomics.content(result, measured, segmentation, str(ct[0].SeriesInstanceUID), seen.dataset, context),
        [*ct, segmentation, roi],
        _slot("Radiomics", 2, synthetic, context, (*parts, sr_sop_class)),
        context.previous_radiomics_sr,
        context,
    )
    pages = _pages("Pages", drawn, ct, (key_image.dataset, key_image.frame), risk_sr, synthetic, context, parts)
    document_pdf = presentation_state = None
    if optional.encapsulated_pdf:
        document_pdf = _pdf(drawn, [ct[0], roi], synthetic, context, parts)
    if optional.presentation_state:
        segment = segmentation.SegmentSequence[0]
        slot = _slot("Contour", 5, synthetic, context, parts)
        tracking = (str(segment.TrackingID), str(segment.TrackingUID))
        presentation_state = gsps.build(ct, asked, tracking, slot, context, frame_numbers)
    return Documents(risk_sr, pages, radiomics_sr, segmentation, document_pdf, presentation_state)


def not_scored(
    evidence: Sequence[Dataset],
    refusal: Refusal,
    context: ReportContext,
    sr_sop_class: str = SR_SOP_CLASSES[0],
    pictures: Pictures | None = None,
    optional: Optional = NOTHING_MORE,
) -> Documents:
    """Risk SR and page that say why there is no score, in the study of `evidence[0]`.

    `evidence` is whatever there is, CT first where there is CT; an RTSTRUCT alone will do. `refusal_of(result)` makes
    the refusal of a job's result; where no job ran, the planner's reason makes it.
    """
    if not evidence:
        raise ReportError("a report needs at least one object as evidence: the one that asked for the score")
    synthetic = refusal.bundle is not None and refusal.bundle.synthetic
    parts = (*content_parts(local(context, evidence[0]), None, repr(refusal)), *_evidence_uids(evidence), sr_sop_class)
    image = evidence[0] if _is_image(evidence[0]) else None
    risk_sr = document(
        sr_sop_class,
        sr_risk.not_scored(refusal, None if image is None else stand_in(image), context),
        evidence,
        _slot("Not scored", 0, synthetic, context, parts),
        context.previous_risk_sr,
        context,
    )
    shown = None if image is None else page.key_slice(image)
    drawn = (page.compose_refusal(refusal, pictures, local(context, evidence[0]), shown),)
    source = None if image is None else (image, None)
    pages = _pages("Not scored page", drawn, evidence, source, risk_sr, synthetic, context, parts)
    document_pdf = None
    if optional.encapsulated_pdf:
        document_pdf = _pdf(drawn, [evidence[0], *evidence[1:][-1:]], synthetic, context, parts)
    return Documents(risk_sr, pages, pdf=document_pdf)


def _slot(
    what: str, place: int, synthetic: bool, context: ReportContext, parts: tuple[str, ...], instance_number: int = 1
) -> Slot:
    """The descriptions are English in every language: hanging protocols and routing rules go by them."""
    words = ["AI: Prognode", what.lower()]
    words += [f"rev {context.revision}"] if context.revision > 1 else []
    words += ["SYNTHETIC"] if synthetic else []
    numbered = (*parts, str(instance_number)) if instance_number > 1 else parts
    return Slot(
        series_instance_uid=derive(f"series {what}", *parts),
        sop_instance_uid=derive(f"instance {what}", *numbered),
        series_number=context.series_number + place,
        series_description=" ".join([*words, "(research use)"]),
        instance_number=instance_number,
    )


def _pages(
    what: str,
    drawn: Sequence[Canvas],
    evidence: Sequence[Dataset],
    source: tuple[Dataset, int | None] | None,
    risk_sr: Dataset,
    synthetic: bool,
    context: ReportContext,
    parts: tuple[str, ...],
) -> tuple[Page, ...]:
    """One instance per page, in one series: viewers turn them like slices."""
    pixels = [canvas.pixels() for canvas in drawn]
    parts = (*parts, str(risk_sr.SOPClassUID), *(digest(one) for one in pixels))
    made = []
    for number, one in enumerate(pixels, start=1):
        slot = _slot(what, 1, synthetic, context, parts, number)
        made.append(Page(sc.build(one, evidence, source, risk_sr, slot, context), one))
    return tuple(made)


def _pdf(
    drawn: Sequence[Canvas],
    evidence: Sequence[Dataset],
    synthetic: bool,
    context: ReportContext,
    parts: tuple[str, ...],
) -> Dataset:
    from reports import encapsulated, pdf  # noqa: PLC0415 - two libraries for an object that few sites ask for

    title = page.headline(drawn[0])
    content = pdf.render(drawn, title, local(context, evidence[0]).created)
    slot = _slot("PDF", 4, synthetic, context, (*parts, sha256(content).hexdigest()))
    return encapsulated.build(content, title, evidence, slot, context)


def _key_image(ct: Sequence[Dataset], largest_slice: int, frame_numbers: Sequence[int] | None) -> sr_risk.KeyImage:
    if len(ct) == 1 and frame_count(ct[0]) > 1:
        frames = frame_numbers if frame_numbers is not None else range(1, frame_count(ct[0]) + 1)
        if not 0 <= largest_slice < len(frames):
            raise ReportError(f"largest slice {largest_slice} is not one of {len(frames)}; analyse the series again")
        return sr_risk.KeyImage(ct[0], frames[largest_slice])
    if not 0 <= largest_slice < len(ct):
        raise ReportError(f"largest slice {largest_slice} is not one of {len(ct)} CT slices; analyse the series again")
    return sr_risk.KeyImage(ct[largest_slice])


def _seen(key_image: sr_risk.KeyImage) -> sr_risk.KeyImage:
    return sr_risk.KeyImage(stand_in(key_image.dataset), key_image.frame)


def _tracking_uid(roi: Dataset, numbers: Sequence[int]) -> str:
    """The segment's own Tracking UID where the sender gave one; else one that all revisions of this ROI share."""
    for segment in roi.get("SegmentSequence", []):
        if len(numbers) == 1 and segment.get("SegmentNumber") == numbers[0]:
            given = UID(str(segment.get("TrackingUID") or ""))
            if given and given.is_valid:
                return str(given)
    return derive("tracking", str(roi.get("SOPInstanceUID", "")), *[str(number) for number in numbers])


def _evidence_uids(evidence: Sequence[Dataset]) -> tuple[str, ...]:
    return tuple(str(item.get("SOPInstanceUID", "")) for item in evidence)


def _is_image(header: Dataset) -> bool:
    return "Rows" in header and "Columns" in header and header.get("Modality") in {"CT", "MR", "PT"}

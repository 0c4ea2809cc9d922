"""The pages: first what was predicted, in words, and for which lesion; then the curves and what they rest on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from analysis.contract import JobResult
from reports import page_answer, page_basis, page_curve, particulars
from reports import page_parts as parts
from reports.context import ReportContext
from reports.drawing import Canvas
from reports.page_parts import FOOT, MARGIN
from reports.refusal import Refusal
from reports.shapes import WIDTH, Box

Pictures = Mapping[str, NDArray[Any]]

_LEFT: Final = (MARGIN, 456)
_RIGHT: Final = (480, WIDTH - MARGIN)
_END: Final = FOOT - 6
_CURVES: Final = 272  # px
_CLINICAL: Final = 88


@dataclass(frozen=True)
class KeySlice:
    """The image of the axial view.

    Attributes
    ----------
    number : str
        Instance Number, by which a viewer finds it; empty where there is none, and of a multi-frame image.
    frame : int or None
        Of a multi-frame image, the number of the frame.
    standard_axial : bool
        Rows run to the patient's left and columns to the back: the sides of the views may be lettered.
    """

    number: str = ""
    standard_axial: bool = False
    frame: int | None = None


def pages(
    result: JobResult, pictures: Pictures | None, context: ReportContext, shown: KeySlice | None = None
) -> tuple[Canvas, ...]:
    """The pages of a scored study, each (768, 1024) px; the second where there is anything to put on it.

    Parameters
    ----------
    pictures : mapping of arrays, optional
        `<view>`, `<view>_mask`, `<view>_spacing` for axial, coronal, sagittal; a missing view is left out.
    shown : KeySlice, optional
        What the header of the axial view's image says.
    """
    two = bool(result.curves or result.contributions)
    first = compose(result, pictures, context, shown, "1/2" if two else "")
    return (first, compose_basis(result, context)) if two else (first,)


def compose(
    result: JobResult,
    pictures: Pictures | None,
    context: ReportContext,
    shown: KeySlice | None = None,
    number: str = "",
) -> Canvas:
    """The first page: the answer."""
    canvas = Canvas(context.language)
    voice = canvas.voice
    line = parts.about(result, shown.number if shown else "", shown.frame if shown else None, voice)
    y = parts.header(canvas, headline(canvas), line, result.bundle)
    revision = _revision(context)
    lettered = shown is not None and shown.standard_axial
    below = parts.views(canvas, Box(_LEFT[0], y, _LEFT[1], _END), pictures, lettered, bool(revision))
    parts.notes(canvas, Box(_LEFT[0], below, _LEFT[1], _END), result.quality, revision)
    y = page_answer.answer(canvas, Box(_RIGHT[0], y, _RIGHT[1], _END), result)
    if result.sub_model is not None:
        page_answer.trust(canvas, Box(_RIGHT[0], y, _RIGHT[1], _END), result, result.sub_model)
    parts.footer(canvas, result.bundle, context, number)
    return canvas


def compose_basis(result: JobResult, context: ReportContext) -> Canvas:
    """The second page: curves, contributions, validation, clinical values with their sources."""
    canvas = Canvas(context.language)
    voice = canvas.voice
    line = parts.population(voice)
    top = parts.header(canvas, voice.say("Risk over time, and what the prediction rests on"), line, result.bundle)
    middle = WIDTH // 2
    columns = (Box(MARGIN, top, middle - 12, top + _CURVES), Box(middle + 12, top, WIDTH - MARGIN, top + _CURVES))
    for box, curve in zip(columns, result.curves, strict=False):
        scores = [score for score in result.scores if score.endpoint == curve.endpoint]
        if scores:  # a curve without a point on it belongs to no score of this result
            page_curve.curve(canvas, box, curve, scores)
    y = top + _CURVES + 14 if result.curves else top
    page_basis.contributions(canvas, Box(columns[0].left, y, columns[0].right + 20, _END), result.contributions)
    if result.sub_model is not None:
        page_basis.validation(canvas, Box(columns[1].left + 12, y, columns[1].right, _END), result.sub_model)
    page_basis.clinical(canvas, Box(MARGIN, _END - _CLINICAL, WIDTH - MARGIN, _END), result)
    parts.footer(canvas, result.bundle, context, "2/2")
    return canvas


def compose_refusal(
    refusal: Refusal, pictures: Pictures | None, context: ReportContext, shown: KeySlice | None = None
) -> Canvas:
    """The page of a study that was not scored."""
    canvas = Canvas(context.language)
    voice = canvas.voice
    y = parts.header(canvas, headline(canvas), parts.population(voice), refusal.bundle)
    visible = pictures if pictures and parts.has_view(pictures) else None
    column = _RIGHT if visible else (MARGIN, WIDTH - MARGIN)
    revision = _revision(context)
    noted = bool(refusal.quality or revision)
    if visible:
        lettered = shown is not None and shown.standard_axial
        below = parts.views(canvas, Box(_LEFT[0], y, _LEFT[1], _END), visible, lettered, bool(revision))
        if noted:
            parts.notes(canvas, Box(_LEFT[0], below, _LEFT[1], _END), refusal.quality, revision)
    y = parts.refusal(canvas, Box(column[0], y if visible else y + 60, column[1], _END), refusal)
    if not visible and noted:
        parts.notes(canvas, Box(column[0], y + 14, column[1], _END), refusal.quality, revision)
    parts.footer(canvas, refusal.bundle, context)
    return canvas


def _revision(context: ReportContext) -> str:
    if context.revision < 2:
        return ""
    return particulars.revision(context.revision, context.changes, context.language)


def headline(canvas: Canvas) -> str:
    """What the first page is headed with; the title of the PDF."""
    return canvas.voice.say("Predicted survival before immune checkpoint therapy")


def key_slice(header: Dataset, frame: int | None = None) -> KeySlice:
    """What the page may say of the image, or of the frame of it, that it shows."""
    number = "" if "NumberOfFrames" in header else str(header.get("InstanceNumber") or "")
    return KeySlice(number, _is_standard_axial(header), frame)


def _is_standard_axial(header: Dataset) -> bool:
    """Rows run to the patient's left and columns to the back (PS3.3 C.7.6.2.1.1), within a degree or so."""
    orientation = header.get("ImageOrientationPatient")
    if orientation is None:
        for groups in header.get("SharedFunctionalGroupsSequence", []):
            for plane in groups.get("PlaneOrientationSequence", []):
                orientation = plane.get("ImageOrientationPatient")
    if orientation is None or len(orientation) != 6:
        return False
    return bool(np.allclose(np.asarray(orientation, float), (1, 0, 0, 0, 1, 0), atol=0.02))

"""The page: one picture that says what was predicted, for which lesion, by which model and how good that one is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from analysis.contract import JobResult
from reports import page_parts as parts
from reports.context import ReportContext
from reports.drawing import WIDTH, Box, Canvas
from reports.refusal import Refusal

Pictures = Mapping[str, NDArray[Any]]

MARGIN: Final = 20
_LEFT: Final = (MARGIN, 456)
_RIGHT: Final = (480, WIDTH - MARGIN)
_FOOT: Final = 710


@dataclass(frozen=True)
class KeySlice:
    """The image of the axial view.

    Attributes
    ----------
    number : str
        Instance Number, by which a viewer finds it; empty where there is none.
    standard_axial : bool
        Rows run to the patient's left and columns to the back: the sides of the views may be lettered.
    """

    number: str = ""
    standard_axial: bool = False


def draw(
    result: JobResult, pictures: Pictures | None, context: ReportContext, shown: KeySlice | None = None
) -> NDArray[np.uint8]:
    """The page of a scored study, (768, 1024, 3) uint8 RGB.

    Parameters
    ----------
    pictures : mapping of arrays, optional
        `<view>`, `<view>_mask`, `<view>_spacing` for axial, coronal, sagittal; a missing view is left out.
    shown : KeySlice, optional
        What the header of the axial view's image says.
    """
    return compose(result, pictures, context, shown).pixels()


def draw_refusal(
    refusal: Refusal, pictures: Pictures | None, context: ReportContext, shown: KeySlice | None = None
) -> NDArray[np.uint8]:
    """The page of a study that was not scored, (768, 1024, 3) uint8 RGB."""
    return compose_refusal(refusal, pictures, context, shown).pixels()


def compose(
    result: JobResult, pictures: Pictures | None, context: ReportContext, shown: KeySlice | None = None
) -> Canvas:
    """`draw`, with the list of texts for whoever checks the layout."""
    canvas = Canvas()
    y = parts.header(canvas, parts.HEADLINE, parts.about(result, shown.number if shown else ""), result.bundle, MARGIN)
    below = _pictures(canvas, pictures, y, shown)
    parts.notes(canvas, Box(_LEFT[0], below, _LEFT[1], _FOOT - 6), result.quality)
    x, width = _RIGHT[0], _RIGHT[1] - _RIGHT[0]
    y = parts.risks(canvas, x, y, width, result.scores)
    y = parts.groups(canvas, x, y, width, result.groups)
    y = parts.contributions(canvas, x, y, width, result.contributions)
    if result.sub_model is not None:
        parts.validation(canvas, Box(x, y, x + width, _FOOT - 6), result.sub_model)
    parts.footer(canvas, _FOOT, result.bundle, context, MARGIN)
    return canvas


def compose_refusal(
    refusal: Refusal, pictures: Pictures | None, context: ReportContext, shown: KeySlice | None = None
) -> Canvas:
    """`draw_refusal`, with the list of texts."""
    canvas = Canvas()
    y = parts.header(canvas, parts.HEADLINE, parts.POPULATION, refusal.bundle, MARGIN)
    visible = pictures if pictures and parts.has_view(pictures) else None
    column = _RIGHT if visible else (MARGIN, WIDTH - MARGIN)
    if visible:
        below = _pictures(canvas, visible, y, shown)
        if refusal.quality:
            parts.notes(canvas, Box(_LEFT[0], below, _LEFT[1], _FOOT - 6), refusal.quality)
    y = parts.refusal(canvas, Box(column[0], y if visible else y + 60, column[1], _FOOT - 6), refusal)
    if not visible and refusal.quality:
        parts.notes(canvas, Box(column[0], y + 14, column[1], _FOOT - 6), refusal.quality)
    parts.footer(canvas, _FOOT, refusal.bundle, context, MARGIN)
    return canvas


def _pictures(canvas: Canvas, pictures: Pictures | None, top: int, shown: KeySlice | None) -> int:
    """Axial view above, coronal and sagittal below; returns the y below them."""
    left, right = _LEFT
    middle = (left + right) // 2
    boxes = {
        "axial": Box(left, top, right, top + 320),
        "coronal": Box(left, top + 328, middle - 4, top + 458),
        "sagittal": Box(middle + 4, top + 328, right, top + 458),
    }
    lettered = shown is not None and shown.standard_axial
    for view, box in boxes.items():
        parts.view(canvas, box, view, pictures or {}, lettered)
    return top + 458 + 12


def key_slice(header: Dataset) -> KeySlice:
    """What the page may say of the image that it shows."""
    number = "" if "NumberOfFrames" in header else str(header.get("InstanceNumber") or "")
    return KeySlice(number, _is_standard_axial(header))


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

"""GSPS: the outline of what was scored as a presentation state, for viewers that draw no SEG (PS3.3 A.33.1)."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from highdicom import ModalityLUTTransformation, PresentationLUTTransformation
from highdicom.color import CIELabColor
from highdicom.pr import (
    AnnotationUnitsValues,
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GraphicTypeValues,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
    TextJustificationValues,
    TextObject,
)
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from config.identity import MANUFACTURER, MODEL_NAME
from reports import legal
from reports.context import ReportContext, described, local_time
from reports.evidence import Mask, Reference, frame_count, refer, sop_reference, stand_in
from reports.finish import CHARACTER_SET, body_part, finish
from reports.language import speaker
from reports.outline import outlines
from reports.sr_document import Slot

LAYER: Final = "PROGNODE"
_COLOUR: Final = CIELabColor.from_rgb(255, 200, 80)
_WINDOW: Final = (-500.0, 1500.0)  # HU, as on the page; where the CT names none
_NOTE_BOX: Final = (0.15, 0.02, 0.85, 0.07)  # of the displayed area: left, top, right, bottom; the corners are viewers'

_POLYLINE: Final = tuple(
    (Tag(keyword), dictionary_VR(keyword))
    for keyword in (
        "GraphicAnnotationUnits", "GraphicDimensions", "NumberOfGraphicPoints", "GraphicData", "GraphicType",
        "GraphicFilled", "TrackingID", "TrackingUID",
    )
)  # fmt: skip


def build(
    ct: Sequence[Dataset],
    mask: Mask,
    tracking: tuple[str, str],
    slot: Slot,
    context: ReportContext,
    frame_numbers: Sequence[int] | None = None,
) -> Dataset | None:
    """Outlines on the slices that hold any of the mask, and a line that says what they are.

    None where one presentation state cannot show the slices: their rescale differs, or an outline is no outline.

    Parameters
    ----------
    ct : sequence of Dataset
        Headers in the order of the mask's slices; one header where the CT is multi-frame.
    mask : Mask
    tracking : Tracking ID and UID of the segment that holds the same voxels
    frame_numbers : sequence of int, optional
        Multi-frame CT only: 1-based frame of each mask slice; default 1, 2, 3 ...
    """
    multi_frame = len(ct) == 1 and frame_count(ct[0]) > 1
    frames = list(frame_numbers) if frame_numbers is not None else list(range(1, len(mask.voxels) + 1))
    drawn = {int(k): outlines(mask.voxels[k]) for k in np.flatnonzero(mask.held)}
    rescale = {_rescale(ct[0] if multi_frame else ct[k], frames[k] if multi_frame else None) for k in drawn}
    if not drawn or not all(drawn.values()) or len(rescale) != 1 or None in rescale:
        return None
    layer = GraphicLayer(LAYER, order=1, description="Contour that was scored", display_color=_COLOUR)
    note = _note(context.language)
    shown = [
        (refer(ct[0 if multi_frame else k]), frames[k] if multi_frame else None, loops) for k, loops in drawn.items()
    ]
    first = next(iter(drawn))
    seen = _seen(ct[0 if multi_frame else first])
    # highdicom is given the first outline alone: of each of them it asks anew what its IOD may hold.
    outline = _polyline(drawn[first][0], tracking)
    annotation = GraphicAnnotation([seen], layer, shown[0][1], graphic_objects=[outline], text_objects=[note])
    made = _state(seen, layer, annotation, next(iter(rescale)), slot, context, ct[0])
    made.GraphicAnnotationSequence = [_annotation(*one, note, tracking) for one in shown]
    if multi_frame:
        made.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedFrameNumber = [frames[k] for k in drawn]
    else:
        made.ReferencedSeriesSequence = _by_series([image for image, _, _ in shown])
    largest = max(drawn, key=lambda k: int(np.count_nonzero(mask.voxels[k])))
    _show(made, ct[0 if multi_frame else largest])
    body_part(made, ct[0])
    return finish(made, ct[0], context)


def _annotation(
    image: Reference,
    frame: int | None,
    loops: Sequence[Sequence[tuple[int, int]]],
    note: TextObject,
    tracking: tuple[str, str],
) -> Dataset:
    """The outlines of a slice, as `GraphicAnnotation` has them."""
    seen = sop_reference(image)
    if frame is not None:
        seen.ReferencedFrameNumber = frame
    made = Dataset()
    made.ReferencedImageSequence, made.GraphicLayer = [seen], LAYER
    made.GraphicObjectSequence = [_closed(loop, tracking) for loop in loops]
    made.TextObjectSequence = [note]
    return made


def _closed(corners: Sequence[tuple[int, int]], tracking: tuple[str, str]) -> Dataset:
    """As `_polyline`, without highdicom: it checks and copies each point three times."""
    points = [float(place) for corner in (*corners, corners[0]) for place in corner]
    made = Dataset()
    values = ("PIXEL", 2, len(corners) + 1, points, "POLYLINE", "N", *tracking)
    for (tag, vr), value in zip(_POLYLINE, values, strict=True):
        made.add(DataElement(tag, vr, value, already_converted=True))
    return made


def _by_series(images: Sequence[Reference]) -> list[Dataset]:
    """Items of Referenced Series Sequence (0008,1115), as in PS3.3 table C.11.11-1b."""
    series: dict[str, list[Dataset]] = defaultdict(list)
    for image in images:
        series[image.series_instance_uid].append(sop_reference(image))
    made = []
    for uid, items in series.items():
        item = Dataset()
        item.SeriesInstanceUID, item.ReferencedImageSequence = uid, items
        made.append(item)
    return made


def _seen(header: Dataset) -> Dataset:
    made = stand_in(header)
    made.SamplesPerPixel = 1
    return made


def _state(
    image: Dataset,
    layer: GraphicLayer,
    annotation: GraphicAnnotation,
    rescale: tuple[float, float] | None,
    slot: Slot,
    context: ReportContext,
    source: Dataset,
) -> Dataset:
    assert rescale is not None
    inverse = source.get("PhotometricInterpretation") == "MONOCHROME1"
    made: Dataset = GrayscaleSoftcopyPresentationState(
        referenced_images=[image],
        series_instance_uid=slot.series_instance_uid,
        series_number=slot.series_number,
        sop_instance_uid=slot.sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=context.software_version[:64],
        device_serial_number=context.device_uid,
        content_label="REGION_SCORED",
        content_description=described("Outline of the voxels that were scored", context),
        graphic_annotations=[annotation],
        graphic_layers=[layer],
        modality_lut_transformation=ModalityLUTTransformation(
            rescale_slope=rescale[0], rescale_intercept=rescale[1], rescale_type="HU"
        ),
        voi_lut_transformations=[SoftcopyVOILUTTransformation(*_window(source))],
        presentation_lut_transformation=PresentationLUTTransformation(
            presentation_lut_shape="INVERSE" if inverse else "IDENTITY"
        ),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=CHARACTER_SET,
        series_description=slot.series_description,
    )
    made.GraphicLayerSequence[0].GraphicLayerRecommendedDisplayGrayscaleValue = 0xFFFF
    now = local_time(context, source)
    made.PresentationCreationDate, made.PresentationCreationTime = now.date(), now.time()
    return made


def _polyline(corners: list[tuple[int, int]], tracking: tuple[str, str]) -> GraphicObject:
    """A closed line; (0, 0) is the outer corner of the first pixel (PS3.3 C.10.5.1.2)."""
    return GraphicObject(
        graphic_type=GraphicTypeValues.POLYLINE,
        graphic_data=np.array([*corners, corners[0]], dtype=float),
        units=AnnotationUnitsValues.PIXEL,
        tracking_id=tracking[0],
        tracking_uid=tracking[1],
    )


def _note(language: str) -> TextObject:
    return TextObject(
        text_value=speaker(language).say("Prognode: scored contour - research use only"),
        units=AnnotationUnitsValues.DISPLAY,
        bounding_box=_NOTE_BOX,
        text_justification=TextJustificationValues.CENTER,
    )


def _show(made: Dataset, source: Dataset) -> None:
    """The whole image, in its true proportions."""
    area = made.DisplayedAreaSelectionSequence[0]
    if "PixelOriginInterpretation" in area:
        del area.PixelOriginInterpretation  # for tiled images
    spacing = _from_groups(source, None, "PixelMeasuresSequence", "PixelSpacing")
    if spacing is not None and len(spacing) == 2:
        del area.PresentationPixelAspectRatio
        area.PresentationPixelSpacing = [float(step) for step in spacing]


def _rescale(header: Dataset, frame: int | None) -> tuple[float, float] | None:
    """Slope and intercept of a slice; None where it has none."""
    slope = _from_groups(header, frame, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _from_groups(header, frame, "PixelValueTransformationSequence", "RescaleIntercept")
    return None if slope is None or intercept is None else (float(slope), float(intercept))


def _from_groups(header: Dataset, frame: int | None, sequence: str, keyword: str) -> Any:
    """An attribute of a slice: its own, or that of the shared or the frame's functional group."""
    if keyword in header:
        return header.get(keyword)
    groups = list(header.get("SharedFunctionalGroupsSequence", []))
    if frame is not None and "PerFrameFunctionalGroupsSequence" in header:
        groups.append(header.PerFrameFunctionalGroupsSequence[frame - 1])
    found = [item.get(keyword) for group in groups for item in group.get(sequence, []) if keyword in item]
    return found[-1] if found else None


def _window(source: Dataset) -> tuple[float, float]:
    """Centre and width that the CT itself asks for first, where they can be used."""
    found = [legal.read(source, Tag(keyword)) for keyword in ("WindowCenter", "WindowWidth")]
    values: list[Any] = [None if element is None else element.value for element in found]
    try:
        centre, width = (float(value[0] if isinstance(value, MultiValue) else value) for value in values)
    except (TypeError, ValueError):
        return _WINDOW
    return (centre, width) if width >= 1 and np.isfinite([centre, width]).all() else _WINDOW

"""One slice of a CT as a PNG in a grey-level window. Decoded slices are kept in a small cache; never a whole volume."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import iter_pixels

from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.web import results
from dicom_node.web.cache import Cache
from dicom_node.web.contour import MaskUnreadable
from dicom_node.web.deps import Number, SpoolDep, StoreDep, Viewer, opened
from dicom_node.web.errors import Problem
from dicom_node.web.stack import Slice, Stack
from dicom_node.workitem import WorkItem

RENDERING = 1  # part of the ETag: raise it when the same slice gives another picture
CACHE_BYTES = 64_000_000  # of decoded slices: 120 of 512 x 512
MAXIMUM_PIXELS = 4096 * 4096
# What pydicom and its decoders raise on a file that is cut, damaged or lies about itself.
_UNREADABLE = (
    InvalidDicomError, OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError,
    NotImplementedError, OverflowError, MemoryError,
)  # fmt: skip

Hounsfield = NDArray[np.int16]
# A browser may keep pictures, but asks each time whether they may still be shown: after the sign-out they may not.
PRIVATE = {"Cache-Control": "private, no-cache", "Vary": "Cookie, Authorization"}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Window:
    """Window centre and width in HU (PS3.3 C.11.2.1.2)."""

    label: str
    centre: float
    width: float


WINDOWS = {
    "lung": Window("Lung", -600, 1500),
    "soft": Window("Soft tissue", 40, 400),
    "bone": Window("Bone", 400, 1800),
}


class SliceUnreadable(Exception):
    """The slice cannot be shown; the text is a sentence for people, without PHI."""


_decoded: Cache[Hounsfield] = Cache(CACHE_BYTES, lambda array: array.nbytes)


def png(item: Slice, window: Window) -> bytes:
    """The slice in a window, 8-bit grey. Raises SliceUnreadable."""
    values = _decoded.get((item.path, item.frame), lambda: decode(item))
    low = window.centre - 0.5 - (window.width - 1) / 2
    table = np.arange(-32768, 32768, dtype=np.float32)  # of every value a slice can hold: one look-up per pixel
    grey = (np.clip((table - low) / (window.width - 1), 0, 1) * 255 + 0.5).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey[values.astype(np.int32) + 32768]).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def etag(stack: Stack, number: int, window: str) -> str:
    """Names the picture: the content key of the work item, the slice, the window and how it is drawn."""
    text = f"{RENDERING} {stack.name} {number} {window}"
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def decode(item: Slice) -> Hounsfield:
    """Hounsfield units of one slice, (rows, columns) int16; only this frame is read.

    Raises
    ------
    SliceUnreadable
        With a sentence that says why.
    """
    try:
        rescale = _rescales(item.path)
        if item.frame >= len(rescale):
            raise SliceUnreadable("This slice is not in its file.")
        (frame,) = iter_pixels(item.path, indices=[item.frame], raw=True)
    except FileNotFoundError:
        raise SliceUnreadable("The file of this slice is not in the spool any more.") from None
    except _UNREADABLE as error:
        raise SliceUnreadable(f"The pixel data of this slice cannot be decoded ({type(error).__name__}).") from None
    if frame.ndim != 2:
        raise SliceUnreadable("This slice has more than one sample per pixel.")
    slope, intercept = rescale[item.frame]
    values = frame.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    hounsfield: Hounsfield = np.clip(np.rint(np.nan_to_num(values)), -32768, 32767).astype(np.int16)
    return hounsfield


@lru_cache(maxsize=4096)
def _rescales(path: Path) -> tuple[tuple[float, float], ...]:
    """Rescale slope and intercept of every frame; (1, 0) where absent. Files of the spool never change.

    Raises what `_UNREADABLE` lists, SliceUnreadable where the image claims a size that no CT has.
    """
    header = dcmread(path, stop_before_pixels=True)
    if not 0 < int(header.Rows) * int(header.Columns) <= MAXIMUM_PIXELS:
        raise SliceUnreadable(f"This slice claims a size of {header.Rows} x {header.Columns} pixels.")
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        return (_rescale(header),)
    shared = next(iter(header.get("SharedFunctionalGroupsSequence") or ()), Dataset())
    keyword = "PixelValueTransformationSequence"
    return tuple(_rescale(((frame.get(keyword) or shared.get(keyword)) or [Dataset()])[0]) for frame in frames)


def _rescale(holder: Dataset) -> tuple[float, float]:
    slope, intercept = holder.get("RescaleSlope"), holder.get("RescaleIntercept")
    return _number(slope, 1.0), _number(intercept, 0.0)


def _number(value: Any, absent: float) -> float:
    return absent if value in (None, "") else float(value)


# -- endpoints ---------------------------------------------------------------------------------------------------


@router.get("/items/{item_id}/slices.json")
def slices(item_id: Number, request: Request, signed: Viewer, store: StoreDep, spool: SpoolDep) -> dict[str, Any]:
    """What the viewer needs to scroll: positions in mm, and the outline of each slice that bears one."""
    item, found = _stack(item_id, store, spool)
    opened(request, store, signed, item.study_instance_uid, item.id, "study.opened", part=True)
    try:
        paths, said = results.outlines(item, results.result_of(item, spool), spool), ""
    except (MaskUnreadable, OSError):
        paths, said = {}, "The contour cannot be drawn: the mask of this result cannot be read."
    return {
        "z": [item.z for item in found.slices],
        "headLast": found.head_last,
        "largest": found.largest,
        "contours": {str(number): path for number, path in paths.items() if number < len(found.slices)},
        "said": said,
    }


@router.get("/items/{item_id}/slices/{number}.png")
def slice_picture(
    item_id: Number,
    number: Number,
    request: Request,
    signed: Viewer,
    store: StoreDep,
    spool: SpoolDep,
    window: str = "lung",
) -> Response:
    """Slice `number` (from 1) as a PNG; 422 with a sentence where it cannot be shown."""
    item, found = _stack(item_id, store, spool)
    if window not in WINDOWS or not 1 <= number <= len(found.slices):
        raise Problem(404, "there is no such slice or window", f"slices are 1 to {len(found.slices)}")
    opened(request, store, signed, item.study_instance_uid, item.id, "study.opened", part=True)
    tag = etag(found, number, window)
    return _picture(request, tag, lambda: png(found.slices[number - 1], WINDOWS[window]))


@router.get("/items/{item_id}/pages/{number}.png")
def page_picture(
    item_id: Number, number: Number, request: Request, signed: Viewer, store: StoreDep, spool: SpoolDep
) -> Response:
    """A page of the report as it is in the PACS."""
    item = _item(item_id, store)
    if number not in results.pages(item, spool):
        raise Problem(404, "there is no such page")
    opened(request, store, signed, item.study_instance_uid, item.id, "result.opened", part=True)
    path = results.page_picture(item, number, spool)
    facts = path.stat()
    tag = hashlib.sha256(f"{item.key} {number} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:32]
    return _picture(request, f'"{tag}"', path.read_bytes)


def _picture(request: Request, tag: str, make: Callable[[], bytes]) -> Response:
    headers = {**PRIVATE, "ETag": tag}
    known = {part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")}
    if tag in known:
        return Response(status_code=304, headers=headers)
    try:
        return Response(make(), media_type="image/png", headers=headers)
    except SliceUnreadable as error:
        return PlainTextResponse(str(error), 422, headers={"Cache-Control": "no-store"})


def _item(item_id: int, store: Store) -> WorkItem:
    item = store.item(item_id)
    if item is None:
        raise Problem(404, f"there is no work item {item_id}", "open it from the worklist")
    return item


def _stack(item_id: int, store: Store, spool: Spool) -> tuple[WorkItem, Stack]:
    item = _item(item_id, store)
    found = results.stack(item, results.result_of(item, spool), store, spool)
    if found is None:
        raise Problem(404, "no CT image of this work item is here")
    return item, found

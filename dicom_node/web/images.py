"""One slice of a CT as a PNG in a grey-level window. Decoded slices are kept in a small cache; never a whole volume."""

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import iter_pixels

from dicom_node.web.stack import Slice, Stack

RENDERING = 1  # part of the ETag: raise it when the same slice gives another picture
CACHE_BYTES = 64_000_000  # of decoded slices: 120 of 512 x 512
MAXIMUM_PIXELS = 4096 * 4096
# What pydicom and its decoders raise on a file that is cut, damaged or lies about itself.
_UNREADABLE = (
    InvalidDicomError, OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError,
    NotImplementedError, OverflowError, MemoryError,
)  # fmt: skip

Hounsfield = NDArray[np.int16]
T = TypeVar("T")


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


class Cache(Generic[T]):
    """The values used last, up to `limit` by their own sizes. Safe for threads; a value may be made twice."""

    def __init__(self, limit: int, size: Callable[[T], int]) -> None:
        self._limit, self._size = limit, size
        self._held: OrderedDict[Hashable, T] = OrderedDict()
        self._sum = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, made where it is not held. An error of `make` is passed on and nothing is kept."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        value = make()
        with self._lock:
            if key not in self._held and self._size(value) <= self._limit:
                self._held[key] = value
                self._sum += self._size(value)
            while self._sum > self._limit:
                self._sum -= self._size(self._held.popitem(last=False)[1])
        return value


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

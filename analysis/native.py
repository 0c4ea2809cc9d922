"""Uncompressed single-frame CT files: a few header elements, and pixels from the file straight into the volume.

pydicom builds an object for every element of every slice; of three hundred slices that takes longer than reading them.
Here the elements that a `Plane` needs are found by walking over the others. Whatever is unusual is None, and pydicom
reads the file: this module decides nothing about a file that it does not understand.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from analysis.geometry import LOSSY, Plane

HEADER_BYTES = (8_192, 65_536)  # read first, and where the pixels begin later; a longer header is pydicom's
_UNDEFINED = 0xFFFFFFFF
_DEPTH = 8  # of sequences within sequences
_CHARACTER_SETS = 0x00080005
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_EXPLICIT, _IMPLICIT, _LONG = struct.Struct("<HH2sH"), struct.Struct("<HHI"), struct.Struct("<I")
Element = tuple[int, bytes, int, int]
Reader = Callable[[bytes, int], Element]
# VRs with a length of four bytes (PS3.5 Table 7.1-1), and the others that there are.
_WIDE = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_NARROW = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)
_SYNTAX, _PIXELS = 0x00020010, 0x7FE00010
_TEXT = {
    0x00080008: "image_type", 0x00080016: "sop_class_uid", 0x00080018: "sop_instance_uid", 0x00180010: "agent",
    0x00180050: "slice_thickness", 0x00181210: "convolution_kernel", 0x0020000E: "series_instance_uid",
    0x00200012: "acquisition_number", 0x00200032: "position", 0x00200037: "orientation",
    0x00200052: "frame_of_reference_uid", 0x00280008: "frames", 0x00280030: "pixel_spacing",
    0x00281052: "rescale_intercept", 0x00281053: "rescale_slope", 0x00281054: "rescale_type", 0x00282110: "lossy",
}  # fmt: skip
_NUMBER = {
    0x00280002: "samples", 0x00280010: "rows", 0x00280011: "columns", 0x00280100: "allocated", 0x00280101: "bits",
    0x00280102: "high_bit", 0x00280103: "signed",
}  # fmt: skip
_WANTED = {tag: dictionary_VR(tag).encode() for tag in (_SYNTAX, *_TEXT, *_NUMBER)}
# Contrast agents as a sequence, and functional groups in a single-frame file: what they mean is said in `volume`.
_NOT_HERE = frozenset({0x00180012, 0x00209111, 0x00289110, 0x00289145, 0x00209113, 0x00209116, 0x00189314, 0x00189329})


class _Unusual(Exception):
    """Not a file for this module."""


@dataclass(frozen=True)
class Stored:
    """Where a file's pixels lie: `offset` bytes from its beginning, 16 bits each of which `bits` are used."""

    offset: int
    signed: bool
    bits: int

    @property
    def range(self) -> tuple[int, int]:
        """Of the stored values; beyond, the bits above `bits` hold something else."""
        return (-(1 << self.bits - 1), (1 << self.bits - 1) - 1) if self.signed else (0, (1 << self.bits) - 1)


def read_header(path: Path) -> tuple[Plane, Stored] | None:
    """What `volume` would make of the file's header; None where pydicom has to read it. Raises OSError."""
    for length in HEADER_BYTES:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            head = os.pread(descriptor, length, 0)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        try:
            return _plane(path, head, size)
        except struct.error:
            continue  # the header is longer than this
        except (_Unusual, ValueError, KeyError):
            return None
    return None


def read_pixels(path: Path, stored: Stored, out: NDArray[np.int16]) -> bool:
    """Fill `out` (rows, columns; contiguous) with the stored values' bits; False where the file is shorter."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.preadv(descriptor, [out.data.cast("B")], stored.offset) == out.nbytes
    finally:
        os.close(descriptor)


def _plane(path: Path, head: bytes, size: int) -> tuple[Plane, Stored]:
    if head[128:132] != b"DICM":
        raise _Unusual
    found, offset, length = _walk(head)
    texts = {name: _text(found[tag]) for tag, name in _TEXT.items() if tag in found}
    numbers = {name: _us(found[tag]) for tag, name in _NUMBER.items() if tag in found}
    rows, columns = numbers["rows"], numbers["columns"]
    if (
        texts["sop_class_uid"] != CTImageStorage
        or numbers.get("samples") != 1
        or numbers["allocated"] != 16
        or not 1 <= numbers["bits"] <= 16
        or numbers.get("high_bit", numbers["bits"] - 1) != numbers["bits"] - 1
        or numbers["signed"] not in (0, 1)
        or texts.get("frames", "1") != "1"
        or not length == rows * columns * 2 <= size - offset
    ):
        raise _Unusual
    plane = Plane(
        path=path,
        frame=0,
        sop_instance_uid=_string(texts["sop_instance_uid"]),
        series_instance_uid=_string(texts.get("series_instance_uid", "")),
        frame_of_reference_uid=_string(texts.get("frame_of_reference_uid", "")),
        position=_floats(texts.get("position", "")),
        orientation=_floats(texts.get("orientation", "")),
        pixel_spacing=_floats(texts.get("pixel_spacing", "")),
        rows=rows,
        columns=columns,
        rescale_slope=_float(texts.get("rescale_slope", "")),
        rescale_intercept=_float(texts.get("rescale_intercept", "")),
        rescale_type=_string(texts.get("rescale_type", "")),
        image_type=_words(texts.get("image_type", "")),
        acquisition_number=_whole(texts.get("acquisition_number", "")),
        convolution_kernel="/".join(_words(texts.get("convolution_kernel", ""))),
        slice_thickness=_float(texts.get("slice_thickness", "")),
        contrast=bool(_string(texts.get("agent", ""))),
        lossy=_words(texts.get("lossy", "")) == LOSSY,
    )
    return plane, Stored(offset, bool(numbers["signed"]), numbers["bits"])


# Elements ---------------------------------------------------------------------------------------------------


def _walk(head: bytes) -> tuple[dict[int, bytes], int, int]:
    """The wanted elements' bytes, and where the pixels begin and how long they are."""
    found: dict[int, bytes] = {}
    position, before, element = 132, 0, _explicit
    while True:
        if before >> 16 <= 0x0002 < int.from_bytes(head[position : position + 2], "little"):
            element = _READERS[found[_SYNTAX].rstrip(b"\0")]  # the file meta information has ended (PS3.10 7.1)
        tag, vr, length, position = element(head, position)
        if tag <= before or tag in _NOT_HERE:  # in ascending order, as PS3.5 has them
            raise _Unusual
        before = tag
        if tag == _PIXELS:
            if vr not in (b"OW", b""):
                raise _Unusual
            return found, position, length
        if length == _UNDEFINED:
            position = _after_sequence(head, position, vr, element, 0)
            continue
        if tag == _CHARACTER_SETS and b"\0" in head[position : position + length]:
            raise _Unusual  # pydicom says what is to be said of it
        if tag in _WANTED:
            if vr not in (_WANTED[tag], b""):
                raise _Unusual
            found[tag] = head[position : position + length]
        position += length


def _explicit(head: bytes, position: int) -> Element:
    """Tag, VR, length, and where the value begins. Raises struct.error at the end of what was read."""
    group, element, vr, length = _EXPLICIT.unpack_from(head, position)
    if vr in _WIDE:
        (length,) = _LONG.unpack_from(head, position + 8)
        position += 4
    elif vr not in _NARROW:
        raise _Unusual
    return group << 16 | element, vr, length, position + 8


def _implicit(head: bytes, position: int) -> Element:
    group, element, length = _IMPLICIT.unpack_from(head, position)
    return group << 16 | element, b"", length, position + 8


_READERS = {str(ExplicitVRLittleEndian).encode(): _explicit, str(ImplicitVRLittleEndian).encode(): _implicit}


def _after_sequence(head: bytes, position: int, vr: bytes, element: Reader, depth: int) -> int:
    """Where a sequence of undefined length has ended (PS3.5 7.5)."""
    if vr not in (b"SQ", b"") or depth == _DEPTH:
        raise _Unusual
    while True:
        tag, _, length, position = _implicit(head, position)
        if tag == _SEQUENCE_END:
            return position
        if tag != _ITEM:
            raise _Unusual
        position = _after_item(head, position, element, depth) if length == _UNDEFINED else position + length


def _after_item(head: bytes, position: int, element: Reader, depth: int) -> int:
    while True:
        if _implicit(head, position)[0] == _ITEM_END:
            return position + 8
        _, vr, length, position = element(head, position)
        if length == _UNDEFINED:
            position = _after_sequence(head, position, vr, element, depth + 1)
        else:
            position += length


# Values -----------------------------------------------------------------------------------------------------


def _text(value: bytes) -> str:
    text = value.decode("ascii").rstrip(" \0")
    if not text.isprintable():  # an escape sequence of another character set
        raise _Unusual
    return text


def _string(text: str) -> str:
    if text != text.strip() or "\\" in text:
        raise _Unusual
    return text


def _us(value: bytes) -> int:
    if len(value) != 2:
        raise _Unusual
    return int.from_bytes(value, "little")


def _words(text: str) -> tuple[str, ...]:
    return tuple(_string(word) for word in text.split("\\")) if text else ()


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in text.split("\\")) if text else ()


def _float(text: str) -> float | None:
    return float(text) if text else None


def _whole(text: str) -> str:
    return str(int(text)) if text else ""

"""Headers of a report's evidence, as pydicom reads them, in a third of its time: a chest has 300 of them.

pydicom reads a file piece by piece, and looks for meta information, a command set and a data set in turn. Here its
beginning is read at once and cut into the raw elements that pydicom would make of it; whatever is not plain goes to
pydicom. tests/dicom/test_evidence_header.py holds both against each other.
"""

import struct
from functools import lru_cache
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

_BEGINNING: Final = 1 << 16  # bytes of a file that are read; a header that is longer is pydicom's
_IMPLICIT: Final = struct.Struct("<HHL")  # tag, length (PS3.5 table 7.1-3)
_EXPLICIT: Final = struct.Struct("<HH2sH")  # tag, VR, length (PS3.5 table 7.1-2)
_LENGTH: Final = struct.Struct("<L")
_VRS: Final = {vr.encode(): (str(vr.value), vr in EXPLICIT_VR_LENGTH_32) for vr in STANDARD_VR}  # and: long length
_UNKNOWN: Final = ("", False)
_META: Final = 0x0002  # group
_FIRST: Final = 0x0008  # group; those below belong to no data set
_ITEMS: Final = 0xFFFE  # group
_PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_TRANSFER_SYNTAX: Final = BaseTag(0x00020010)
_CHARACTER_SET: Final = BaseTag(0x00080005)
_Elements = dict[BaseTag, DataElement | RawDataElement]


class _Unusual(Exception):
    """pydicom has to read this file."""


def read(path: Path) -> Dataset:
    """The header of a Part 10 file, without its pixels. Raises what pydicom or the disk raises."""
    with path.open("rb", buffering=0) as stream:
        beginning = stream.read(_BEGINNING)
    try:
        return _header(beginning)
    except (_Unusual, struct.error):
        return dcmread(path, stop_before_pixels=True, force=True)


def _header(data: bytes) -> Dataset:
    if data[128:132] != b"DICM":
        raise _Unusual
    meta, position = _elements(data, 132, implicit=False, meta=True)
    named = meta.get(_TRANSFER_SYNTAX)
    syntax = (named.value or b"").rstrip(b"\0").decode("latin-1") if named else ""
    if syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        raise _Unusual
    implicit = syntax == ImplicitVRLittleEndian
    if implicit == (b"AA" <= data[position + 4 : position + 6] <= b"ZZ"):  # pydicom goes by the first element
        raise _Unusual
    elements, _ = _elements(data, position, implicit=implicit, meta=False)
    told = elements.get(_CHARACTER_SET)
    header = Dataset(elements)
    header.set_original_encoding(implicit, True, list(_encodings(told.VR, told.value)) if told else "iso8859")
    return header


def _elements(data: bytes, position: int, *, implicit: bool, meta: bool) -> tuple[_Elements, int]:
    """The elements of the meta information, or those until the pixels, and where they end."""
    found: _Elements = {}
    vr: str | None = None
    while True:
        start = position + 8
        if implicit:
            group, number, length = _IMPLICIT.unpack_from(data, position)
        else:
            group, number, code, length = _EXPLICIT.unpack_from(data, position)
            vr, long = _VRS.get(code, _UNKNOWN)
            if long:
                length, start = _LENGTH.unpack_from(data, start)[0], start + 4
        tag = BaseTag(group << 16 | number)
        if tag in _PIXELS or (meta and group != _META):
            return found, position
        position = start + length
        if position > len(data) or vr == "" or group == _ITEMS or (group < _FIRST and not meta):
            raise _Unusual
        value = data[start:position] if length else empty_value_for_VR(vr, raw=True)
        found[tag] = RawDataElement(tag, vr, length, value, start, implicit, True)  # type: ignore[arg-type]


@lru_cache(maxsize=16)
def _encodings(vr: str | None, value: bytes | None) -> tuple[str, ...]:
    """Python's names for a Specific Character Set (0008,0005)."""
    raw = RawDataElement(_CHARACTER_SET, vr, len(value or b""), value, 0, vr is None, True)
    try:
        return tuple(convert_encodings(convert_raw_data_element(raw).value))
    except Exception as error:  # pydicom says in its own way what is wrong with it
        raise _Unusual from error

"""Our objects as Part 10 files in Explicit VR Little Endian: the bytes that pydicom writes, in a quarter of its time.

An SR is a tree of some thousand small items, and pydicom walks through all below an item anew on each level to look
for VRs that depend on other elements. Sequences and plain text are encoded here; every other element, and a text in
another character set, by pydicom. tests/dicom/test_reports_bytes.py holds both against each other.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pydicom import dcmwrite
from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr_element, write_data_element
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import AMBIGUOUS_VR

_SHORT: Final = struct.Struct("<HH2sH")  # tag, VR, length (PS3.5 table 7.1-2)
_LONG: Final = struct.Struct("<HH2sHL")  # tag, VR, reserved, length (PS3.5 table 7.1-1)
_ITEM: Final = struct.Struct("<HHL")  # tag, length (PS3.5 table 7.5-1)
_UNDEFINED: Final = 0xFFFFFFFF
_PLAIN: Final = {"UI": b"\0", "CS": b" ", "AE": b" ", "AS": b" "}  # VRs of the default repertoire, and their padding
_TEXT: Final = frozenset({"SH", "LO", "ST", "LT", "UT", "UC"})  # VRs in the character set of the data set
_LONG_TEXT: Final = frozenset({"UT", "UC"})
_NUMBERS: Final = {"US": "H", "UL": "L", "FL": "f", "FD": "d"}
_FIRST: Final = 0x00080000  # below are the groups of a command set, of the meta information, of a DICOMDIR
_COMMAND_SET: Final = 0x0006FFFF  # and what else is never of a data set
_CHARACTER_SET: Final = 0x00080005
_UTF8: Final = convert_encodings("ISO_IR 192")


def part10(dataset: Dataset) -> bytes:
    """An object as a Part 10 file, as `dcmwrite(..., enforce_file_format=True)` writes it."""
    stream = io.BytesIO()
    misplaced = min(dataset.keys(), default=_FIRST) < _FIRST  # pydicom says what is wrong with it
    if misplaced or dataset.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
        dcmwrite(stream, dataset, enforce_file_format=True)
        return stream.getvalue()
    short = Dataset()
    short.file_meta, short.preamble = dataset.file_meta, getattr(dataset, "preamble", None)
    short.SOPClassUID, short.SOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    dcmwrite(stream, short, enforce_file_format=True)
    meta = stream.getvalue()[: -len(encoded(short))]
    return meta + encoded(dataset)


def encoded(dataset: Dataset) -> bytes:
    """A data set without preamble and meta information. Raises what pydicom raises for a value that has no form."""
    return b"".join(_elements(dataset, ["iso8859"], [dataset]))


def _elements(dataset: Dataset, encodings: Sequence[str], ancestors: list[Dataset]) -> Iterator[bytes]:
    for found in sorted(dataset.values(), key=_place):
        element = found if isinstance(found, DataElement) else dataset[found.tag]
        tag = int(element.tag)  # BaseTag compares in Python
        if tag == _CHARACTER_SET:
            encodings = convert_encodings(element.value)
        if tag & 0xFFFF == 0 and tag > _COMMAND_SET:  # a group length is retired (PS3.5 section 7.2)
            continue
        vr = element.VR
        if vr in AMBIGUOUS_VR:
            correct_ambiguous_vr_element(element, dataset, True, ancestors)
            vr = element.VR
        if vr == "SQ":
            yield from _sequence(element, encodings, ancestors)
        else:
            yield _text(element, encodings) or _number(element) or _other(element, encodings)


def _place(element: DataElement | RawDataElement) -> int:
    return int(element.tag)


def _sequence(element: DataElement, encodings: Sequence[str], ancestors: list[Dataset]) -> Iterator[bytes]:
    items: list[bytes] = []
    for item in element.value or ():
        inside = b"".join(_elements(item, encodings, [item, *ancestors]))
        if getattr(item, "is_undefined_length_sequence_item", False):
            items += (_ITEM.pack(0xFFFE, 0xE000, _UNDEFINED), inside, _ITEM.pack(0xFFFE, 0xE00D, 0))
        else:
            items += (_ITEM.pack(0xFFFE, 0xE000, len(inside)), inside)
    length = _UNDEFINED if element.is_undefined_length else sum(map(len, items))
    yield _LONG.pack(element.tag.group, element.tag.element, b"SQ", 0, length)
    yield from items
    if element.is_undefined_length:
        yield _ITEM.pack(0xFFFE, 0xE0DD, 0)


def _text(element: DataElement, encodings: Sequence[str]) -> bytes | None:
    """An element that is one plain string; None for any other."""
    value: Any = element.value
    vr = element.VR
    if type(value) not in (str, UID) or not value:
        return None
    try:
        if vr in _PLAIN:
            raw, padding = bytes(value, "iso8859"), _PLAIN[vr]
        elif vr in _TEXT and list(encodings) == _UTF8:
            raw, padding = bytes(value, "utf8"), b" "
        else:
            return None
    except UnicodeEncodeError:  # pydicom raises, or writes what it can
        return None
    if len(raw) % 2:
        raw += padding
    group, number = divmod(int(element.tag), 0x10000)
    if vr in _LONG_TEXT:
        return _LONG.pack(group, number, vr.encode(), 0, len(raw)) + raw
    return _SHORT.pack(group, number, vr.encode(), len(raw)) + raw if len(raw) <= 0xFFFF else None


def _number(element: DataElement) -> bytes | None:
    """An element that is one binary number or several; None for any other."""
    form, value = _NUMBERS.get(element.VR), element.value
    if form is None or value is None or value == "":
        return None
    values = value if isinstance(value, list | MultiValue) else (value,)
    try:
        raw = struct.pack(f"<{len(values)}{form}", *values)
    except struct.error:  # pydicom says what is wrong with it
        return None
    if not 0 < len(raw) <= 0xFFFF:
        return None
    return _SHORT.pack(element.tag.group, element.tag.element, element.VR.encode(), len(raw)) + raw


def _other(element: DataElement, encodings: Sequence[str]) -> bytes:
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_data_element(stream, element, list(encodings))
    return stream.getvalue()

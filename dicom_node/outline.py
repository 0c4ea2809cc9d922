"""The part of a data set that the header facts need, copied out before anything is parsed: bounded, whatever comes.

pydicom follows nesting by recursion and makes an object of each element: a few megabytes of hostile bytes overflow the
stack or fill the heap. Here the bytes are walked without either. What is kept is small (wanted attributes before the
pixels; inside sequences the beginning of a long value, and no contour points), and its sequences have undefined length.
"""

import struct
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import BinaryIO, NamedTuple

from pydicom.datadict import keyword_for_tag
from pydicom.tag import Tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from dicom_node._skim import skim
from dicom_node.elements import UnreadableHeader

MAXIMUM_VALUE_BYTES = 65_536  # of an attribute outside sequences
MAXIMUM_NESTED_VALUE_BYTES = 512  # of a longer one, the beginning is kept; nothing that is read is longer
MAXIMUM_DEPTH = 32  # sequences inside each other; the deepest that is read has 4
MAXIMUM_ELEMENTS = 1_000_000  # that are walked over; an Enhanced CT of 10,000 frames has about 600,000
MAXIMUM_KEPT = 500_000  # elements, and beginnings and ends of items, that are parsed: 320 MB at the very most
MAXIMUM_IN_MESSAGE = 100_000  # a report on 20,000 instances has 80,000
MAXIMUM_KEPT_BYTES = 67_108_864
UNDEFINED = 0xFFFFFFFF
CONTOUR_DATA = 0x30060050
CHARACTER_SET = 0x00080005
PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_ITEM_HEAD = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
_ITEM_TAIL = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00"
_SEQUENCE_TAIL = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_KNOWN = frozenset(vr.value.encode() for vr in VR if len(vr.value) == 2)  # pydicom has "US or SS" there, too
_LONG = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
_KNOWNS, _LONGS = b"".join(sorted(_KNOWN)), b"".join(sorted(_LONG))


class Outline(NamedTuple):
    """`data` in the data set's own encoding; `pixels` is where the pixels begin and their length, None without any.

    `values`: the wanted ones by tag; None where there are sequences beside, or pydicom would see it otherwise.
    """

    data: bytes
    pixels: tuple[int, int] | None
    values: dict[int, bytes] | None


class _Element(NamedTuple):
    tag: int
    vr: bytes  # b"" where the encoding does not say
    head: bytes
    length: int


@dataclass
class _Level:
    """A sequence or an item being walked; `end` is None where a delimiter ends it."""

    is_item: bool
    end: int | None
    kept: bool
    fragments: bool = False  # of encapsulated pixels, such as an icon's: its items are no data sets


def outline(
    stream: BinaryIO, size: int, *, implicit: bool, values: Collection[int], sequences: Collection[int]
) -> Outline:
    """Copy the wanted `values` and `sequences` (tags at the top level) of a little endian data set of a file.

    Parameters
    ----------
    stream : file
        At the first element. `size` is where the file ends.
    implicit : bool
        Implicit VR.

    Raises
    ------
    UnreadableHeader
        When the data set is cut short, nested deeper than MAXIMUM_DEPTH, has more elements than any real object, or a
        wanted value is too long. The text names the attribute, never a value.
    """
    return _Walk(stream, size, implicit, frozenset(values), frozenset(sequences)).run()


def check_structure(stream: BinaryIO, size: int, *, implicit: bool) -> None:
    """Bounds of a whole data set that is parsed as it is: a message's. Raises UnreadableHeader as `outline` does."""
    walk = _Walk(stream, size, implicit, frozenset(), None)
    walk.most = MAXIMUM_IN_MESSAGE
    walk.run()


@cache
def _packed(tags: frozenset[int]) -> bytes:
    """Tags as `skim` takes them."""
    return struct.pack(f"<{len(tags)}L", *sorted(tags))


class _Walk:
    def __init__(
        self, stream: BinaryIO, size: int, implicit: bool, values: frozenset[int], sequences: frozenset[int] | None
    ) -> None:
        """`sequences` None: everything is kept."""
        self._stream, self._size, self._implicit = stream, size, implicit
        self._values, self._sequences = values, sequences
        self.most = MAXIMUM_KEPT
        self._position = stream.tell()
        self._memory = stream.getvalue() if isinstance(stream, BytesIO) else b""
        self._levels: list[_Level] = []
        self._kept: list[bytes] = []
        self._plain: dict[int, bytes] = {}
        self._is_plain = True
        self._walked = 0
        self._kept_bytes = 0

    def run(self) -> Outline:
        pixels = None
        while pixels is None:
            if self._memory and not self._levels:
                self._skim(self._memory)
            level = self._levels[-1] if self._levels else None
            if level is not None and level.end is not None and self._position >= level.end:
                self._close(level)
                continue
            element = self._next(level)
            if element is None or (level is None and element.tag == _ITEM_END):
                break
            if level is not None and not level.is_item:
                self._item(level, element)
            elif element.tag == _ITEM_END and level is not None:
                self._close(level)
            elif level is None and element.tag in PIXELS:
                pixels = (self._position, element.length)
            else:
                self._element(level, element)
        data = b"".join(self._kept)
        # pydicom goes by the first element, whatever the transfer syntax is.
        if not self._is_plain or self._implicit == all(0x40 < letter < 0x5B for letter in data[4:6]):
            return Outline(data, pixels, None)
        return Outline(data, pixels, self._plain)

    def _skim(self, data: bytes) -> None:
        """Over plain elements at the top level, as `_next` and `_element` would go, but in C."""
        if self._sequences is None:
            return
        most, stops = MAXIMUM_ELEMENTS - self._walked, _packed(self._sequences | PIXELS)
        position, walked, kept, values, plain = skim(
            data,
            self._position,
            most,
            self._implicit,
            MAXIMUM_VALUE_BYTES,
            _packed(self._values),
            stops,
            _LONGS,
            _KNOWNS,
        )
        if walked:
            self._position, self._walked = position, self._walked + walked
            self._plain |= values
            self._is_plain &= plain
            self._keep(*kept)
            self._stream.seek(position)

    def _next(self, level: _Level | None) -> _Element | None:
        """Head of the next element; None at the end of the data set."""
        head = self._stream.read(8)
        if len(head) < 8:
            if level is None:
                return None
            raise UnreadableHeader("the data set is cut short inside a sequence")
        self._position += 8
        self._walked += 1
        if self._walked > MAXIMUM_ELEMENTS:
            raise UnreadableHeader(f"has more than {MAXIMUM_ELEMENTS} elements")
        tag = int.from_bytes(head[:2], "little") << 16 | int.from_bytes(head[2:4], "little")
        vr = head[4:6]
        # As pydicom has it: what is no pair of capital letters is an element with implicit VR.
        if self._implicit or tag >> 16 == 0xFFFE or not b"AA" <= vr <= b"ZZ":
            return _Element(tag, b"", head, int.from_bytes(head[4:8], "little"))
        if vr not in _LONG:
            return _Element(tag, vr, head, int.from_bytes(head[6:8], "little"))
        more = self._stream.read(4)
        if len(more) < 4:
            raise UnreadableHeader(f"the data set is cut short in {name_of(tag)}")
        self._position += 4
        return _Element(tag, vr, head + more, int.from_bytes(more, "little"))

    def _item(self, level: _Level, element: _Element) -> None:
        if element.tag == _SEQUENCE_END:
            self._close(level)
        elif element.tag == _ITEM and level.fragments and element.length != UNDEFINED:
            self._position = self._end_of(element)
            self._stream.seek(self._position)
        elif element.tag == _ITEM:
            self._open(element, is_item=True, kept=level.kept)
        else:
            raise UnreadableHeader(f"a sequence holds {name_of(element.tag)} where an item should be")

    def _element(self, level: _Level | None, element: _Element) -> None:
        kept = level.kept if level is not None else self._sequences is None or element.tag in self._sequences
        if self._is_sequence(element, kept):
            if level is None and element.tag in self._values:
                raise UnreadableHeader(f"{name_of(element.tag)} is a sequence")
            self._open(element, is_item=False, kept=kept)
            return
        if element.length == UNDEFINED:
            if level is None or element.tag not in PIXELS:
                raise UnreadableHeader(f"{name_of(element.tag)} has undefined length and is no sequence")
            self._levels.append(_Level(is_item=False, end=None, kept=False, fragments=True))
            return
        end = self._end_of(element)
        if level is None and (kept or element.tag in self._values):
            if element.length > MAXIMUM_VALUE_BYTES:
                raise UnreadableHeader(f"{name_of(element.tag)} has {element.length} bytes")
            value = self._stream.read(element.length)
            self._keep(element.head + value)
            self._plain[element.tag] = value
            known = (b"CS",) if element.tag == CHARACTER_SET else _KNOWN
            self._is_plain &= not kept and (self._implicit or element.vr in known)
        elif level is not None and kept and element.tag != CONTOUR_DATA:
            self._keep_beginning(element)
            self._stream.seek(end)
        else:
            self._stream.seek(end)
        self._position = end

    def _keep_beginning(self, element: _Element) -> None:
        length = min(element.length, MAXIMUM_NESTED_VALUE_BYTES)
        width = 2 if element.vr and element.vr not in _LONG else 4
        self._keep(element.head[:-width] + length.to_bytes(width, "little") + self._stream.read(length))

    def _is_sequence(self, element: _Element, kept: bool) -> bool:
        """Whether to walk into an element. One of known length that nobody reads is stepped over."""
        if element.length == UNDEFINED:
            return element.vr in (b"SQ", b"UN") or (
                not element.vr and element.tag not in PIXELS and self._holds_items(element)
            )
        return kept and (element.vr == b"SQ" or (not element.vr and self._holds_items(element)))

    def _holds_items(self, element: _Element) -> bool:
        """Without a VR, an element is a sequence when an item stands in it, or the end of a sequence."""
        if element.length < 8:
            return False
        tag = self._stream.read(4)
        self._stream.seek(self._position)
        return tag in (_ITEM_HEAD[:4], _SEQUENCE_TAIL[:4])

    def _open(self, element: _Element, *, is_item: bool, kept: bool) -> None:
        if len(self._levels) >= 2 * MAXIMUM_DEPTH:
            raise UnreadableHeader(f"sequences are nested deeper than {MAXIMUM_DEPTH}")
        end = None if element.length == UNDEFINED else self._end_of(element)
        self._levels.append(_Level(is_item, end, kept))
        if kept:
            self._is_plain = False
            head = element.head[:8] if len(element.head) == 12 else element.head[:4]  # all but the length
            self._keep(_ITEM_HEAD if is_item else head + b"\xff\xff\xff\xff")

    def _close(self, level: _Level) -> None:
        self._levels.pop()
        if level.kept:
            self._kept.append(_ITEM_TAIL if level.is_item else _SEQUENCE_TAIL)

    def _keep(self, *parts: bytes) -> None:
        self._kept.extend(parts)
        self._kept_bytes += sum(map(len, parts))
        if len(self._kept) > self.most or self._kept_bytes > MAXIMUM_KEPT_BYTES:
            raise UnreadableHeader(f"has more than {self.most} elements and items that have to be read")

    def _end_of(self, element: _Element) -> int:
        end = self._position + element.length
        inside = next((level.end for level in reversed(self._levels) if level.end is not None), self._size)
        if end > inside:
            raise UnreadableHeader(f"the data set is cut short in {name_of(element.tag)}")
        return end


def name_of(tag: int) -> str:
    """The keyword of a tag, or its number."""
    return keyword_for_tag(Tag(tag)) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"

"""Plain elements are stepped over quickly where the bytes are in memory; the slow walk must find the very same."""

import io
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node import headers
from dicom_node._skim import skim
from dicom_node.elements import Plain, UnreadableHeader
from dicom_node.outline import _KNOWN, _KNOWNS, _LONG, Outline, outline
from tests.network import data_set_bytes
from tests.synthetic import ct_series, save


def _found(data: bytes, *, implicit: bool, in_memory: bool) -> Outline | str:
    stream = io.BytesIO(data) if in_memory else io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]
    try:
        return outline(stream, len(data), implicit=implicit, values=headers._VALUES, sequences=headers._NESTED)
    except UnreadableHeader as error:
        return str(error)


@settings(max_examples=150, deadline=None)
@given(implicit=st.booleans(), changes=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), max_size=6))
def test_both_ways_over_a_damaged_header_agree(
    tmp_path_factory: object, implicit: bool, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(_data(tmp_path_factory, implicit))
    for place, value in changes:
        data[place % len(data)] = value
    damaged = bytes(data)
    assert _found(damaged, implicit=implicit, in_memory=True) == _found(damaged, implicit=implicit, in_memory=False)


_made: dict[bool, bytes] = {}


def _data(factory: object, implicit: bool) -> bytes:
    if implicit not in _made:
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        folder = factory.mktemp("made")  # type: ignore[attr-defined]
        _made[implicit] = data_set_bytes(save(ct_series(1, 4, 4, seed=3)[0], folder, syntax))
    return _made[implicit]


def _facts(data: bytes, syntax: str, way: Callable[[dict[int, bytes] | None], Plain | None]) -> object:
    before, headers._plain = headers._plain, way  # type: ignore[assignment]
    try:
        with headers._hostile_bytes():
            headers._check_encoding(data[:6], UID(syntax))
            return headers._facts(io.BytesIO(data), len(data), UID(syntax), "ab")
    except UnreadableHeader as error:
        return str(error)
    finally:
        headers._plain = before


_DAMAGE = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), max_size=6)
_CHARACTER_SETS = ("ISO_IR 100", "ISO_IR 192", "ISO 2022 IR 87", "\\ISO 2022 IR 149", "GB18030", "unheard of", "a\0b")


@settings(max_examples=300, deadline=None)
@given(
    implicit=st.booleans(),
    changes=_DAMAGE,
    terms=st.sampled_from(_CHARACTER_SETS),
    name=st.binary(max_size=20).map(lambda some: some + b" " * (len(some) % 2)),
)
def test_an_image_s_facts_are_those_that_pydicom_finds(
    tmp_path_factory: object, implicit: bool, changes: list[tuple[int, int]], terms: str, name: bytes
) -> None:
    data = bytearray(_data(tmp_path_factory, implicit))
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    _put(data, 0x00080005, terms.encode().ljust(len(terms) + len(terms) % 2), implicit)
    _put(data, 0x00100010, name, implicit)
    for place, value in changes:
        data[place % len(data)] = value
    asked: list[Plain | None] = []

    def watched(values: dict[int, bytes] | None) -> Plain | None:
        asked.append(plain(values))
        return asked[-1]

    plain = headers._plain
    assert _facts(bytes(data), syntax, watched) == _facts(bytes(data), syntax, lambda values: None)
    if not changes and terms not in _CHARACTER_SETS[-2:]:
        assert asked[0] is not None, "an ordinary image needs no pydicom"


def _put(data: bytearray, tag: int, value: bytes, implicit: bool) -> None:
    """Give an attribute of group 0008 or 0010 (short VRs) another value."""
    position = 0
    while True:
        group, number = struct.unpack_from("<HH", data, position)
        short = "<L" if implicit else "<H"
        at = position + (4 if implicit else 6)
        (length,) = struct.unpack_from(short, data, at)
        here = group << 16 | number
        if here >= tag:
            break
        position += 8 + length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    vr = b"CS" if tag == 0x00080005 else b"PN"
    head += struct.pack("<L", len(value)) if implicit else vr + struct.pack("<H", len(value))
    data[position : position + (8 + length if here == tag else 0)] = head + value


def test_the_beginning_tells_what_the_file_tells(tmp_path_factory: object) -> None:
    for implicit, syntax in ((False, ExplicitVRLittleEndian), (True, ImplicitVRLittleEndian)):
        data = _data(tmp_path_factory, implicit)
        whole = headers.read_beginning(data, len(data), syntax, "ab")
        assert whole is not None
        assert headers.read_beginning(data[:-20], len(data), syntax, "ab") == whole  # before the pixels end
        assert headers.read_beginning(data[:200], len(data), syntax, "ab") is None
        assert headers.read_beginning(data, len(data) - 1, syntax, "ab") is None, "the pixels are cut short"


def test_every_known_vr_has_two_letters() -> None:
    """pydicom names pairs of them too, "US or SS"; side by side they would be taken for pieces of each other."""
    assert {len(vr) for vr in _KNOWN | _LONG} == {2}
    assert {b"CS", b"DS", b"SQ", b"UI", b"US", b"OW"} <= _KNOWN
    assert {_KNOWNS[at : at + 2] for at in range(0, len(_KNOWNS), 2)} == _KNOWN


@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "file"])
def test_a_length_that_reads_like_the_middle_of_a_vr_s_name_is_no_vr(in_memory: bool) -> None:
    """Modality without a VR, 28,448 bytes long: its length begins with the letters of " o"."""
    sop_class = struct.pack("<HH2sH", 8, 0x16, b"UI", 26) + b"1.2.840.10008.5.1.4.1.1.2\0"
    odd = struct.pack("<HHL", 8, 0x60, 0x6F20) + b"CT".ljust(0x6F20)
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, 4) + bytes(4)
    found = _found(sop_class + odd + pixels, implicit=False, in_memory=in_memory)
    assert isinstance(found, Outline)
    assert found.pixels == (len(sop_class + odd) + 12, 4)
    assert found.values is None, "pydicom has to read it"


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), implicit=st.booleans())
def test_both_ways_over_any_bytes_agree(data: bytes, implicit: bool) -> None:
    assert _found(data, implicit=implicit, in_memory=True) == _found(data, implicit=implicit, in_memory=False)


@pytest.mark.parametrize(
    "arguments",
    [
        (b"", 1, 9, False, 9, b"", b"", b"", b""),
        (b"", -1, 9, False, 9, b"", b"", b"", b""),
        (b"x" * 20, 0, 9, False, 9, b"123", b"", b"", b""),
        (b"x" * 20, 0, 9, False, 9, b"", b"", b"", b"O"),
    ],
)
def test_wrong_tables_and_places_are_refused(
    arguments: tuple[bytes, int, int, bool, int, bytes, bytes, bytes, bytes],
) -> None:
    with pytest.raises(ValueError, match=r"position|bytes"):
        skim(*arguments)

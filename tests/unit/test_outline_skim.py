"""Plain elements are stepped over quickly where the bytes are in memory; the slow walk must find the very same."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node import headers
from dicom_node.elements import UnreadableHeader
from dicom_node.outline import Outline, outline
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


def test_the_beginning_tells_what_the_file_tells(tmp_path_factory: object) -> None:
    for implicit, syntax in ((False, ExplicitVRLittleEndian), (True, ImplicitVRLittleEndian)):
        data = _data(tmp_path_factory, implicit)
        whole = headers.read_beginning(data, len(data), syntax, "ab")
        assert whole is not None
        assert headers.read_beginning(data[:-20], len(data), syntax, "ab") == whole  # before the pixels end
        assert headers.read_beginning(data[:200], len(data), syntax, "ab") is None
        assert headers.read_beginning(data, len(data) - 1, syntax, "ab") is None, "the pixels are cut short"

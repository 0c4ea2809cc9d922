"""P-DATA-TFs that came together are unwrapped together: the data set's bytes, and nothing else is touched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.fast_store import unwrapped
from tests import wire

CONTEXT, LONGEST = 3, 4096


def pdus(parts: list[bytes], *, ends: bool) -> list[bytes]:
    last = len(parts) - 1
    return [wire.data(part, context_id=CONTEXT, last=ends and at == last) for at, part in enumerate(parts)]


@given(parts=st.lists(st.binary(max_size=60), min_size=1, max_size=8), ends=st.booleans(), cut=st.integers(0, 400))
def test_whole_pdus_are_taken_and_one_that_is_not_whole_stays(parts: list[bytes], ends: bool, cut: int) -> None:
    made = pdus(parts, ends=ends)
    came = b"".join(made)[:cut]
    whole = [one for at, one in enumerate(made) if sum(map(len, made[: at + 1])) <= cut]
    buffer = bytearray(came)
    taken, size, last = unwrapped(memoryview(buffer), CONTEXT, LONGEST)
    assert taken == sum(map(len, whole))
    assert bytes(buffer[:size]) == b"".join(parts[: len(whole)])
    assert bytes(buffer[taken:]) == came[taken:]
    assert last is (ends and len(whole) == len(parts))


def test_nothing_behind_the_last_fragment_is_taken() -> None:
    message, following = wire.data(b"one", context_id=CONTEXT, last=True), wire.data(b"two", context_id=CONTEXT)
    buffer = bytearray(message + following)
    assert unwrapped(memoryview(buffer), CONTEXT, LONGEST) == (len(message), 3, True)
    assert buffer[len(message) :] == following


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(wire.data(b"x", context_id=5), id="another context"),
        pytest.param(wire.data(b"x", context_id=CONTEXT, command=True), id="a command set"),
        pytest.param(wire.data(b"x" * LONGEST, context_id=CONTEXT), id="longer than any that is taken"),
        pytest.param(b"\4\0\0\0\0\0" + bytes(20), id="empty"),
        pytest.param(b"\4\0\0\0\0\x0c" + b"\0\0\0\2\3\0" * 2, id="two fragments"),
        pytest.param(b"\4\0\0\0\0\6\0\0\0\1\3\0" + bytes(20), id="a fragment without its control byte"),
        pytest.param(b"\4\0\0\0\0\6\0\0\0\3\3\0" + bytes(20), id="a fragment that is longer than its PDU"),
        pytest.param(b"\4\0\xff\xff\xff\xff\xff\xff\xff\xfb\3\0" + bytes(20), id="the greatest length"),
        pytest.param(b"\7\0\0\0\0\4\0\0\0\0" + bytes(20), id="an abort"),
    ],
)
def test_what_is_unusual_is_left_as_it_is(odd: bytes) -> None:
    usual = wire.data(b"abc", context_id=CONTEXT)
    buffer = bytearray(usual + odd)
    assert unwrapped(memoryview(buffer), CONTEXT, LONGEST) == (len(usual), 3, False)
    assert buffer[len(usual) :] == odd
    assert unwrapped(memoryview(bytearray(odd)), CONTEXT, LONGEST) == (0, 0, False)

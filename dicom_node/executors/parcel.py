"""What travels between the node and a worker: one run of bytes, a header in JSON and files behind it. Pure.

Nothing is pickled but this run of bytes itself, and what is taken out of it was checked.
"""

import json
from collections.abc import Sequence
from typing import Any

MAGIC = b"PROGNODE\x01"
MAXIMUM_HEADER = 16_777_216  # a series of 10,000 images has a list of 1.5 MB
_LENGTH = 8


class Unreadable(Exception):
    """These bytes are no parcel; the text says what is wrong with them."""


def packed(header: dict[str, Any], files: Sequence[bytes] = ()) -> bytes:
    """One run of bytes.

    >>> opened(packed({"exit_code": 0}, [b"ab", b""]), 10)
    ({'exit_code': 0}, [b'ab', b''])
    """
    text = json.dumps({"header": header, "sizes": [len(each) for each in files]}).encode()
    return b"".join([MAGIC, len(text).to_bytes(_LENGTH, "big"), text, *files])


def opened(parcel: object, most: int) -> tuple[dict[str, Any], list[bytes]]:
    """Header and files. Raises Unreadable, also where the files have more than `most` bytes."""
    if not isinstance(parcel, bytes) or not parcel.startswith(MAGIC):
        raise Unreadable("it does not begin as a parcel")
    begin = len(MAGIC) + _LENGTH
    end = begin + int.from_bytes(parcel[len(MAGIC) : begin], "big")
    if not begin < end <= min(len(parcel), begin + MAXIMUM_HEADER):
        raise Unreadable("its header is cut, or too long")
    if len(parcel) - end > most:
        raise Unreadable(f"its files have {len(parcel) - end} bytes; {most} are the most")
    try:
        told = json.loads(parcel[begin:end])
        header, sizes = dict(told["header"]), [int(size) for size in told["sizes"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Unreadable("its header is not valid") from None
    if min(sizes, default=0) < 0 or sum(sizes) != len(parcel) - end:
        raise Unreadable("its files are not as long as its header says")
    files = []
    for size in sizes:
        files.append(parcel[end : end + size])
        end += size
    return header, files

"""Mutations that know nothing of a format: of bytes, and of JSON-like values. All chance comes from the caller."""

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

TEXTS = (
    "", " ", "\0", "A" * 65, "A" * 5000, "é", "\ud800", "\N{RIGHT-TO-LEFT OVERRIDE}x", "𠮷", "../../etc/passwd", "%s%n",
    "' OR 1=1 --", "<script>alert(1)</script>", "\r\n", "1e400", "NaN", "-0", "9" * 400, "0x10", "2026-02-30",
    "9999-12-31", "0000-00-00", "00000101", "^~\\&", "OS", "SCORED", "1.2.840.10008.1.1",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 255, 65_535, 2**31, 2**32 - 1, -(2**31), 2**63, 2**63 - 1, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308,
    -1e308, 5e-324, float("inf"), float("nan"),
)  # fmt: skip
WORDS = (
    b"",
    b"\0",
    b"\xff" * 4,
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"A" * 300,
    b"\x1b$B",
    b"\r\n",
    b"\x0b",
    b"\x1c\r",
)


def mutated(data: bytes, random: Random, most: int = 4) -> bytes:
    """The bytes with one to `most` changes: bits, numbers, pieces cut, doubled, moved, put in."""
    changed = bytearray(data)
    for _ in range(random.randint(1, most)):
        random.choice(_BYTE_CHANGES)(changed, random)
    return bytes(changed)


def _flip(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))


def _put(data: bytearray, random: Random) -> None:
    at = random.randint(0, len(data))
    data[at:at] = random.choice(WORDS) or random.randbytes(random.randint(1, 16))


def _over(data: bytearray, random: Random) -> None:
    at = random.randint(0, len(data))
    word = random.choice(WORDS)
    data[at : at + len(word)] = word


def _cut(data: bytearray, random: Random) -> None:
    begin = random.randint(0, len(data))
    del data[begin : begin + random.choice((1, 2, 4, 16, 256))]


def _end(data: bytearray, random: Random) -> None:
    del data[random.randint(0, len(data)) :]


def _double(data: bytearray, random: Random) -> None:
    begin = random.randint(0, len(data))
    piece = data[begin : begin + random.randint(1, 512)]
    at = random.randint(0, len(data))
    data[at:at] = piece * random.choice((1, 1, 2, 30))


_BYTE_CHANGES: tuple[Callable[[bytearray, Random], None], ...] = (_flip, _set, _put, _over, _cut, _end, _double)


def value_mutated(value: Any, random: Random, most: int = 3) -> Any:
    """A JSON-like value with one to `most` places changed: type, bound, absent, doubled, nested, unknown key."""
    changed = copy.deepcopy(value)
    for _ in range(random.randint(1, most)):
        changed = _changed_somewhere(changed, random)
    return changed


def _changed_somewhere(value: Any, random: Random) -> Any:
    places = list(_places(value))
    if not places or random.random() < 0.02:
        return _other(value, random)
    holder, key = random.choice(places)
    random.choice(_VALUE_CHANGES)(holder, key, random)
    return value


def _places(value: Any) -> Any:
    """Every (container, key) in it, without recursion."""
    left = [value]
    while left:
        one = left.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            yield one, key
            left.append(one[key])


def _replace(holder: Any, key: Any, random: Random) -> None:
    holder[key] = _other(holder[key], random)


def _remove(holder: Any, key: Any, random: Random) -> None:
    del holder[key]


def _repeat(holder: Any, key: Any, random: Random) -> None:
    if isinstance(holder, list):
        holder[key:key] = [holder[key]] * random.choice((1, 2, 50))
    else:
        holder[random.choice((f"{key}x", random.choice(TEXTS)))] = holder[key]


def _swap(holder: Any, key: Any, random: Random) -> None:
    other = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[key], holder[other] = holder[other], holder[key]


def _wrap(holder: Any, key: Any, random: Random) -> None:
    for _ in range(random.choice((1, 1, 3, 60))):
        holder[key] = random.choice(([holder[key]], {"value": holder[key]}))


_VALUE_CHANGES: tuple[Callable[[Any, Any, Random], None], ...] = (_replace, _replace, _remove, _repeat, _swap, _wrap)


def _other(value: Any, random: Random) -> Any:
    if isinstance(value, str) and value and random.random() < 0.5:
        at = random.randrange(len(value))
        return value[:at] + random.choice(TEXTS) + value[at + random.randint(0, 2) :]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and random.random() < 0.5:
        return random.choice((*NUMBERS, -value, value + 1, value * 1000))
    return random.choice((None, True, False, [], {}, *NUMBERS, *TEXTS))


def json_bytes(value: Any, random: Random) -> bytes:
    """A value as JSON, now and then of a kind that is none: NaN, lone surrogates, twice the same key, deep, cut."""
    text = json.dumps(value, ensure_ascii=random.random() < 0.5)
    data = text.encode("utf-8", "surrogatepass")
    chance = random.random()
    if chance < 0.05:
        return b"[" * random.choice((900, 5000, 200_000)) + data
    if chance < 0.10:
        return data.replace(b"{", b'{"key": 1, "key": ', 1)
    return mutated(data, random) if chance < 0.25 else data

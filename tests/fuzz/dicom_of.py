"""Mutations that know DICOM: a data set as a tree of elements, written by an encoder that may lie (PS3.5 section 7)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from io import BytesIO
from random import Random

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from tests.fuzz.bytes_of import mutated

UNDEFINED = 0xFFFFFFFF
MOST_LEVELS = 200  # that a change is chosen from
LONG = frozenset(str(vr) for vr in EXPLICIT_VR_LENGTH_32)
VRS = (*(str(vr) for vr in VR if len(str(vr)) == 2), "ZZ", "A1", "\0\0")
VALUES = (
    b"", b" ", b"\0", b"\0\0", b"\xff\xff", b"1" * 65, b"1." * 40, b"NaN", b"inf", b"1e400", b"-0", b"0", b"-1",
    b"65536", b"9" * 20, b"1\\2\\3", b"\\" * 200, b"../../../etc/passwd", b"..\\..\\x", b"a\r\nb", b"%s%n",
    b"'; DROP TABLE instance --", b"<script>", b"\x1b$B", b"\x1b(J" * 20, b"\x80\x81\xfe", "Müller^Jörg".encode(),
    "Müller".encode("latin-1"), "山田^太郎".encode("iso2022_jp"), b"ISO_IR 192", b"ISO 2022 IR 87", b"GB18030",
    b"\\ISO 2022 IR 149", b"LOCALIZER", b"ORIGINAL\\PRIMARY\\AXIAL", b"1\\0\\0\\0\\1\\0", b"0\\0\\0\\0\\0\\0",
    b"1\\0\\0\\1\\0\\0", b"0\\0", b"1e-300\\1e-300", b"1e300\\1e300", b"CLOSED_PLANAR", b"POINT", b"A" * 70_000,
    b"1.2.840.10008.5.1.4.1.1.2", b"1.2.840.10008.5.1.4.1.1.481.3", b"1.2.840.10008.5.1.4.1.1.66.4", b"FRACTIONAL",
)  # fmt: skip


@dataclass
class Element:
    """`value` is bytes, or the items of a sequence. `length`: what the head says where that is not the truth."""

    tag: int
    vr: str
    value: "bytes | list[list[Element]]"
    length: int | None = None
    undefined: bool = False  # sequence and items end with delimiters


Tree = list[Element]


def tree_of(dataset: Dataset) -> Tree:
    """The data set in Explicit VR Little Endian, element by element; group 0002 is no part of it."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, dataset)
    return _read(read_dataset(BytesIO(stream.getvalue()), False, True))


def _read(dataset: Dataset) -> Tree:
    found: Tree = []
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        if element.VR == "SQ":
            found.append(Element(int(tag), "SQ", [_read(item) for item in dataset[tag].value]))
        else:
            found.append(Element(int(tag), str(element.VR), bytes(element.value or b"")))
    return found


def encoded(tree: Tree, *, implicit: bool = False) -> bytes:
    return b"".join(_encoded(element, implicit=implicit) for element in tree)


def _encoded(element: Element, *, implicit: bool) -> bytes:
    tag = Tag(element.tag)
    head = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")
    body = element.value if isinstance(element.value, bytes) else _items(element, implicit=implicit)
    length = UNDEFINED if element.undefined else len(body)
    length = (length if element.length is None else element.length) & UNDEFINED
    if implicit:
        return head + length.to_bytes(4, "little") + body
    vr = element.vr.encode("latin-1")
    if element.vr in LONG:
        return head + vr + b"\0\0" + length.to_bytes(4, "little") + body
    return head + vr + (length & 0xFFFF).to_bytes(2, "little") + body


def _items(element: Element, *, implicit: bool) -> bytes:
    assert not isinstance(element.value, bytes)
    parts = []
    for item in element.value:
        body = encoded(item, implicit=implicit)
        length = UNDEFINED if element.undefined else len(body)
        parts.append(b"\xfe\xff\x00\xe0" + length.to_bytes(4, "little") + body)
        if element.undefined:
            parts.append(b"\xfe\xff\x0d\xe0\0\0\0\0")
    return b"".join(parts) + (b"\xfe\xff\xdd\xe0\0\0\0\0" if element.undefined else b"")


def copied(tree: Tree) -> Tree:
    """The tree anew; values are shared, for bytes never change."""
    return [
        replace(one, value=one.value if isinstance(one.value, bytes) else [copied(item) for item in one.value])
        for one in tree
    ]


def tree_mutated(tree: Tree, random: Random, most: int = 3) -> Tree:
    """The tree with one to `most` changes at any depth."""
    changed = copied(tree)
    for _ in range(random.randint(1, most)):
        level = random.choice(_levels(changed))
        if level:
            random.choice(_CHANGES)(level, random.randrange(len(level)), random)
    return changed


def _levels(tree: Tree) -> list[Tree]:
    """Some data sets in it; the top one as often as all others together, for most facts are there."""
    found, at = [tree], 0
    while at < len(found) < MOST_LEVELS:
        inner = [item for element in found[at] if not isinstance(element.value, bytes) for item in element.value]
        found += inner[: MOST_LEVELS - len(found)]
        at += 1
    return [tree] * len(found) + found


def _value(level: Tree, at: int, random: Random) -> None:
    level[at].value = random.choice(VALUES)


def _bytes(level: Tree, at: int, random: Random) -> None:
    element = level[at]
    if isinstance(element.value, bytes):
        element.value = mutated(element.value[:100_000], random)
    elif element.value:
        element.value = element.value * random.choice((2, 2, 100)) if random.random() < 0.5 else element.value[1:]


def _vr(level: Tree, at: int, random: Random) -> None:
    level[at].vr = random.choice(VRS)


def _length(level: Tree, at: int, random: Random) -> None:
    level[at].length = random.choice(
        (0, 1, 2, 7, 65_535, 0x7FFFFFFF, UNDEFINED - 1, UNDEFINED, random.randrange(2**16))
    )


def _delimited(level: Tree, at: int, random: Random) -> None:
    level[at].undefined = True


def _absent(level: Tree, at: int, random: Random) -> None:
    del level[at]


def _again(level: Tree, at: int, random: Random) -> None:
    level[at:at] = copied([level[at]]) * random.choice((1, 1, 1, 40))


def _moved(level: Tree, at: int, random: Random) -> None:
    level.insert(random.randrange(len(level)), level.pop(at))


def _tag(level: Tree, at: int, random: Random) -> None:
    other = (0x00080005, 0x0008103E, 0x00280010, 0x7FE00010, 0x00020010, 0x00090010, 0xFFFEE00D, 0xFFFEE000, 0x30060050)
    level[at].tag = random.choice((*other, level[at].tag ^ 1 << random.randrange(32)))


def _nested(level: Tree, at: int, random: Random) -> None:
    """Sequences inside each other, as bytes: deeper than any recursion here or there may go."""
    tag, undefined = level[at].tag, random.random() < 0.5
    data = b""
    for _ in range(random.choice((1, 2, 10, 40, 1500))):
        data = encoded([Element(tag, "SQ", data, UNDEFINED if undefined else None)])
        length = UNDEFINED if undefined else len(data)
        data = b"\xfe\xff\x00\xe0" + length.to_bytes(4, "little") + data
    level[at] = Element(tag, "SQ", data, UNDEFINED if undefined else None)


def _added(level: Tree, at: int, random: Random) -> None:
    count = random.choice((1, 1, 500))
    level[at:at] = [Element(0x00090000 + n, random.choice(VRS), random.choice(VALUES[:20])) for n in range(count)]


_CHANGES: tuple[Callable[[Tree, int, Random], None], ...] = (
    _value, _value, _value, _bytes, _bytes, _vr, _length, _delimited, _absent, _absent, _again, _moved, _tag, _nested,
    _added,
)  # fmt: skip


@dataclass
class Seeds:
    """Data sets to start from, as trees."""

    trees: dict[str, Tree] = field(default_factory=dict)

    def add(self, name: str, dataset: Dataset) -> None:
        self.trees[name] = tree_of(dataset)


def part10(tree: Tree, meta: bytes, *, implicit: bool = False) -> bytes:
    """A file with the meta header given."""
    return b"\0" * 128 + b"DICM" + meta + encoded(tree, implicit=implicit)


def meta_header(sop_class_uid: str, sop_instance_uid: str, syntax: str) -> bytes:
    """Group 0002 (PS3.10 section 7.1)."""

    def padded(text: str) -> bytes:
        return text.encode() + b"\0" * (len(text) % 2)

    elements = [
        Element(0x00020001, "OB", b"\0\1"), Element(0x00020002, "UI", padded(sop_class_uid)),
        Element(0x00020003, "UI", padded(sop_instance_uid)), Element(0x00020010, "UI", padded(syntax)),
    ]  # fmt: skip
    body = encoded(elements)
    return encoded([Element(0x00020000, "UL", len(body).to_bytes(4, "little"))]) + body

"""Single attributes of data sets that came over the network, read from their raw bytes.

pydicom's own conversion warns with the offending value in its text, which may be PHI; here every oddity is None or ''
or an exception that names the attribute alone. Leaf of the node: pydicom only.
"""

import functools
import math
import re
from collections.abc import Sequence as Items
from typing import Any, cast

import pydicom.charset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import Tag

# Leading zeros in a component break PS3.5 section 9.1, but scanners wrote them; a UID is only ever compared here.
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_DELIMITERS = {ord(c) for c in "\\\r\n\t\f"}  # ISO 2022 goes back to its first character set here (PS3.5 6.1.2.5.3)
Encodings = tuple[str, ...]


class Plain(dict[int, bytes]):
    """Values by tag, as they came: all there is of a data set without sequences. A tenth of what a Dataset costs."""


Header = Dataset | Plain


class UnreadableHeader(Exception):
    """An instance cannot be used; the text names the attribute, never its value."""


def is_uid(text: str) -> bool:
    """Digits and dots, at most 64 characters (PS3.5 section 9.1).

    >>> is_uid("1.2.840.10008.1.1"), is_uid("../../etc/passwd"), is_uid("1." * 40)
    (True, False, False)
    """
    return len(text) <= 64 and text.isascii() and _UID.fullmatch(text) is not None


def escaped(text: str) -> str:
    """A string from the network, fit for a log line and for a TOML string.

    >>> print(escaped('A"B' + chr(10)))
    A\\"B\\u000a
    """
    return "".join(_escaped_character(c) for c in text)[:128]


def _escaped_character(c: str) -> str:
    if c in '"\\':
        return f"\\{c}"
    return c if c.isascii() and c.isprintable() else f"\\u{ord(c):04x}"


tag_of = functools.cache(Tag)  # of a keyword; pydicom takes 2 us to look it up
_number_of = functools.cache(lambda keyword: int(Tag(keyword)))  # a Tag as a key is compared in Python


def raw(dataset: Header, keyword: str) -> bytes | None:
    """The value's bytes as they came; None where the attribute is absent."""
    if isinstance(dataset, Plain):
        return dataset.get(_number_of(keyword))
    element: RawDataElement | DataElement | None = dataset.get_item(tag_of(keyword))
    if element is None:
        return None
    if isinstance(element, RawDataElement):
        return element.value or b""
    value: Any = element.value
    if value is None:
        return b""
    values = value if isinstance(value, (list, MultiValue)) else [value]
    return "\\".join(str(v) for v in values).encode("utf-8", "replace")  # a data set made in memory


def ascii_text(dataset: Header, keyword: str, limit: int = 64) -> str:
    """A code string, AE title, UID or number as text without padding; '' where absent.

    >>> made = Dataset(); made.Modality = "CT"
    >>> ascii_text(made, "Modality"), ascii_text(made, "SOPClassUID")
    ('CT', '')
    """
    value = raw(dataset, keyword) or b""
    return _printable(value[: 4 * limit].decode("latin-1").strip(" \0"))[:limit]


def texts(dataset: Header, keyword: str, most: int = 16, limit: int = 64) -> tuple[str, ...]:
    """The values of a multi-valued code string, at most `most` of them."""
    value = (raw(dataset, keyword) or b"")[: most * (limit + 1)].decode("latin-1")
    return tuple(_printable(part.strip(" \0"))[:limit] for part in value.split("\\")[:most]) if value else ()


def name_text(dataset: Header, keyword: str, encodings: Encodings, limit: int = 64) -> str:
    """Free text in the data set's character set; bytes that do not fit it become U+FFFD.

    What pydicom has decoded already (pynetdicom looks at every answer) is text, whatever the character set says.
    """
    if not isinstance(dataset, Plain) and isinstance(element := dataset.get_item(tag_of(keyword)), DataElement):
        values = element.value if isinstance(element.value, (list, MultiValue)) else [element.value]
        return _printable("\\".join(str(one) for one in values if one is not None).strip(" \0"))[:limit]
    value = (raw(dataset, keyword) or b"")[: 8 * limit]
    text = None
    if b"\x1b" in value:
        try:
            text = pydicom.charset.decode_bytes(value, list(encodings), _DELIMITERS)
        except (Warning, LookupError, UnicodeError):
            text = None
    if text is None:
        text = value.decode(encodings[0], "replace")
    return _printable(text.strip(" \0"))[:limit]


def encodings_of(dataset: Header) -> Encodings:
    """Python codecs of Specific Character Set (0008,0005); unknown terms are left out, Latin-1 stands in for none."""
    terms = (raw(dataset, "SpecificCharacterSet") or b"").decode("latin-1").split("\\")
    known = (pydicom.charset.python_encoding.get(term.strip(" \0")) for term in terms[:16])
    return tuple(encoding for encoding in known if encoding) or ("latin-1",)


def uid(dataset: Header, keyword: str, *, required: bool = False) -> str:
    """A UID; '' where absent or empty. Raises UnreadableHeader on anything that is not one."""
    value = raw(dataset, keyword) or b""
    text = value[:80].decode("latin-1").strip(" \0")
    if not text:
        if required:
            raise UnreadableHeader(f"{keyword} is absent or empty")
        return ""
    if not is_uid(text):
        raise UnreadableHeader(f"{keyword} is not a UID ({len(value)} bytes; digits and dots, at most 64, are allowed)")
    return text


def numbers(dataset: Header, keyword: str, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers of a decimal string (DS); None where absent, of another count, or not finite.

    >>> made = Dataset(); made.ImagePositionPatient = [1, 2.5, -3]
    >>> numbers(made, "ImagePositionPatient", 3), numbers(made, "ImagePositionPatient", 2)
    ((1.0, 2.5, -3.0), None)
    """
    parts = (raw(dataset, keyword) or b"").split(b"\\")
    if len(parts) != count:
        return None
    try:
        values = tuple(float(part.strip(b" \0")) for part in parts if b"_" not in part)
    except ValueError:
        return None
    return values if len(values) == count and all(math.isfinite(v) for v in values) else None


def whole_number(dataset: Header, keyword: str) -> int | None:
    """An integer string (IS); None where absent or not one of at most 12 characters."""
    value = (raw(dataset, keyword) or b"").strip(b" \0")
    return int(value) if len(value) <= 12 and re.fullmatch(rb"[+-]?[0-9]+", value) else None


def unsigned_short(dataset: Header, keyword: str) -> int | None:
    """An unsigned short (US, little endian); None where absent or of another length."""
    tag = tag_of(keyword)
    if isinstance(dataset, Plain):
        value = raw(dataset, keyword)
    elif tag not in dataset:
        return None
    else:
        value = dataset.get_item(tag).value
    if isinstance(value, bytes):
        return int.from_bytes(value, "little") if len(value) == 2 else None
    return value if isinstance(value, int) else None


def items(dataset: Header, keyword: str) -> Items[Dataset]:
    """The items of a sequence; () where absent. Raises UnreadableHeader when it is something else."""
    tag = tag_of(keyword)
    if isinstance(dataset, Plain) or tag not in dataset:
        return ()
    element: RawDataElement | DataElement = dataset.get_item(tag)
    if isinstance(element, RawDataElement):
        if element.VR not in (None, "SQ", "UN"):
            raise UnreadableHeader(f"{keyword} is not a sequence")
        if element.value is None or element.length == 0:
            return ()
        try:
            element = dataset[tag]
        except Exception as error:  # noqa: BLE001 - parsed only now, by pydicom, which raises whatever fits
            raise UnreadableHeader(f"{keyword} cannot be parsed ({type(error).__name__})") from None
    if not isinstance(element.value, Sequence):
        raise UnreadableHeader(f"{keyword} is not a sequence")
    return cast(Items[Dataset], element.value)


def first_item(dataset: Header, keyword: str) -> Dataset:
    """The first item of a sequence, or an empty data set."""
    found = items(dataset, keyword)
    return found[0] if found else Dataset()


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "�" for c in text)

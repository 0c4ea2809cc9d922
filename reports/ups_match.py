"""Attribute matching of C-FIND (PS3.4 C.2.2.2) on data sets in memory, and the answer that return keys ask for. Pure.

Universal, single value, list of UID, wild card, range and sequence matching. Person names match without regard to case,
as a whole or in one of their component groups.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Any, Final

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

NOT_KEYS: Final = frozenset({"SpecificCharacterSet", "TimezoneOffsetFromUTC", ""})
LONGEST: Final = 1024  # characters of a key, except lists of UIDs
DEEPEST: Final = 6  # levels of sequences in an identifier
_WILD = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_DATE_TIME = re.compile(r"(\d{4})(\d{2})?(\d{2})?(\d{2})?(\d{2})?(\d{2})?(?:\.(\d{1,6}))?([+-]\d{4})?")


class IdentifierError(ValueError):
    """An identifier cannot be used; the text names the attribute, never its value."""


def check(identifier: Dataset, depth: int = 0) -> None:
    """Read every key once. Raises IdentifierError for one that cannot be read, is too long or lies too deep."""
    if depth > DEEPEST:
        raise IdentifierError("sequences are nested too deeply")
    for tag in list(identifier.keys()):
        name = keyword_for_tag(tag) or str(tag)
        try:
            element = identifier[tag]
            length = len(_text(element)) if element.VR not in ("SQ", "UI") else 0
            if element.VR == "DT" and _text(element).strip("*"):
                moments(_text(element), UTC)
        except Exception as error:
            raise IdentifierError(f"{name} cannot be read") from error
        if length > LONGEST:
            raise IdentifierError(f"{name} is longer than {LONGEST} characters")
        if element.VR == "SQ":
            if len(element.value) > 1:
                raise IdentifierError(f"{name} has more than one item")
            for item in element.value:
                check(item, depth + 1)


def matches(entity: Dataset, identifier: Dataset, zone: tzinfo = UTC) -> bool:
    """Whether a data set has what every key of the identifier asks for. A key that it does not have matches nothing.

    Keys that this entity does not know at all (`supported`) are the caller's to leave out. `zone` is that of times
    without an offset. Raises IdentifierError for a range that is no range.
    """
    zone = zone_of(identifier, zone)
    return all(_matches(entity, key, zone) for key in identifier if key.keyword not in NOT_KEYS)


def answer(entity: Dataset, identifier: Dataset) -> Dataset:
    """The identifier of a response: the attributes that the request names, with this entity's values."""
    made = Dataset()
    for key in identifier:
        if key.keyword in NOT_KEYS:
            continue
        if key.tag not in entity:
            made.add(DataElement(key.tag, key.VR, [] if key.VR == "SQ" else None))
            continue
        element = entity[key.tag]
        wanted = key.value[0] if key.VR == "SQ" and key.value else None
        if wanted:
            made.add(DataElement(key.tag, "SQ", [answer(item, wanted) for item in element.value]))
        else:
            made.add(element)
    return made


def unsupported(identifier: Dataset, supported: Iterable[str]) -> list[str]:
    """Keywords of keys that no entity can have."""
    known = set(supported)
    return [key.keyword or str(key.tag) for key in identifier if key.keyword not in known | NOT_KEYS]


def uids(identifier: Dataset, keyword: str) -> tuple[str, ...] | None:
    """The UIDs of a key; None where it is universal.

    >>> asked = Dataset(); asked.SOPInstanceUID = ["1.2", "1.3"]
    >>> uids(asked, "SOPInstanceUID"), uids(asked, "StudyInstanceUID")
    (('1.2', '1.3'), None)
    """
    return tuple(_values(identifier[keyword])) or None if keyword in identifier else None


def text(identifier: Dataset, keyword: str) -> str:
    """The value of a key as text; '' where it is universal."""
    return _text(identifier[keyword]) if keyword in identifier else ""


def moments(value: str, zone: tzinfo) -> tuple[float, float]:
    """First and last second (since 1970) of a DT key: a single value covers what it leaves open, `-` makes a range.

    Raises IdentifierError.

    >>> moments("20260302", UTC) == (datetime(2026, 3, 2, tzinfo=UTC).timestamp(),
    ...                              datetime(2026, 3, 3, tzinfo=UTC).timestamp() - 1e-6)
    True
    """
    begin, dash, end = _halves(value)
    first = _span(begin, zone)[0] if begin else float("-inf")
    last = _span(end if dash else begin, zone)[1] if (end or not dash) else float("inf")
    return first, last


def person_name(wanted: str) -> Callable[[str], bool]:
    """What says whether a name matches a key, as a whole or in one of its component groups.

    >>> is_wanted = person_name("*tarou*")
    >>> is_wanted("Yamada^Tarou=山田^太郎"), is_wanted("")
    (True, False)
    """
    matches = _pattern(wanted.casefold())

    def is_wanted(name: str) -> bool:
        name = name.casefold()
        parts = (name, *name.split("=")) if "=" in name else (name,)
        return any(part and matches(part.rstrip("^= ")) for part in parts)

    return is_wanted


def _matches(entity: Dataset, key: DataElement, zone: tzinfo) -> bool:
    if key.VR == "SQ":
        if not key.value or not len(key.value[0]):
            return True
        items = entity[key.tag].value if key.tag in entity else []
        # An entity without the sequence still matches an item of universal keys alone (C.2.2.2.6).
        return any(matches(item, key.value[0], zone) for item in items) or (
            not items and matches(Dataset(), key.value[0], zone)
        )
    wanted = _text(key)
    if not wanted or set(wanted) == {"*"}:
        return True
    if key.tag not in entity:
        return False
    values = _values(entity[key.tag])
    if key.VR == "UI":
        return bool(set(_values(key)) & set(values))
    return any(_one(wanted, value, key.VR, zone) for value in values)


def _one(wanted: str, value: str, vr: str, zone: tzinfo) -> bool:
    if vr == "DT":
        first, last = moments(wanted, zone)
        return first <= moments(value, zone)[0] <= last
    if vr in ("DA", "TM"):
        return _in_range(wanted, value)
    if vr == "PN":
        return person_name(wanted)(value)
    return _pattern(wanted)(value.rstrip("^= ")) is not None if vr in _WILD else wanted == value


@lru_cache(maxsize=100)
def _pattern(wanted: str) -> Callable[[str], object]:
    """`*` and `?`; brackets are plain characters in DICOM. PN: trailing delimiters do not count (PS3.5 6.2.1)."""
    return re.compile(fnmatch.translate(wanted.rstrip("^= ").replace("[", "[[]"))).match


def _in_range(wanted: str, value: str) -> bool:
    begin, dash, end = wanted.partition("-")
    if not dash:
        return begin == value
    return bool(value) and begin.strip() <= value and (not end or value <= end.strip())


def _halves(value: str) -> tuple[str, str, str]:
    """A DT range in its halves. A dash before four digits up to 1200 is that of an offset (PS3.5 6.2, DT).

    >>> _halves("20260302-1130"), _halves("2026-2027"), _halves("-20260302")
    (('20260302-1130', '', ''), ('2026', '-', '2027'), ('', '-', '20260302'))
    """
    for dash in re.finditer("-", value):
        begin, end = value[: dash.start()].strip(), value[dash.end() :].strip()
        is_offset = begin and re.match(r"(0\d|1[0-2])\d\d(?!\d)", end)
        if not is_offset and all(not half or _DATE_TIME.fullmatch(half) for half in (begin, end)):
            return begin, "-", end
    return value.strip(), "", ""


def _span(value: str, zone: tzinfo) -> tuple[float, float]:
    found = _DATE_TIME.fullmatch(value)
    if found is None:
        raise IdentifierError("a date and time cannot be read")
    *parts, fraction, offset = found.groups()
    given = sum(part is not None for part in parts)
    year, month, day, hour, minute, second = (
        int(part) if part else least for part, least in zip(parts, (1, 1, 1, 0, 0, 0), strict=True)
    )
    try:
        begin = datetime(year, month, day, hour, minute, second, tzinfo=_offset(offset) if offset else zone)
        if fraction:
            moment = begin.timestamp() + int(fraction.ljust(6, "0")) / 1e6
            return moment, moment
        return begin.timestamp(), _next(begin, given).timestamp() - 1e-6
    except (ValueError, OverflowError) as error:
        raise IdentifierError("a date and time cannot be read") from error


def _next(begin: datetime, parts: int) -> datetime:
    """The moment after all that a value of so many parts covers."""
    if parts == 1:
        return begin.replace(year=begin.year + 1)
    if parts == 2:
        return (begin + timedelta(days=32)).replace(day=1)
    return begin + {3: timedelta(days=1), 4: timedelta(hours=1), 5: timedelta(minutes=1)}.get(
        parts, timedelta(seconds=1)
    )


def zone_of(identifier: Dataset, zone: tzinfo) -> tzinfo:
    """That of the identifier's times without an offset: Timezone Offset From UTC where it has one, else `zone`."""
    value = str(identifier.get("TimezoneOffsetFromUTC") or "").strip()
    return _offset(value) if re.fullmatch(r"[+-]\d{4}", value) else zone


def _offset(value: str) -> tzinfo:
    minutes = int(value[1:3]) * 60 + int(value[3:5])
    if minutes > 14 * 60:
        raise IdentifierError("an offset from UTC cannot be read")
    return timezone((-1 if value[0] == "-" else 1) * timedelta(minutes=minutes))


def _values(element: DataElement) -> list[str]:
    value: Any = element.value
    if value is None:
        return []
    several = value if isinstance(value, MultiValue | list | tuple) else [value]
    return [plain for one in several if (plain := str(one).strip(" \0"))]


def _text(element: DataElement) -> str:
    return "\\".join(_values(element))

"""Parameters of a FHIR search (R4 3.1.1) on results. What is not known is refused: ignored, it would find others."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from dicom_node.result_index import ResultQuery
from dicom_node.web.errors import Problem

KINDS: Final = ("DiagnosticReport", "RiskAssessment", "Observation")
DEFAULT_COUNT, MOST = 20, 100  # resources on a page
MOST_VALUES = 50
_ID = re.compile(r"([1-9]\d{0,17})-([0-9A-Za-z-]{1,16}?)(?:-(OS|PFS|outcome))?")
_WHOSE: Final = "patient.identifier"
_PATIENT = frozenset(
    f"{name}{chain}"
    for name in ("patient", "subject")
    for chain in (".identifier", ":identifier", ":Patient.identifier")
)
_IGNORED = frozenset({"_format", "_pretty"})
_UID = re.compile(r"[0-9.]{1,64}")
_DATE = re.compile(
    r"(?P<prefix>[a-z]{2})?(?P<year>\d{4})(?:-(?P<month>\d\d)(?:-(?P<day>\d\d)(?:T(?P<hour>\d\d):(?P<minute>\d\d)"
    r"(?::(?P<second>\d\d)(?P<fraction>\.\d{1,6})?)?(?P<zone>Z|[+-]\d\d:\d\d)?)?)?)?"
)


@dataclass(frozen=True)
class Position:
    """Where a page begins: work item, and which of its resources."""

    work_item_id: int
    index: int = 0


@dataclass(frozen=True)
class Search:
    """A search on one type. `ids`: logical ids asked for, None for any. `asked`: the parameters, for the links."""

    query: ResultQuery
    ids: frozenset[str] | None
    count: int
    begin: Position | None
    asked: tuple[tuple[str, str], ...]


def logical_id(work_item_id: int, key: str, name: str = "") -> str:
    """Logical id of a resource; `name` of an observation. A restored store may give a number anew, but not the key.

    >>> logical_id(17, "0a1b2c3d4e5f60718293", "OS")
    '17-0a1b2c3d4e5f6071-OS'
    """
    return f"{work_item_id}-{key[:16]}" + (f"-{name}" if name else "")


def work_item_of(fhir_id: str) -> int | None:
    """Work item of a logical id; None for what is none.

    >>> work_item_of("17-0a1b2c3d4e5f6071-OS"), work_item_of("../1")
    (17, None)
    """
    found = _ID.fullmatch(fhir_id)
    return int(found[1]) if found else None


def search_of(kind: str, pairs: Iterable[tuple[str, str]], zone: tzinfo | None) -> Search:
    """What parameters ask for. `zone`: of times that name none; None: the host's. Raises Problem 400."""
    asked = tuple(pair for pair in pairs if pair[0] not in _IGNORED)
    given: dict[str, str] = {}
    ranges = []
    for name, value in asked:
        known = _WHOSE if name in _PATIENT else name
        if known not in (_WHOSE, "study", "_id", "_lastUpdated", "_count", "page"):
            raise Problem(400, "a search parameter is not known here", "see /fhir/metadata for those that are")
        if known == "_lastUpdated":
            ranges.append(_range(value, zone))
        elif known in given:
            raise Problem(400, f"{known} is given twice", "give it once; values with a comma between are alternatives")
        else:
            given[known] = value
    ids = frozenset(_values("_id", given["_id"])) if "_id" in given else None
    query = ResultQuery(
        None if ids is None else [number for one in sorted(ids) if (number := work_item_of(one)) is not None],
        [_patient(value) for value in _values(_WHOSE, given[_WHOSE])] if _WHOSE in given else None,
        [_study(value) for value in _values("study", given["study"])] if "study" in given else None,
        max((since for since, _ in ranges if since is not None), default=None),
        min((until for _, until in ranges if until is not None), default=None),
        kind == "RiskAssessment",
    )
    kept = tuple(pair for pair in asked if pair[0] != "page")
    return Search(query, ids, _count(given.get("_count")), _position(given.get("page")), kept)


def _values(name: str, text: str) -> list[str]:
    r"""Alternatives of a value: a comma divides, `\,` does not."""
    values = re.findall(r"(?:[^,\\]|\\.)+", text)
    if not values or len(values) > MOST_VALUES or any(len(value) > 256 for value in values):
        raise Problem(400, f"{name} has no value, or too many", f"give 1 to {MOST_VALUES}, with commas between")
    return values


def _token(value: str) -> tuple[str | None, str]:
    r"""System and code of a token (R4 3.1.1.4.10); the system is None where any will do, '' where there is none."""
    plain = [""]
    for piece in re.findall(r"\\.|\||[^|\\]+", value):
        if piece == "|":
            plain.append("")
        else:
            plain[-1] += piece.removeprefix("\\")
    if len(plain) == 1:
        return None, plain[0]
    if len(plain) != 2 or not plain[1]:
        raise Problem(400, "a token is VALUE or SYSTEM|VALUE", "give the value; | in a value is written \\|")
    return plain[0], plain[1]


def _patient(value: str) -> tuple[str, str | None]:
    """Patient ID and issuer: the system of an identifier, where it is an OID; other issuers are no system."""
    system, code = _token(value)
    if system is None:
        return code, None
    if system and not system.startswith("urn:oid:"):
        raise Problem(
            400, "patients have no identifiers of this system here", "give VALUE alone, or urn:oid:ISSUER|VALUE"
        )
    return code, system.removeprefix("urn:oid:")


def _study(value: str) -> str:
    _, code = _token(value)
    uid = code.removeprefix("urn:oid:")
    if not _UID.fullmatch(uid):
        raise Problem(400, "study is a Study Instance UID", "give 1.2.840..., urn:oid:1.2.840... or urn:dicom:uid|...")
    return uid


def _count(text: str | None) -> int:
    if text is None:
        return DEFAULT_COUNT
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise Problem(400, "_count is a whole number from 1", f"a page has {MOST} resources at most")
    return min(int(text), MOST)


def _position(text: str | None) -> Position | None:
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,17})\.(\d)", text)
    if not found:
        raise Problem(400, "page is none of ours", "follow the links of the page before")
    return Position(int(found[1]), int(found[2]))


def _range(value: str, zone: tzinfo | None) -> tuple[float | None, float | None]:
    """From (with it) and to (without it), in seconds since 1970, of a date with its prefix (R4 3.1.1.4.6)."""
    found = _DATE.fullmatch(value)
    try:
        begin, end = _span(found.groupdict(), zone) if found else (0.0, 0.0)
    except (ValueError, OverflowError):
        found = None
    if found is None:
        raise Problem(400, "_lastUpdated is no date", "give a date or time such as ge2026-03-01T09:00:00Z")
    ranges: dict[str, tuple[float | None, float | None]] = {
        "eq": (begin, end), "gt": (end, None), "sa": (end, None), "ge": (begin, None),
        "lt": (None, begin), "eb": (None, begin), "le": (None, end),
    }  # fmt: skip
    prefix = found["prefix"] or "eq"
    if prefix not in ranges:
        raise Problem(400, "_lastUpdated has an unknown prefix", f"it may be {', '.join(ranges)}")
    return ranges[prefix]


def _span(parts: dict[str, str | None], zone: tzinfo | None) -> tuple[float, float]:
    """Begin and end of what a date of that precision covers. Raises ValueError."""
    numbers = [int(parts[name] or 0) for name in ("year", "month", "day", "hour", "minute", "second")]
    year, month, day, hour, minute, second = numbers
    begin = datetime(year, month or 1, day or 1, hour, minute, second)  # noqa: DTZ001 - gets its zone below
    begin += timedelta(seconds=float(f"0{parts['fraction']}" if parts["fraction"] else 0))
    if not parts["month"]:
        end = begin.replace(year=year + 1)
    elif not parts["day"]:
        end = begin.replace(year=year + month // 12, month=month % 12 + 1)
    else:
        end = begin + _step(parts)
    stated = parts["zone"]
    if stated:
        zone = UTC if stated == "Z" else datetime.strptime(stated, "%z").tzinfo
    return _seconds(begin, zone), _seconds(end, zone)


def _step(parts: dict[str, str | None]) -> timedelta:
    if not parts["hour"]:
        return timedelta(days=1)
    if not parts["second"]:
        return timedelta(minutes=1)
    return timedelta(seconds=10.0 ** -(len(parts["fraction"]) - 1)) if parts["fraction"] else timedelta(seconds=1)


def _seconds(moment: datetime, zone: tzinfo | None) -> float:
    return (moment.replace(tzinfo=zone) if zone is not None else moment.astimezone()).timestamp()

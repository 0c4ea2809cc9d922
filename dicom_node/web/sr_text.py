"""A Structured Report as text: every label beside its value, nested as the content tree is (PS3.3 C.17.3)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import UID

from dicom_node.web.views import unit
from reports.words import capital

MAXIMUM_BYTES = 20_000_000
DEEPEST, MOST = 24, 20_000  # levels and content items; a real report has 8 levels and some hundred items


class ReportUnreadable(Exception):
    """The file is no report that can be shown; the text is a sentence, without PHI."""


@dataclass(frozen=True)
class Item:
    """One content item: what it is, what it says ('' for a container), and what belongs to it."""

    label: str
    value: str
    children: tuple["Item", ...] = ()


def read(path: Path) -> Item:
    """The content tree of an SR document; its title is the label of the root.

    Raises
    ------
    ReportUnreadable
    """
    if not path.is_file():
        raise ReportUnreadable("The report is not in the spool any more.")
    if path.stat().st_size > MAXIMUM_BYTES:
        raise ReportUnreadable("The report is too large to be shown here.")
    try:
        return item_of(dcmread(path))
    except ReportUnreadable:
        raise
    except Exception as error:  # noqa: BLE001 - pydicom raises whatever fits on a damaged file
        raise ReportUnreadable(f"The report cannot be read ({type(error).__name__}).") from None


def item_of(dataset: Dataset) -> Item:
    """One content item with what belongs to it."""
    return _item(dataset, [MOST], DEEPEST)


def _item(dataset: Dataset, left: list[int], levels: int) -> Item:
    """`left` counts down over the whole tree."""
    left[0] -= 1
    if left[0] < 0 or levels < 0:
        raise ReportUnreadable("The report is nested or long beyond any real one.")
    children = tuple(_item(child, left, levels - 1) for child in dataset.get("ContentSequence", []))
    kind = str(dataset.get("ValueType", ""))
    if "ReferencedContentItemIdentifier" in dataset:
        return Item("See item", ".".join(map(str, dataset.ReferencedContentItemIdentifier)), children)
    value = _VALUES[kind](dataset) if kind in _VALUES else f"({kind or 'no value type'})"
    return Item(_label(dataset, kind), value, children)


def _label(dataset: Dataset, kind: str) -> str:
    name = _meaning(dataset, "ConceptNameCodeSequence")
    return name or {"IMAGE": "Image", "COMPOSITE": "Object", "CONTAINER": "Section"}.get(kind, "Item")


def _meaning(dataset: Dataset, keyword: str) -> str:
    codes = dataset.get(keyword)
    return str(codes[0].get("CodeMeaning", "")) if codes else ""


def _number(dataset: Dataset) -> str:
    measured = dataset.get("MeasuredValueSequence")
    if not measured:
        return _meaning(dataset, "NumericValueQualifierCodeSequence") or "no value"
    number = str(measured[0].NumericValue)
    units = measured[0].get("MeasurementUnitsCodeSequence")
    return f"{number} {unit(str(units[0].get('CodeValue', '')))}".rstrip() if units else number


def _reference(dataset: Dataset) -> str:
    parts = []
    for item in dataset.get("ReferencedSOPSequence", []):
        text = f"{UID(item.ReferencedSOPClassUID).name} {item.ReferencedSOPInstanceUID}"
        for keyword, name in (("ReferencedFrameNumber", "frame"), ("ReferencedSegmentNumber", "segment")):
            if item.get(keyword) not in (None, ""):
                text += f", {name} {item[keyword].value}"
        parts.append(text)
    return "; ".join(parts)


def _moment(keyword: str) -> Callable[[Dataset], str]:
    """DICOM dates and times with separators; anything else as it is.

    >>> when = Dataset()
    >>> when.DateTime = "20260302091530"
    >>> _moment("DateTime")(when)
    '2026-03-02 09:15:30'
    """

    def value(dataset: Dataset) -> str:
        text = str(dataset.get(keyword, ""))
        day, time = ("", text) if keyword == "Time" else (text[:8], text[8:])
        day = f"{day[:4]}-{day[4:6]}-{day[6:]}" if len(day) == 8 and day.isdigit() else day
        clock = f"{time[:2]}:{time[2:4]}:{time[4:6]}{time[6:]}" if time[:6].isdigit() and len(time) >= 6 else time
        return " ".join(filter(None, (day, clock)))

    return value


def _text(keyword: str) -> Callable[[Dataset], str]:
    return lambda dataset: str(dataset.get(keyword, ""))


_VALUES: dict[str, Callable[[Dataset], str]] = {
    "CONTAINER": lambda dataset: "",
    "TEXT": _text("TextValue"),
    "CODE": lambda dataset: capital(_meaning(dataset, "ConceptCodeSequence")),
    "NUM": _number,
    "PNAME": _text("PersonName"),
    "DATE": _moment("Date"),
    "TIME": _moment("Time"),
    "DATETIME": _moment("DateTime"),
    "UIDREF": _text("UID"),
    "IMAGE": _reference,
    "COMPOSITE": _reference,
    "WAVEFORM": _reference,
    "SCOORD": lambda dataset: f"{str(dataset.get('GraphicType', '')).lower()} on the image",
    "SCOORD3D": lambda dataset: f"{str(dataset.get('GraphicType', '')).lower()} in space",
}

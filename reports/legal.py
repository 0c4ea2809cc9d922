"""Values of a source header made legal for our objects: over-long text cut, what has no legal form left out."""

from typing import Any

from pydicom import config as pydicom_config
from pydicom.datadict import dictionary_VM
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import DA, PersonName, validate_value

_TEXT_LENGTH = {"SH": 16, "LO": 64, "ST": 1024, "LT": 10240}  # characters, PS3.5 6.2


def read(source: Dataset, tag: BaseTag) -> DataElement | None:
    """An element of a header as received; None where it is absent or cannot be decoded at all."""
    try:
        found: DataElement | None = source.get(tag)  # by tag: by keyword it would be the value
    except (ValueError, TypeError, OverflowError):
        return None
    return found


def verbatim(element: DataElement) -> DataElement:
    """A copy whose text no longer depends on the source's character set; legal or not."""
    return _element(element, _as_text(element))


def shallow(element: DataElement) -> DataElement:
    """Another element with the same value; sequence items are shared."""
    return _element(element, element.value)


def legal(element: DataElement) -> DataElement | None:
    """A copy that keeps the rules of its VR; None where the value has no legal form."""
    if element.VR == "SQ":
        return _element(element, [_legal_item(item) for item in element.value])
    value = _single(element, _as_text(element))
    if isinstance(value, list):
        kept = [_legal_value(element.VR, part) for part in value]
        return None if None in kept else _element(element, kept)
    kept_value = _legal_value(element.VR, value)
    return None if kept_value is None else _element(element, kept_value)


def _legal_value(vr: str, value: Any) -> Any:
    if value is None or value == "":
        return ""
    if vr in _TEXT_LENGTH:
        value = str(value)[: _TEXT_LENGTH[vr]]
    try:
        plain = str(value) if vr in {"DA", "TM", "DT", "DS", "IS", "PN"} else value
        validate_value(vr, plain, pydicom_config.RAISE)
        if vr == "DA":
            DA(plain)  # 30 February has the right form and is no date
    except (ValueError, TypeError):
        return None
    return value


def _single(element: DataElement, value: Any) -> Any:
    """Backslashes that make several values where one is allowed were meant as text."""
    if not isinstance(value, list) or dictionary_VM(element.tag) != "1":
        return value
    return " ".join(str(part) for part in value) if element.VR in _TEXT_LENGTH else value[0] if value else ""


def _as_text(element: DataElement) -> Any:
    if element.VR == "SQ":
        return [_text_item(item) for item in element.value]
    if element.VR == "PN":
        return _names(element.value)
    return list(element.value) if isinstance(element.value, MultiValue) else element.value


def _names(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str | PersonName):
        return PersonName(str(value), validation_mode=pydicom_config.IGNORE)
    return [_names(name) for name in value]


def _text_item(item: Dataset) -> Dataset:
    return _item(verbatim(element) for element in _elements(item))


def _legal_item(item: Dataset) -> Dataset:
    return _item(kept for kept in map(legal, _elements(item)) if kept is not None)


def _item(elements: Any) -> Dataset:
    made = Dataset()
    for element in elements:
        made.add(element)
    return made


def _elements(item: Dataset) -> list[DataElement]:
    """What an item holds but its character set and private elements, whose meaning we do not know."""
    tags = [tag for tag in item.keys() if not tag.is_private and tag != Tag("SpecificCharacterSet")]  # noqa: SIM118
    found = [read(item, tag) for tag in tags]
    return [element for element in found if element is not None]


def _element(like: DataElement, value: Any) -> DataElement:
    return DataElement(like.tag, like.VR, value, validation_mode=pydicom_config.IGNORE)

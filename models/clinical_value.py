"""A clinical value in its predictor's own terms: the one check that the node, the job and training share.

A value that cannot be right is refused and never repaired: a wrong unit scores as confidently as a right one.
"""

import math

from models.manifest import Predictor

_YES = frozenset({"1", "1.0", "true", "yes", "y"})
_NO = frozenset({"0", "0.0", "false", "no", "n"})
_BLANK = frozenset({"", "na", "n/a", "nan", "none", "null", "unknown", "."})
_UCUM = {"year": "a", "years": "a", "yr": "a", "y": "a", "percent": "%", "1": ""}


class ValueRefused(ValueError):
    """The value is not one that the predictor can have; the text names the predictor, never the value."""


def is_blank(text: str) -> bool:
    """Whether a text is one of the ways in which people write that there is no value."""
    return text.strip().lower() in _BLANK


def ucum(unit: str) -> str:
    """A unit as people write it -> UCUM, where that is known.

    >>> ucum(" years "), ucum("g/L")
    ('a', 'g/L')
    """
    return _UCUM.get(unit.strip(), unit.strip())


def coerce(predictor: Predictor, value: float | str, unit: str = "") -> float | str | None:
    """One value in the predictor's own terms: number, category, or 1.0/0.0 for a boolean; None where it is blank.

    An empty unit means the predictor's unit; another unit is refused, not converted.

    Raises
    ------
    ValueRefused
        The value is of the wrong kind or unit, is no known category, is not finite, or lies outside the plausible
        range.
    """
    if isinstance(value, str) and is_blank(value):
        return None
    stated = ucum(unit)
    if stated and stated != predictor.unit:
        raise _refused(predictor, f"must be in {predictor.unit or 'no unit'}, not in another unit")
    if predictor.type == "category":
        return _category(predictor, value)
    if predictor.type == "boolean":
        return _boolean(predictor, value)
    return _number(predictor, value)


def _category(predictor: Predictor, value: float | str) -> str:
    text = f"{value:g}" if isinstance(value, float | int) else value.strip()
    for category in predictor.categories:
        if category.lower() == text.lower():
            return category
    raise _refused(predictor, f"must be one of {', '.join(predictor.categories)}")


def _boolean(predictor: Predictor, value: float | str) -> float:
    text = str(value).strip().lower()
    if text in _YES or text in _NO:
        return float(text in _YES)
    raise _refused(predictor, "must be yes or no (or 1 or 0)")


def _number(predictor: Predictor, value: float | str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise _refused(predictor, "is not a number") from None
    if not math.isfinite(number):
        raise _refused(predictor, "is not a finite number")
    low, high = predictor.minimum, predictor.maximum
    if (low is not None and number < low) or (high is not None and number > high):
        raise _refused(predictor, f"lies outside the plausible range {plausible(predictor)}")
    return number


def plausible(predictor: Predictor) -> str:
    """The plausible range with its unit, for people; '' where the predictor has none.

    >>> plausible(Predictor(name="age", label="Age", type="number", unit="a", minimum=18, maximum=110, fill=65.0))
    '18 to 110 a'
    """
    low, high = predictor.minimum, predictor.maximum
    if low is None and high is None:
        return ""
    edges = f"{'' if low is None else f'{low:g}'} to {'' if high is None else f'{high:g}'}"
    return f"{edges} {predictor.unit}".rstrip()


def _refused(predictor: Predictor, what: str) -> ValueRefused:
    return ValueRefused(f"{predictor.name} {what}")

"""Clinical values as supplied -> values the model can use. Part of the analyse step; shared with training.

A value that cannot be right is refused and never repaired: a wrong unit scores as confidently as a right one.
A value that is absent is imputed from the training cohort and said to be so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.contract import ClinicalValue, NotScorable
from analysis.reasons import Reason
from models.manifest import Predictor

Value = float | str

_YES = frozenset({"1", "1.0", "true", "yes", "y"})
_NO = frozenset({"0", "0.0", "false", "no", "n"})
_BLANK = frozenset({"", "na", "n/a", "nan", "none", "null", "unknown", "."})
_UCUM = {"year": "a", "years": "a", "yr": "a", "y": "a", "percent": "%", "1": ""}


@dataclass(frozen=True)
class ClinicalVector:
    """A value for every predictor of the bundle.

    Attributes
    ----------
    values : mapping
        Number, category, or 1.0/0.0 for a boolean; imputed where absent.
    imputed : tuple of str
        Predictors whose value is the training cohort's median or commonest value.
    lacking : tuple of str
        Predictors of the minimum clinical set that are absent: with any of these the clinical
        sub-model must not speak.
    unused : tuple of str
        Names supplied that the bundle does not know.
    """

    values: Mapping[str, Value]
    imputed: tuple[str, ...]
    lacking: tuple[str, ...]
    unused: tuple[str, ...]


def read(supplied: Sequence[ClinicalValue], predictors: Sequence[Predictor], minimum: Sequence[str]) -> ClinicalVector:
    """Check every supplied value and fill what is absent.

    Raises
    ------
    NotScorable
        CLINICAL_VALUES_INVALID: a value is of the wrong kind or unit, is no known category, is not finite, lies
        outside the plausible range, or is supplied twice with different values. Names the predictor, not the value.
    """
    known = {predictor.name: predictor for predictor in predictors}
    present: dict[str, Value] = {}
    for item in supplied:
        predictor = known.get(item.name)
        value = coerce(predictor, item.value, item.unit) if predictor else None
        if value is None:
            continue
        if present.setdefault(item.name, value) != value:
            raise _invalid(item.name, "is supplied twice with different values")
    return ClinicalVector(
        values={name: present.get(name, predictor.fill) for name, predictor in known.items()},
        imputed=tuple(name for name in known if name not in present),
        lacking=tuple(name for name in minimum if name not in present),
        unused=tuple(sorted({item.name for item in supplied} - set(known))),
    )


def coerce(predictor: Predictor, value: Value, unit: str = "") -> Value | None:
    """One value in the predictor's own terms; None where it is blank.

    An empty unit means the predictor's unit; another unit is refused, not converted.

    Raises
    ------
    NotScorable
        As for `read`.
    """
    if isinstance(value, str) and value.strip().lower() in _BLANK:
        return None
    stated = _UCUM.get(unit.strip(), unit.strip())
    if stated and stated != predictor.unit:
        raise _invalid(predictor.name, f"must be in {predictor.unit or 'no unit'}, not in another unit")
    if predictor.type == "category":
        return _category(predictor, value)
    if predictor.type == "boolean":
        return _boolean(predictor, value)
    return _number(predictor, value)


def _category(predictor: Predictor, value: Value) -> str:
    text = f"{value:g}" if isinstance(value, float | int) else value.strip()
    for category in predictor.categories:
        if category.lower() == text.lower():
            return category
    raise _invalid(predictor.name, f"must be one of {', '.join(predictor.categories)}")


def _boolean(predictor: Predictor, value: Value) -> float:
    text = str(value).strip().lower()
    if text in _YES or text in _NO:
        return float(text in _YES)
    raise _invalid(predictor.name, "must be yes or no (or 1 or 0)")


def _number(predictor: Predictor, value: Value) -> float:
    try:
        number = float(value)
    except ValueError:
        raise _invalid(predictor.name, "is not a number") from None
    if not math.isfinite(number):
        raise _invalid(predictor.name, "is not a finite number")
    low, high = predictor.minimum, predictor.maximum
    if (low is not None and number < low) or (high is not None and number > high):
        raise _invalid(
            predictor.name,
            f"lies outside the plausible range {'' if low is None else f'{low:g}'} to "
            f"{'' if high is None else f'{high:g}'} {predictor.unit}".rstrip(),
        )
    return number


def _invalid(name: str, what: str) -> NotScorable:
    return NotScorable(Reason.CLINICAL_VALUES_INVALID, f"{name} {what}")

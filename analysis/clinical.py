"""Clinical values as supplied -> values the model can use. Part of the analyse step; shared with training.

A value that cannot be right is refused (`models.clinical_value`). A value that is absent is imputed from the training
cohort and said to be so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.contract import ClinicalValue, NotScorable
from analysis.reasons import Reason
from models import clinical_value
from models.manifest import Predictor

Value = float | str


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
            raise NotScorable(Reason.CLINICAL_VALUES_INVALID, f"{item.name} is supplied twice with different values")
    return ClinicalVector(
        values={name: present.get(name, predictor.fill) for name, predictor in known.items()},
        imputed=tuple(name for name in known if name not in present),
        lacking=tuple(name for name in minimum if name not in present),
        unused=tuple(sorted({item.name for item in supplied} - set(known))),
    )


def coerce(predictor: Predictor, value: Value, unit: str = "") -> Value | None:
    """`models.clinical_value.coerce`, with the job's exception.

    Raises
    ------
    NotScorable
        As for `read`.
    """
    try:
        return clinical_value.coerce(predictor, value, unit)
    except clinical_value.ValueRefused as refusal:
        raise NotScorable(Reason.CLINICAL_VALUES_INVALID, str(refusal)) from None

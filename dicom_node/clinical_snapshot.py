"""Which clinical values count for one CT: the newest of the baseline, from all sources. Taken once, when the work item
is scheduled; it is part of its key and is named in the report (docs/clinical.md has the rules).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from fractions import Fraction
from pathlib import Path

from analysis.contract import ClinicalValue, QualityFlag, Severity
from config.clinical import Clinical
from dicom_node import clinical_table
from dicom_node.clinical_codes import Variable, day_of, load, plain_number
from dicom_node.clinical_table import Candidate
from dicom_node.clinical_values import KINDS, StoredValue
from dicom_node.identity import Identity
from dicom_node.store import Store
from models.clinical_value import ValueRefused, coerce, is_blank
from models.manifest import Predictor

PRECEDENCE = (*KINDS, "table", "header")  # who is believed first, for the same day
THERAPY_START = "therapy_start"  # a variable that is no predictor; its value is the day
_FRESH, _UNDATED, _HEADER, _OLD = range(4)  # in this order
_AGE_TOLERANCE = 1.0  # a birthday lies between two sources


@dataclass(frozen=True)
class Snapshot:
    """Values of the bundle's predictors by name, and what the reader should know of them."""

    values: tuple[ClinicalValue, ...] = ()
    quality: tuple[QualityFlag, ...] = ()


@dataclass(frozen=True)
class TherapyStart:
    """The day, and who says so."""

    day: date
    source: str


class Snapshots:
    """Takes snapshots for one bundle. Raises ConfigError where the site's codes cannot be used."""

    def __init__(self, store: Store, settings: Clinical, predictors: Sequence[Predictor]) -> None:
        self._store, self._settings = store, settings
        self._predictors = {predictor.name: predictor for predictor in predictors}
        self._codes = load(settings.codes)

    def take(self, study_instance_uid: str, ct: Path) -> Snapshot:
        """Of the patient of a study, for the CT that begins with the file `ct`.

        Raises
        ------
        Retryable, Permanent
            The site's table cannot be used (`clinical_table.of_table`).
        """
        whose = self._store.patients.of_study(study_instance_uid) or Identity()
        patient = (whose.patient_id, whose.issuer_of_patient_id)
        header = clinical_table.of_header(ct)
        ids = [patient_id for patient_id, _ in self._store.clinical.aliases(*patient)]
        stored = self._store.clinical.current(*patient)
        offered = [*header.values, *clinical_table.of_table(self._settings, ids), *map(_candidate, stored)]
        choices = [
            _Choice(
                predictor, self._of(predictor, offered), header.day, self._settings, self._codes.variables.get(name)
            )
            for name, predictor in sorted(self._predictors.items())
        ]
        flags = _flags(choices, self._settings)
        if self._store.clinical.is_ambiguous(*patient):
            flags.append(_AMBIGUOUS)
        return Snapshot(tuple(choice.value() for choice in choices if choice.best), tuple(flags))

    def therapy_start(self, study_instance_uid: str) -> TherapyStart | None:
        """When therapy of the patient of a study began: the earliest day that any source names. Raises as `take`."""
        whose = self._store.patients.of_study(study_instance_uid) or Identity()
        patient = (whose.patient_id, whose.issuer_of_patient_id)
        ids = [patient_id for patient_id, _ in self._store.clinical.aliases(*patient)]
        offered = [
            *clinical_table.of_table(self._settings, ids),
            *map(_candidate, self._store.clinical.current(*patient)),
        ]
        named = [
            (day_of(str(each.value).removesuffix(".0")), each.source) for each in offered if each.name == THERAPY_START
        ]
        days = [TherapyStart(day, source) for day, source in named if day is not None]
        return min(days, key=lambda start: start.day, default=None)

    def differing(self, before: Sequence[ClinicalValue], now: Sequence[ClinicalValue]) -> tuple[str, ...]:
        """Predictors whose value is another one; the same value of another day or source is none."""
        was, new = ({each.name: each for each in values if each.name in self._predictors} for values in (before, now))
        return tuple(
            name
            for name, predictor in sorted(self._predictors.items())
            if _coerced(predictor, was.get(name)) != _coerced(predictor, new.get(name))
        )

    def _of(self, predictor: Predictor, offered: Sequence[Candidate]) -> list[Candidate]:
        named = (each for each in offered if each.name == predictor.name)
        stated = [self._in_unit(each, predictor) for each in named if not is_blank(str(each.value))]
        return stated + list(self._ratios(predictor, offered))

    def _in_unit(self, value: Candidate, predictor: Predictor) -> Candidate:
        """In the predictor's unit; one that cannot be converted stays as it is, and is refused by the job."""
        factor = self._codes.factor(predictor.name, value.unit, predictor.unit) if value.unit else None
        number = plain_number(value.value)
        if factor in (None, 1) or number is None:
            return value
        assert factor is not None
        stated = value.stated or f"{value.value:g} {value.unit}"
        return replace(value, value=float(number * factor), unit=predictor.unit, stated=stated)

    def _ratios(self, predictor: Predictor, offered: Sequence[Candidate]) -> Iterable[Candidate]:
        """The quotient of two values of one day and one source, where the mapping has it for this predictor."""
        ratio = self._codes.ratios.get(predictor.name)
        if ratio is None:
            return
        seen = set()
        for over in (each for each in offered if each.name == ratio.numerator):
            place = (over.kind, over.source, over.day)
            under = [e for e in offered if e.name == ratio.denominator and (e.kind, e.source, e.day) == place]
            parts = [self._number(over, ratio.numerator)] + [self._number(e, ratio.denominator) for e in under[:1]]
            if place in seen or len(parts) < 2 or parts[0] is None or not parts[1]:
                continue
            seen.add(place)
            source = f"{over.source}, from {ratio.numerator} and {ratio.denominator}"
            yield Candidate(predictor.name, round(float(parts[0] / parts[1]), 3), source, over.kind, day=over.day)

    def _number(self, value: Candidate, name: str) -> Fraction | None:
        into = self._codes.variables[name].unit
        factor = self._codes.factor(name, value.unit or into, into)
        number = plain_number(value.value)
        return None if factor is None or number is None else number * factor


class _Choice:
    """Which of the values offered for one predictor is used."""

    def __init__(
        self,
        predictor: Predictor,
        offered: Sequence[Candidate],
        ct: date | None,
        settings: Clinical,
        variable: Variable | None,
    ) -> None:
        self.predictor, self.ct = predictor, ct
        self.timeless = timeless = variable is not None and variable.timeless
        self._lasting = variable is not None and variable.lasting
        self._old_after = timedelta(days=settings.old_after_days)
        latest = ct + timedelta(days=settings.used_days_after_ct) if ct else None
        self.late = [each for each in offered if not timeless and latest and each.day and each.day > latest]
        self._usable = sorted((each for each in offered if each not in self.late), key=self._rank)
        self.best = self._usable[0] if self._usable else None

    def _rank(self, value: Candidate) -> tuple[int, int, int]:
        believed = PRECEDENCE.index(value.kind)
        day = value.day.toordinal() if value.day else 0
        return (0, believed, -day) if self.timeless else (self._tier(value), -day, believed)

    def _tier(self, value: Candidate) -> int:
        if value.kind == "header":
            return _HEADER
        if value.day is None:
            return _UNDATED
        old = self.ct is not None and value.day < self.ct - self._old_after and not self._lasting
        return _OLD if old else _FRESH

    @property
    def days_before(self) -> int | None:
        """How old the value is at the CT, where it is older than it should be."""
        if self.best is None or self.timeless or self._tier(self.best) != _OLD:
            return None
        assert self.ct is not None
        assert self.best.day is not None
        return (self.ct - self.best.day).days

    @property
    def is_undated(self) -> bool:
        """Whether nobody can say if the value is of the baseline."""
        if self.best is None or self.timeless or self.best.kind == "header":
            return False
        return self.best.day is None or self.ct is None

    def value(self) -> ClinicalValue:
        assert self.best is not None
        stated = f", stated as {self.best.stated}" if self.best.stated else ""
        others = "".join(f"; {source} differs" for source in self._differing()[:2])
        return ClinicalValue(
            name=self.predictor.name,
            value=self.best.value,
            unit=self.best.unit,
            source=f"{self.best.source}{stated}{others}",
            date=self.best.day.isoformat() if self.best.day else None,
        )

    def _differing(self) -> list[str]:
        """Sources that say something else of the same time, the cheapest sign of a wrong patient."""
        assert self.best is not None
        others = (each for each in self._usable[1:] if self._of_one_time(each) and self._differs(each))
        return list(dict.fromkeys(each.source for each in others if each.source != self.best.source))

    def _of_one_time(self, other: Candidate) -> bool:
        assert self.best is not None
        if self.timeless or self.best.day == other.day:
            return True
        return None in (self.best.day, other.day) and self._tier(other) != _OLD

    def _differs(self, other: Candidate) -> bool:
        assert self.best is not None
        ours, theirs = (_coerced(self.predictor, each) for each in (self.best, other))
        if self.predictor.name == "age" and isinstance(ours, float) and isinstance(theirs, float):
            return abs(ours - theirs) > _AGE_TOLERANCE
        return ours != theirs


def _coerced(predictor: Predictor, value: Candidate | ClinicalValue | None) -> float | str | None:
    if value is None:
        return None
    try:
        return coerce(predictor, value.value, value.unit)
    except ValueRefused:
        return value.value


def _candidate(value: StoredValue) -> Candidate:
    day = day_of(value.observed_on)
    return Candidate(value.name, value.value, value.source, value.kind, value.unit, value.stated, day)


_AMBIGUOUS = QualityFlag(
    code="CLINICAL_ISSUER_AMBIGUOUS",
    severity=Severity.WARNING,
    text="Several issuers use this patient ID and the study names none; clinical values that name one are left aside",
)


def _flags(choices: Sequence[_Choice], settings: Clinical) -> list[QualityFlag]:
    old = [f"{choice.predictor.label} ({days} days)" for choice in choices if (days := choice.days_before) is not None]
    undated = [choice.predictor.label for choice in choices if choice.is_undated]
    late = [choice.predictor.label for choice in choices if choice.late and choice.best is None]
    flags = []
    if old:
        text = f"Observed more than {settings.old_after_days:g} days before the CT: {', '.join(old)}"
        flags.append(QualityFlag(code="CLINICAL_VALUE_OLD", severity=Severity.WARNING, text=text))
    if undated:
        text = f"It is not known whether these were observed before therapy: {', '.join(undated)}"
        flags.append(QualityFlag(code="CLINICAL_VALUE_UNDATED", severity=Severity.INFO, text=text))
    if late:
        text = f"Not used, observed more than {settings.used_days_after_ct:g} days after the CT: {', '.join(late)}"
        flags.append(QualityFlag(code="CLINICAL_VALUE_LATE", severity=Severity.WARNING, text=text))
    return flags

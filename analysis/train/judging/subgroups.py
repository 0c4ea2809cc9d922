"""The same judgement for parts of the cohort: by clinical value, and by site.

AUC is over all pairs within folds, since a fold may hold only a handful of a part's patients.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.clinical import Value
from analysis.train.data.cohort import Cohort
from analysis.train.judging import judge, metrics
from analysis.train.judging.predicted import Predicted

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
FEW_VALUES = 5  # a number with no more values than this is split by value (ECOG), any other at its median


def parts(cohort: Cohort) -> list[tuple[str, Bools]]:
    """Every part of the cohort by its clinical values, named as a reader would say it; masks have shape (patients,).

    Patients without a value are in no part of it.
    """
    found: list[tuple[str, Bools]] = []
    for section in cohort.file.clinical.predictors:
        values = [row.get(section.name) for row in cohort.clinical]
        if section.type == "boolean":
            levels: Sequence[Value] = (1.0, 0.0)
            found += [(f"{section.name} = {'yes' if level else 'no'}", _equal(values, level)) for level in levels]
        elif section.type == "category":
            found += [(f"{section.name} = {level}", _equal(values, level)) for level in section.categories]
        else:
            found += _of_number(section.name, section.unit, values)
    return [(name, inside) for name, inside in found if inside.any() and not inside.all()]


def _of_number(name: str, unit: str, values: Sequence[Value | None]) -> Iterator[tuple[str, Bools]]:
    numbers = np.array([np.nan if value is None else float(value) for value in values])
    present = np.unique(numbers[np.isfinite(numbers)])
    if present.size == 0:
        return
    if present.size <= FEW_VALUES:
        yield from ((f"{name} = {level:g}", numbers == level) for level in present)
        return
    middle = float(f"{np.nanmedian(numbers):.3g}")
    words = f"{middle:g} {unit}".strip()
    yield f"{name} < {words}", numbers < middle
    yield f"{name} >= {words}", numbers >= middle


def _equal(values: Sequence[Value | None], level: Value) -> Bools:
    return np.array([value == level for value in values], bool)


def lines(
    given: Predicted, endpoint: str, named: Sequence[tuple[str, Bools]], what: str = "subgroup"
) -> list[dict[str, Any]]:
    """A line per part and horizon, with no figure but counts where too few patients remain to say.

    Parameters
    ----------
    named : sequence of (name, mask)
        Masks over the cohort, shape (patients of the cohort,).
    what : str
        Under which key the name stands: "subgroup" or "site".
    """
    found = []
    for name, mask in named:
        part = given.only(mask[given.rows])
        for column, months in enumerate(given.horizons):
            line = judge.counts(part, months)
            line |= judge.auc(part, months, metrics.over_all_pairs)
            line |= {"observed_expected": judge.observed_expected(part, column)["observed_expected"]}
            found.append({what: name, "endpoint": endpoint, "horizon_months": months, **line})
    rounding: list[dict[str, Any]] = judge.rounded(found)
    return rounding


def by_label(labels: Sequence[str]) -> list[tuple[str, Bools]]:
    """Masks by label, sorted; an empty label belongs to no part."""
    array = np.array(labels)
    return [(label, array == label) for label in sorted(set(labels)) if label]


def site_lines(given: Predicted, endpoint: str, labels: Sequence[str]) -> list[dict[str, Any]]:
    """A line per site and horizon."""
    return lines(given, endpoint, by_label(labels), "site")


def numbers(cohort: Cohort, name: str) -> Array:
    """A numeric value of every patient, shape (patients,); NaN where unknown or where the cohort does not have it."""
    for names, matrix in ((cohort.radiomic_names, cohort.radiomic), (cohort.deep_names, cohort.deep)):
        if name in names:
            return np.asarray(matrix[:, list(names).index(name)])
    found = [row.get(name) for row in cohort.clinical]
    return np.array([float(value) if isinstance(value, float | int) else np.nan for value in found])

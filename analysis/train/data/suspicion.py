"""What no honest cohort holds: predictors that know the outcome, patients who stand in it twice, units mixed up.

Each is refused before anything is trained, since each would make the figures better than they are.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from analysis.train.data.cohort import Cohort, CohortError, Outcome
from analysis.train.judging.ranking import concordance
from analysis.train.model.design import Block

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

# No value known before treatment ranks survival like this: the best published scores reach a concordance of 0.75.
LEAK_CONCORDANCE, LEAK_EVENT_AUC = 0.90, 0.97
ENOUGH_PATIENTS, ENOUGH_EVENTS = 20, 10
LARGEST_SITES = 20
LEAST_FEATURES = 5  # fewer columns may agree by chance, where they are rounded
LEAST_VALUES = 3  # two patients may share age and sex and a survival in months; not more
UNIT_GAP, UNIT_RATIO, UNIT_SHARE = 5.0, 8.0, 0.02


def check(cohort: Cohort, blocks: Sequence[Block]) -> None:
    """Refuse a cohort that would flatter its model.

    Raises
    ------
    CohortError
        Names the columns or the rows, and what to do.
    """
    _refuse_identifying_sites(cohort)
    _refuse_constants(blocks)
    _refuse_duplicates(cohort, blocks)
    _refuse_same_images(cohort, blocks)
    _refuse_mixed_units(blocks)
    _refuse_leaks(cohort, blocks)


def _refuse_identifying_sites(cohort: Cohort) -> None:
    """Sites stand in the report by name: a column that tells patients apart must not be one."""
    if len(set(cohort.sites)) > max(LARGEST_SITES, len(cohort) // 10):
        raise CohortError(
            f"column {cohort.file.cohort.site!r} has {len(set(cohort.sites))} different values for {len(cohort)} "
            "patients, so it names no hospital; correct cohort.site"
        )


def _refuse_constants(blocks: Sequence[Block]) -> None:
    """A predictor that somebody wrote down and that says nothing is a mistake; among image features it is ordinary."""
    for block in blocks:
        for index, (name, section) in enumerate(block.predictors.items()):
            present = block.matrix[np.isfinite(block.matrix[:, index]), index]
            if not present.size or not np.ptp(present):
                what = "is empty for every patient" if not present.size else "holds the same value for every patient"
                raise CohortError(
                    f"column {(section.column or name)!r} {what}; take it off the list of predictors, or correct it"
                )


def _refuse_leaks(cohort: Cohort, blocks: Sequence[Block]) -> None:
    found = [
        f"column {name!r} {why}"
        for block in blocks
        for index, name in enumerate(block.names)
        for why in _leaks(block.matrix[:, index], cohort)
    ]
    if found:
        raise CohortError(
            f"{found[0]}: it knows the outcome, so it was not known before treatment; take it off the list of "
            f"predictors{f' ({len(found) - 1} more like it)' if found[1:] else ''}"
        )


def _leaks(values: Array, cohort: Cohort) -> Iterator[str]:
    for endpoint, outcome in cohort.outcomes.items():
        there = np.isfinite(values)
        blank_auc = _auc(~there, outcome.event)
        if 0 < there.mean() < 1 and max(blank_auc, 1 - blank_auc) > LEAK_EVENT_AUC:
            yield f"is empty for almost exactly those with (or without) an event of {endpoint}"
            return
        if there.sum() < ENOUGH_PATIENTS or outcome.event[there].sum() < ENOUGH_EVENTS or not np.ptp(values[there]):
            continue
        ranked = concordance(values[there], outcome.time[there], outcome.event[there])
        if max(ranked, 1 - ranked) > LEAK_CONCORDANCE:
            yield f"ranks {endpoint} with a concordance of {max(ranked, 1 - ranked):.2f}"
            return
        coded = _auc(values[there], outcome.event[there])
        if max(coded, 1 - coded) > LEAK_EVENT_AUC:
            yield f"tells almost exactly who had an event of {endpoint}"
            return


def _auc(values: Array | Bools, event: Bools) -> float:
    """Area under the ROC curve of a value for the event indicator; 0.5 where all or none had it."""
    cases, others = int(event.sum()), int((~event).sum())
    if not cases or not others:
        return 0.5
    ranks = rankdata(values)
    return float((ranks[event].sum() - cases * (cases + 1) / 2) / (cases * others))


def _refuse_duplicates(cohort: Cohort, blocks: Sequence[Block]) -> None:
    outcome_columns = [column for outcome in cohort.outcomes.values() for column in _both(outcome)]
    values = np.column_stack([block.matrix for block in blocks])
    several = [len(np.unique(column[np.isfinite(column)])) > 1 for column in values.T]
    known = np.isfinite(values[:, several]).sum(axis=1)
    seen: dict[bytes, int] = {}
    pairs = []
    for row, key in enumerate(np.column_stack([np.nan_to_num(values, nan=-1e300), *outcome_columns])):
        if known[row] < LEAST_VALUES:
            continue
        first = seen.setdefault(key.tobytes(), row)
        if first != row:
            pairs.append((cohort.row_numbers[first], cohort.row_numbers[row]))
    if pairs:
        shown = ", ".join(f"{first} and {second}" for first, second in pairs[:5])
        raise CohortError(
            f"rows {shown}{' and more' if pairs[5:] else ''} hold the same values and outcomes: one patient under two "
            "identifiers would stand on both sides of a fold; keep one row per patient"
        )


def _refuse_same_images(cohort: Cohort, blocks: Sequence[Block]) -> None:
    """The same CT and contour under two identifiers, whatever else the table says of them."""
    for block in blocks:
        if block.predictors:
            continue
        complete = np.flatnonzero(np.isfinite(block.matrix).all(axis=1))
        telling = [i for i in range(len(block.names)) if len(np.unique(block.matrix[complete, i])) > len(complete) / 2]
        if len(telling) < LEAST_FEATURES:
            continue
        seen: dict[bytes, int] = {}
        for row in complete:
            first = seen.setdefault(block.matrix[row, telling].tobytes(), int(row))
            if first != row:
                numbers = f"{cohort.row_numbers[first]} and {cohort.row_numbers[row]}"
                raise CohortError(
                    f"rows {numbers} have the very same {block.modality} features: one CT and contour under two "
                    "identifiers; keep one row per patient"
                )


def _both(outcome: Outcome) -> tuple[Array, Array]:
    return outcome.time, outcome.event.astype(float)


def _refuse_mixed_units(blocks: Sequence[Block]) -> None:
    """Only where the cohort file states no plausible range: a stated one has been checked, cell by cell."""
    for block in blocks:
        for index, name in enumerate(block.names):
            section = block.predictors.get(name)
            if (
                section is None
                or section.type != "number"
                or section.minimum is not None
                or section.maximum is not None
            ):
                continue
            ratio = _unit_ratio(block.matrix[:, index])
            if ratio is not None:
                raise CohortError(
                    f"column {(section.column or name)!r}: the values fall into two heaps about {ratio:.0f} times "
                    "apart, as if in two units; convert them to one, or state minimum and maximum if this is right"
                )


def _unit_ratio(values: Array) -> float | None:
    """How far two heaps of positive values lie apart where a wide gap parts them and each is narrow; else None."""
    positive = np.sort(values[np.isfinite(values) & (values > 0)])
    if len(positive) < ENOUGH_PATIENTS:
        return None
    steps = positive[1:] / positive[:-1]
    cut = int(steps.argmax()) + 1
    low, high = positive[:cut], positive[cut:]
    least = max(3, UNIT_SHARE * len(positive))
    ratio = float(np.median(high) / np.median(low))
    apart = steps[cut - 1] > UNIT_GAP and ratio > UNIT_RATIO and min(len(low), len(high)) >= least
    narrow = max(low[-1] / low[0], high[-1] / high[0]) < ratio
    return ratio if apart and narrow else None

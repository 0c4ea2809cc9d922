"""Nested cross-validation: predictions for patients that the whole procedure has not seen.

Everything that learns (selection, penalty, standardising, recalibration, cut-off) happens in `fit` on the outer
training part; `judge` says how good the predictions are.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.train.data.cohort import Outcome, TrainingSection
from analysis.train.model.design import Block
from analysis.train.model.fit import Fitted, fit, stratified, subsets_of
from analysis.train.model.predictions import OutOfFold, Rows, Subset
from models.manifest import EndpointName

Array = NDArray[np.float64]
Outcomes = Mapping[EndpointName, Outcome]
Job = tuple[Sequence[Block], Outcomes, Rows, TrainingSection, int]


@dataclass(frozen=True)
class Nested:
    """What cross-validation gave.

    Attributes
    ----------
    repeats : predictions of every patient, once per repeat
    selected : by (modality, endpoint), the share of outer training parts that chose each feature
    inner_learners : by (modality, endpoint, learner), the share of outer training parts that kept it
    """

    repeats: list[OutOfFold]
    selected: Mapping[tuple[str, EndpointName], Mapping[str, float]]
    inner_learners: Mapping[tuple[str, EndpointName, str], float]


def nested(
    blocks: Sequence[Block],
    outcomes: Outcomes,
    settings: TrainingSection,
    seed: int,
    progress: Callable[[int], None] | None = None,
    workers: int = 1,
) -> Nested:
    """Run every repeat of the outer cross-validation, the outer folds over `workers` processes."""
    count = len(next(iter(outcomes.values())).time)
    strata = outcomes["OS"] if "OS" in outcomes else next(iter(outcomes.values()))
    folds = [
        stratified(strata, np.arange(count), settings.folds, seed + 1000 * (repeat + 1))
        for repeat in range(settings.repeats)
    ]
    jobs = [
        (blocks, outcomes, np.delete(np.arange(count), fold), settings, seed + repeat)
        for repeat, parts in enumerate(folds)
        for fold in parts
    ]
    fits = []
    for done, fitted in enumerate(_all(jobs, workers), start=1):
        fits.append(fitted)
        if progress:
            progress(done)
    per_repeat = [fits[start : start + settings.folds] for start in range(0, len(fits), settings.folds)]
    return Nested(
        [_gather(blocks, outcomes, parts, found) for parts, found in zip(folds, per_repeat, strict=True)],
        _selected(fits),
        _kept(fits),
    )


def predict(blocks: Sequence[Block], outcomes: Outcomes, fitted: Fitted, fold: Rows) -> OutOfFold:
    """Predictions of one fitted model for the patients `fold`; NaN for everyone else."""
    return _gather(blocks, outcomes, [fold], [fitted])


def _all(jobs: Sequence[Job], workers: int) -> Iterator[Fitted]:
    if workers <= 1:
        for job in jobs:
            yield fit(*job)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(fit, *zip(*jobs, strict=True))


def _gather(blocks: Sequence[Block], outcomes: Outcomes, folds: Sequence[Rows], fits: Sequence[Fitted]) -> OutOfFold:
    count = len(next(iter(outcomes.values())).time)
    etas, probabilities, highs = {}, {}, {}
    for subset in subsets_of(blocks):
        for endpoint, outcome in outcomes.items():
            eta = np.full(count, np.nan)
            probability = np.full((count, len(outcome.horizons)), np.nan)
            high = np.zeros(count, bool)
            for fold, fitted in zip(folds, fits, strict=True):
                eta[fold] = fitted.linear_predictor(blocks, subset, endpoint, fold)
                high[fold] = eta[fold] > fitted.recalibration[subset, endpoint].cutoff
                for column, months in enumerate(outcome.horizons):
                    probability[fold, column] = fitted.event_probability(subset, endpoint, eta[fold], months)
            etas[subset, endpoint], probabilities[subset, endpoint], highs[subset, endpoint] = eta, probability, high
        _hold_at_os(blocks, subset, outcomes, folds, fits, etas, probabilities)
    return OutOfFold(tuple(folds), etas, probabilities, highs)


def _hold_at_os(
    blocks: Sequence[Block],
    subset: Subset,
    outcomes: Outcomes,
    folds: Sequence[Rows],
    fits: Sequence[Fitted],
    etas: Mapping[tuple[Subset, EndpointName], Array],
    probabilities: Mapping[tuple[Subset, EndpointName], Array],
) -> None:
    """Raise the risk of progression or death to that of death, as scoring does: what is judged is what is printed."""
    if "OS" not in outcomes or "PFS" not in outcomes:
        return
    for column, months in enumerate(outcomes["PFS"].horizons):
        if months > max(outcomes["OS"].horizons):
            continue
        for fold, fitted in zip(folds, fits, strict=True):
            floor = fitted.event_probability(subset, "OS", etas[subset, "OS"][fold], months)
            held = np.fmax(probabilities[subset, "PFS"][fold, column], floor)
            probabilities[subset, "PFS"][fold, column] = np.where(np.isfinite(etas[subset, "PFS"][fold]), held, np.nan)
    np.maximum.accumulate(probabilities[subset, "PFS"], axis=1, out=probabilities[subset, "PFS"])


def _selected(fits: Sequence[Fitted]) -> dict[tuple[str, EndpointName], dict[str, float]]:
    found = {}
    for key in fits[0].learners:
        counts = Counter(
            feature for fitted in fits for feature in {c.feature for c in fitted.learners[key][0].recipe.columns}
        )
        found[key] = {feature: count / len(fits) for feature, count in sorted(counts.items())}
    return found


def _kept(fits: Sequence[Fitted]) -> dict[tuple[str, EndpointName, str], float]:
    counts = Counter(
        (modality, endpoint, part.kind)
        for fitted in fits
        for (modality, endpoint), parts in fitted.learners.items()
        for part in parts
    )
    return {key: count / len(fits) for key, count in sorted(counts.items())}

"""Nested cross-validation: predictions for patients that the whole procedure has not seen.

Everything that learns (selection, penalty, standardising, recalibration, cut-off) happens in `fit` on the outer
training part; `judge` says how good the predictions are.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from analysis.train.cohort import Outcome, TrainingSection
from analysis.train.design import Block
from analysis.train.fit import Fitted, fit, stratified
from analysis.train.predictions import OutOfFold, Rows
from models.bundle import combinations_of
from models.manifest import EndpointName


def nested(
    blocks: Sequence[Block],
    outcomes: Mapping[EndpointName, Outcome],
    settings: TrainingSection,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> list[OutOfFold]:
    """Run every repeat of the outer cross-validation."""
    repeats = []
    count = len(next(iter(outcomes.values())).time)
    for repeat in range(settings.repeats):
        strata = outcomes["OS"] if "OS" in outcomes else next(iter(outcomes.values()))
        folds = stratified(strata, np.arange(count), settings.folds, seed + 1000 * (repeat + 1))
        fits = []
        for number, fold in enumerate(folds, start=1):
            fits.append(fit(blocks, outcomes, np.delete(np.arange(count), fold), settings, seed + repeat))
            if progress:
                progress(repeat * settings.folds + number)
        repeats.append(_gather(blocks, outcomes, folds, fits))
    return repeats


def _gather(
    blocks: Sequence[Block],
    outcomes: Mapping[EndpointName, Outcome],
    folds: Sequence[Rows],
    fits: Sequence[Fitted],
) -> OutOfFold:
    count = sum(len(fold) for fold in folds)
    etas, probabilities, highs = {}, {}, {}
    for subset in combinations_of(tuple(block.modality for block in blocks)):
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
    return OutOfFold(tuple(folds), etas, probabilities, highs)

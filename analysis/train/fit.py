"""One fit of the whole model on given rows: Cox per modality, out-of-fold standardising, recalibration.

Nothing here looks beyond the rows it is given, so whatever calls it for the training part of a fold leaks nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.train import cox
from analysis.train.cohort import Outcome, TrainingSection
from analysis.train.design import Block, Recipe, apply, learn
from analysis.train.predictions import Rows, Subset
from models.bundle import combinations_of
from models.manifest import EndpointName, ModalityName, significant

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
# Ridge penalties as multiples of the number of events: from nearly none to nearly all.
PENALTIES = (5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
PENALTY_FOLDS = 5


@dataclass(frozen=True)
class CoxFit:
    """Penalised Cox of one modality for one endpoint."""

    recipe: Recipe
    beta: Array
    penalty: float

    def linear_predictor(self, block: Block, rows: Rows) -> Array:
        """Of the given patients; NaN where the modality is not available."""
        found = np.full(len(rows), np.nan)
        there = block.available[rows]
        found[there] = apply(self.recipe, block, rows[there]) @ self.beta
        return found


@dataclass(frozen=True)
class Recalibrated:
    """Slope, Breslow baseline at whole months, and cut-off (median out of fold) of one combination."""

    slope: float
    hazard: Array
    cutoff: float


@dataclass(frozen=True)
class Fitted:
    """A whole model; keys are (modality, endpoint) and (combination, endpoint).

    `out_of_fold`: standardised out-of-fold linear predictors of the rows that were fitted on, in their order.
    """

    cox: Mapping[tuple[ModalityName, EndpointName], CoxFit]
    standard: Mapping[tuple[ModalityName, EndpointName], tuple[float, float]]
    recalibration: Mapping[tuple[Subset, EndpointName], Recalibrated]
    out_of_fold: Mapping[tuple[ModalityName, EndpointName], Array]

    def linear_predictor(self, blocks: Sequence[Block], subset: Subset, endpoint: EndpointName, rows: Rows) -> Array:
        """Recalibrated linear predictor; NaN where a modality of the subset is not available."""
        scores = {
            block.modality: self._standardised(block, endpoint, rows) for block in blocks if block.modality in subset
        }
        return self.recalibration[subset, endpoint].slope * fuse(scores, subset)

    def _standardised(self, block: Block, endpoint: EndpointName, rows: Rows) -> Array:
        offset, scale = self.standard[block.modality, endpoint]
        return (self.cox[block.modality, endpoint].linear_predictor(block, rows) - offset) / scale

    def event_probability(self, subset: Subset, endpoint: EndpointName, eta: Array, months: int) -> Array:
        """Probability of the event by a whole number of months."""
        hazard = self.recalibration[subset, endpoint].hazard[months]
        return np.asarray(-np.expm1(-hazard * np.exp(np.minimum(eta, 50.0))))


def fuse(scores: Mapping[ModalityName, Array], subset: Subset) -> Array:
    """Equal-weight mean of the standardised linear predictors of a combination."""
    return np.asarray(np.mean([scores[modality] for modality in subset], axis=0))


def fit(
    blocks: Sequence[Block], outcomes: Mapping[EndpointName, Outcome], rows: Rows, settings: TrainingSection, seed: int
) -> Fitted:
    """Fit everything on `rows` (indices of distinct patients)."""
    coxes: dict[tuple[ModalityName, EndpointName], CoxFit] = {}
    standard: dict[tuple[ModalityName, EndpointName], tuple[float, float]] = {}
    recalibration: dict[tuple[Subset, EndpointName], Recalibrated] = {}
    out_of_fold: dict[tuple[ModalityName, EndpointName], Array] = {}
    for endpoint, outcome in outcomes.items():
        folds = stratified(outcome, rows, settings.folds, seed)
        scores: dict[ModalityName, Array] = {}
        for block in blocks:
            coxes[block.modality, endpoint] = fit_cox(block, outcome, rows, settings, seed)
            raw = np.full(len(rows), np.nan)
            for fold in folds:
                inner = fit_cox(block, outcome, np.delete(rows, fold), settings, seed)
                raw[fold] = inner.linear_predictor(block, rows[fold])
            offset, scale = standardiser(raw)
            standard[block.modality, endpoint] = offset, scale
            scores[block.modality] = out_of_fold[block.modality, endpoint] = (raw - offset) / scale
        for subset in combinations_of(tuple(block.modality for block in blocks)):
            recalibration[subset, endpoint] = recalibrate(
                fuse(scores, subset), outcome.time[rows], outcome.event[rows], max(outcome.horizons)
            )
    return Fitted(coxes, standard, recalibration, out_of_fold)


def fit_cox(block: Block, outcome: Outcome, rows: Rows, settings: TrainingSection, seed: int) -> CoxFit:
    """Choose columns and penalty on `rows`, and fit."""
    rows = rows[block.available[rows]]
    recipe = learn(block, rows, outcome, settings)
    x = apply(recipe, block, rows)
    time, event = outcome.time[rows], outcome.event[rows]
    penalty = choose_penalty(x, time, event, stratified(outcome, rows, PENALTY_FOLDS, seed + 1))
    return CoxFit(recipe, rounded(cox.fit(x, time, event, penalty)), penalty)


def choose_penalty(x: Array, time: Array, event: Bools, folds: Sequence[Rows]) -> float:
    """The penalty of largest cross-validated partial likelihood (Verweij and van Houwelingen 1993)."""
    total = np.zeros(len(PENALTIES))
    for fold in folds:
        keep = np.ones(len(time), bool)
        keep[fold] = False
        beta = None
        for position, ratio in enumerate(PENALTIES):
            beta = cox.fit(x[keep], time[keep], event[keep], ratio * float(event[keep].sum()), beta)
            eta = x @ beta
            total[position] += cox.log_likelihood(eta, time, event) - cox.log_likelihood(
                eta[keep], time[keep], event[keep]
            )
    return significant(PENALTIES[int(total.argmax())] * float(event.sum()))


def standardiser(raw: Array) -> tuple[float, float]:
    """Mean and SD of out-of-fold linear predictors; 0 and 1 where they say nothing."""
    present = raw[np.isfinite(raw)]
    scale = float(present.std()) if present.size else 0.0
    if scale < 1e-8:
        return 0.0, 1.0
    return significant(float(present.mean())), significant(scale)


def recalibrate(score: Array, time: Array, event: Bools, months: int) -> Recalibrated:
    """One slope, never below zero, and the Breslow baseline, on out-of-fold scores of patients who have one.

    The baseline is kept at whole months up to `months`, the last horizon.
    """
    there = np.isfinite(score)
    score, time, event = score[there], time[there], event[there]
    slope = significant(max(0.0, float(cox.fit(score[:, None], time, event, 1e-6)[0])))
    hazard = cox.breslow(slope * score, time, event, np.arange(months + 1, dtype=float))
    hazard[0] = 0.0
    return Recalibrated(slope, rounded(hazard), significant(float(np.median(slope * score))))


def rounded(values: Array) -> Array:
    """To the digits that are stored, so that a bundle and the training that made it agree."""
    return np.array([significant(float(value)) for value in values])


def stratified(outcome: Outcome, rows: Rows, count: int, seed: int) -> list[Rows]:
    """Positions into `rows` by fold: patients sorted by event and time, dealt out in shuffled hands of `count`."""
    rng = np.random.default_rng([seed, 11, count])
    order = np.lexsort((outcome.time[rows], outcome.event[rows]))
    fold_of = np.empty(len(rows), int)
    for start in range(0, len(rows), count):
        hand = order[start : start + count]
        fold_of[hand] = rng.permutation(count)[: len(hand)]
    return [np.flatnonzero(fold_of == fold) for fold in range(count)]

"""One fit of the whole model on given rows: learners per modality, out-of-fold standardising, recalibration.

Nothing here looks beyond the rows it is given, so whatever calls it for the training part of a fold leaks nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.train.data.cohort import Outcome, TrainingSection
from analysis.train.model import cox
from analysis.train.model.design import Block, Recipe, apply, learn
from analysis.train.model.learners import Linear, Trees, fit_learner, rounded
from analysis.train.model.predictions import Rows, Subset
from models.bundle import combinations_of
from models.manifest import EndpointName, LearnerKind, significant

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
PENALTY_FOLDS = 5


@dataclass(frozen=True, eq=False)
class LearnerFit:
    """One learner of one modality and endpoint; `offset` and `scale` are its mean and SD out of fold.

    `out_of_fold`: its standardised scores of the rows that were fitted on; NaN where the modality cannot speak.
    """

    kind: LearnerKind
    recipe: Recipe
    model: Linear | Trees
    offset: float
    scale: float
    out_of_fold: Array

    def standardised(self, block: Block, rows: Rows) -> Array:
        """Standardised score of the given patients; NaN where the modality is not available."""
        return (raw_score(self.recipe, self.model, block, rows) - self.offset) / self.scale


@dataclass(frozen=True)
class Recalibrated:
    """Slope, Breslow baseline at whole months, and cut-off (median out of fold) of one combination."""

    slope: float
    hazard: Array
    cutoff: float


@dataclass(frozen=True)
class Fitted:
    """A whole model; keys are (modality, endpoint) and (combination, endpoint)."""

    learners: Mapping[tuple[str, EndpointName], tuple[LearnerFit, ...]]
    recalibration: Mapping[tuple[Subset, EndpointName], Recalibrated]

    def linear_predictor(self, blocks: Sequence[Block], subset: Subset, endpoint: EndpointName, rows: Rows) -> Array:
        """Recalibrated linear predictor; NaN where a modality of the subset is not available."""
        scores = {}
        for block in blocks:
            if block.modality in subset:
                parts = self.learners[block.modality, endpoint]
                scores[block.modality] = mean_score([part.standardised(block, rows) for part in parts])
        return self.recalibration[subset, endpoint].slope * fuse(scores, subset)

    def out_of_fold(self, modality: str, endpoint: EndpointName) -> Array:
        """A modality's standardised out-of-fold score of the rows that were fitted on, in their order."""
        return mean_score([part.out_of_fold for part in self.learners[modality, endpoint]])

    def event_probability(self, subset: Subset, endpoint: EndpointName, eta: Array, months: int) -> Array:
        """Probability of the event by a whole number of months."""
        hazard = self.recalibration[subset, endpoint].hazard[months]
        return np.asarray(-np.expm1(-hazard * np.exp(np.minimum(eta, 50.0))))


def raw_score(recipe: Recipe, model: Linear | Trees, block: Block, rows: Rows) -> Array:
    """A learner's own score of the given patients; NaN where the modality is not available."""
    found = np.full(len(rows), np.nan)
    there = block.available[rows]
    found[there] = model.predict(apply(recipe, block, rows[there]))
    return found


def mean_score(scores: Sequence[Array]) -> Array:
    """A modality's word: the mean of its learners' standardised scores."""
    return np.asarray(np.mean(scores, axis=0))


def fuse(scores: Mapping[str, Array], subset: Subset) -> Array:
    """Equal-weight mean of the scores of a combination."""
    return np.asarray(np.mean([scores[modality] for modality in subset], axis=0))


def subsets_of(blocks: Sequence[Block]) -> list[Subset]:
    """Every combination of the modalities, singles first, and each baseline alone."""
    modalities = tuple(block.modality for block in blocks if not block.baseline)
    return [*combinations_of(modalities), *((block.modality,) for block in blocks if block.baseline)]


def fit(
    blocks: Sequence[Block], outcomes: Mapping[EndpointName, Outcome], rows: Rows, settings: TrainingSection, seed: int
) -> Fitted:
    """Fit everything on `rows` (indices of distinct patients)."""
    learners: dict[tuple[str, EndpointName], tuple[LearnerFit, ...]] = {}
    recalibration: dict[tuple[Subset, EndpointName], Recalibrated] = {}
    for endpoint, outcome in outcomes.items():
        folds = stratified(outcome, rows, settings.folds, seed)
        for block in blocks:
            found = fit_block(block, outcome, rows, folds, settings, seed)
            learners[block.modality, endpoint] = chosen(found, outcome, rows, settings)
        scores = {
            block.modality: mean_score([part.out_of_fold for part in learners[block.modality, endpoint]])
            for block in blocks
        }
        for subset in subsets_of(blocks):
            recalibration[subset, endpoint] = recalibrate(
                fuse(scores, subset), outcome.time[rows], outcome.event[rows], max(outcome.horizons)
            )
    return Fitted(learners, recalibration)


def fit_block(
    block: Block, outcome: Outcome, rows: Rows, folds: Sequence[Rows], settings: TrainingSection, seed: int
) -> tuple[LearnerFit, ...]:
    """Every learner of a block on `rows`: columns chosen and standardised, and again in each fold for the scores."""
    recipe, models = _fit_models(block, outcome, rows, settings, seed)
    raw = np.full((len(models), len(rows)), np.nan)
    for fold in folds:
        inner_recipe, inner = _fit_models(block, outcome, np.delete(rows, fold), settings, seed)
        for position, model in enumerate(inner):
            raw[position, fold] = raw_score(inner_recipe, model, block, rows[fold])
    fits = []
    for kind, model, score in zip(block.learners, models, raw, strict=True):
        offset, scale = standardiser(score)
        fits.append(LearnerFit(kind, recipe, model, offset, scale, (score - offset) / scale))
    return tuple(fits)


def _fit_models(
    block: Block, outcome: Outcome, rows: Rows, settings: TrainingSection, seed: int
) -> tuple[Recipe, list[Linear | Trees]]:
    rows = rows[block.available[rows]]
    recipe = learn(block, rows, outcome, settings)
    x = apply(recipe, block, rows)
    mine = Outcome(outcome.time[rows], outcome.event[rows], outcome.horizons)
    folds = stratified(outcome, rows, PENALTY_FOLDS, seed + 1)
    return recipe, [fit_learner(kind, x, mine, folds, seed) for kind in block.learners]


def chosen(
    found: tuple[LearnerFit, ...], outcome: Outcome, rows: Rows, settings: TrainingSection
) -> tuple[LearnerFit, ...]:
    """All learners, or the one whose inner out-of-fold scores explain survival best."""
    if settings.choose == "mean" or len(found) == 1:
        return found
    return (max(found, key=lambda part: _gain(part.out_of_fold, outcome, rows)),)


def _gain(score: Array, outcome: Outcome, rows: Rows) -> float:
    """What a score adds to the partial log-likelihood, with its one best slope."""
    there = np.isfinite(score)
    time, event, score = outcome.time[rows][there], outcome.event[rows][there], score[there]
    slope = max(0.0, float(cox.fit(score[:, None], time, event, 1e-6)[0]))
    return cox.log_likelihood(slope * score, time, event) - cox.log_likelihood(np.zeros(len(score)), time, event)


def standardiser(raw: Array) -> tuple[float, float]:
    """Mean and SD of out-of-fold scores; 0 and 1 where they say nothing."""
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


def stratified(outcome: Outcome, rows: Rows, count: int, seed: int) -> list[Rows]:
    """Positions into `rows` by fold: patients sorted by event and time, dealt out in shuffled hands of `count`."""
    rng = np.random.default_rng([seed, 11, count])
    order = np.lexsort((outcome.time[rows], outcome.event[rows]))
    fold_of = np.empty(len(rows), int)
    for start in range(0, len(rows), count):
        hand = order[start : start + count]
        fold_of[hand] = rng.permutation(count)[: len(hand)]
    return [np.flatnonzero(fold_of == fold) for fold in range(count)]

"""Bootstrap refits of a fitted model: the rows behind the intervals.

Each resample draws patients with replacement. Coefficients are fitted again for the chosen columns and penalty,
and standardised out of fold, a patient and its copies always in one fold. Slope and baseline are fitted again on
the resampled out-of-fold scores of the original fit, where columns and penalty were chosen in each fold: on scores
of refits with the chosen columns, choosing would look like predicting.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from analysis.train import cox
from analysis.train.cohort import Outcome, TrainingSection
from analysis.train.design import Block, apply
from analysis.train.fit import Fitted, fuse, recalibrate, rounded, standardiser, stratified
from analysis.train.predictions import Subset
from models.bundle import combinations_of
from models.manifest import EndpointName, ModalityName

Array = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Refits:
    """Rows by (modality, endpoint) and (combination, endpoint), one per resample."""

    coefficients: dict[tuple[ModalityName, EndpointName], list[Array]] = field(default_factory=dict)
    standard: dict[tuple[ModalityName, EndpointName], list[tuple[float, float]]] = field(default_factory=dict)
    recalibration: dict[tuple[Subset, EndpointName], list[tuple[float, Array]]] = field(default_factory=dict)


def refit(
    fitted: Fitted,
    blocks: Sequence[Block],
    outcomes: Mapping[EndpointName, Outcome],
    settings: TrainingSection,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> Refits:
    """Refit on `settings.bootstrap` resamples; the same resample for every modality and endpoint."""
    count = len(next(iter(outcomes.values())).time)
    everyone = np.arange(count)
    designs = {
        key: _design(fitted, block, key, everyone)
        for block in blocks
        for endpoint in outcomes
        if (key := (block.modality, endpoint))
    }
    folds = {endpoint: _fold_of(outcome, everyone, settings, seed) for endpoint, outcome in outcomes.items()}
    rows = np.random.default_rng([seed, 21]).integers(0, count, (settings.bootstrap, count))
    refits = Refits()
    for number, drawn in enumerate(rows, start=1):
        for endpoint, outcome in outcomes.items():
            _one(refits, fitted, blocks, endpoint, outcome, designs, folds[endpoint], np.sort(drawn), settings)
        if progress:
            progress(number)
    return refits


def intervals(
    fitted: Fitted,
    refits: Refits,
    blocks: Sequence[Block],
    subset: Subset,
    endpoint: EndpointName,
    settings: TrainingSection,
) -> Array:
    """Limits of the predicted probability of every patient, shape (2, patients, horizons); NaN if not available."""
    everyone = np.arange(len(blocks[0].available))
    total = np.zeros((settings.bootstrap, len(everyone)))
    for block in blocks:
        if block.modality in subset:
            key = (block.modality, endpoint)
            offset, scale = np.array(refits.standard[key]).T
            raw = np.array(refits.coefficients[key]) @ _design(fitted, block, key, everyone).T
            total += (raw - offset[:, None]) / scale[:, None] / len(subset)
    rows = refits.recalibration[subset, endpoint]
    slope, hazard = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    risk = -np.expm1(-hazard[:, None, :] * np.exp(slope[:, None] * total)[:, :, None])
    tail = (1 - settings.interval_level) / 2
    return np.asarray(np.quantile(risk, [tail, 1 - tail], axis=0))


def _one(
    refits: Refits,
    fitted: Fitted,
    blocks: Sequence[Block],
    endpoint: EndpointName,
    outcome: Outcome,
    designs: Mapping[tuple[ModalityName, EndpointName], Array],
    fold_of: Rows,
    drawn: Rows,
    settings: TrainingSection,
) -> None:
    scores: dict[ModalityName, Array] = {}
    for block in blocks:
        key = (block.modality, endpoint)
        there = drawn[block.available[drawn]]
        model = fitted.cox[key]
        ratio = model.penalty / float(outcome.event[block.available].sum())
        beta = rounded(_fit(designs[key], outcome, there, ratio, model.beta))
        raw = np.full(len(drawn), np.nan)
        for fold in range(settings.folds):
            inside = fold_of[drawn] == fold
            inner = _fit(designs[key], outcome, there[fold_of[there] != fold], ratio, beta)
            raw[inside] = designs[key][drawn[inside]] @ inner
        offset, scale = standardiser(raw)
        scores[block.modality] = fitted.out_of_fold[key][drawn]
        refits.coefficients.setdefault(key, []).append(beta)
        refits.standard.setdefault(key, []).append((offset, scale))
    for subset in combinations_of(tuple(block.modality for block in blocks)):
        found = recalibrate(fuse(scores, subset), outcome.time[drawn], outcome.event[drawn], max(outcome.horizons))
        refits.recalibration.setdefault((subset, endpoint), []).append(
            (found.slope, found.hazard[list(outcome.horizons)])
        )


def _design(fitted: Fitted, block: Block, key: tuple[ModalityName, EndpointName], everyone: Rows) -> Array:
    """Design matrix of everyone; NaN where the modality is not available."""
    recipe = fitted.cox[key].recipe
    out = np.full((len(everyone), len(recipe.columns)), np.nan)
    out[block.available] = apply(recipe, block, everyone[block.available])
    return out


def _fit(design: Array, outcome: Outcome, rows: Rows, ratio: float, start: Array) -> Array:
    event = outcome.event[rows]
    return cox.fit(design[rows], outcome.time[rows], event, ratio * max(1.0, float(event.sum())), start)


def _fold_of(outcome: Outcome, everyone: Rows, settings: TrainingSection, seed: int) -> Rows:
    fold_of = np.empty(len(everyone), np.intp)
    for number, fold in enumerate(stratified(outcome, everyone, settings.folds, seed)):
        fold_of[fold] = number
    return fold_of

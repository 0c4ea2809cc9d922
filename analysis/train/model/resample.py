"""Bootstrap refits of a fitted model: the rows behind the intervals.

Each resample draws patients with replacement. Coefficients are fitted again for the chosen columns and penalty,
and standardised out of fold, a patient and its copies always in one fold; a forest is planted again, smaller, and
keeps its standardising. Slope and baseline are fitted again on the resampled out-of-fold scores of the original
fit, where columns and penalty were chosen in each fold: on scores of refits with the chosen columns, choosing
would look like predicting.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from analysis.learner import link
from analysis.train.data.cohort import Outcome, TrainingSection
from analysis.train.model.design import Block, apply
from analysis.train.model.fit import Fitted, LearnerFit, fuse, recalibrate, standardiser, stratified, subsets_of
from analysis.train.model.learners import REFIT_TREES, Linear, Trees, joined, plant, refit_linear, rounded
from analysis.train.model.predictions import Subset
from models.forest import Forest
from models.manifest import EndpointName

Array = NDArray[np.float64]
Rows = NDArray[np.intp]
LearnerKey = tuple[str, EndpointName, int]  # modality, endpoint, position among the modality's learners


@dataclass(frozen=True)
class Refits:
    """Rows by learner and by (combination, endpoint), one per resample; `trees` are the forests of the refits."""

    coefficients: dict[LearnerKey, list[Array]] = field(default_factory=dict)
    trees: dict[LearnerKey, list[Forest]] = field(default_factory=dict)
    standard: dict[LearnerKey, list[tuple[float, float]]] = field(default_factory=dict)
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
    folds = {endpoint: _fold_of(outcome, everyone, settings, seed) for endpoint, outcome in outcomes.items()}
    designs = {
        (block.modality, endpoint): _design(fitted.learners[block.modality, endpoint][0], block, everyone)
        for block in blocks
        for endpoint in outcomes
    }
    refits = Refits()
    rows = np.random.default_rng([seed, 21]).integers(0, count, (settings.bootstrap, count))
    for number, unsorted in enumerate(rows, start=1):
        drawn = np.sort(unsorted)
        for endpoint, outcome in outcomes.items():
            for block in blocks:
                there = drawn[block.available[drawn]]
                part = _Resample(
                    designs[block.modality, endpoint][there],
                    Outcome(outcome.time[there], outcome.event[there], outcome.horizons),
                    folds[endpoint][there],
                    seed,
                    number,
                )
                for position, learner in enumerate(fitted.learners[block.modality, endpoint]):
                    _refit_learner(refits, (block.modality, endpoint, position), learner, part)
            _recalibrations(refits, fitted, blocks, endpoint, outcome, drawn)
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
            parts = fitted.learners[block.modality, endpoint]
            for position, part in enumerate(parts):
                key = (block.modality, endpoint, position)
                offset, scale = np.array(refits.standard[key]).T
                raw = _raw_rows(refits, key, part, _design(part, block, everyone), settings.bootstrap)
                total += (raw - offset[:, None]) / scale[:, None] / (len(subset) * len(parts))
    rows = refits.recalibration[subset, endpoint]
    slope, hazard = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    risk = -np.expm1(-hazard[:, None, :] * np.exp(slope[:, None] * total)[:, :, None])
    tail = (1 - settings.interval_level) / 2
    return np.asarray(np.quantile(risk, [tail, 1 - tail], axis=0))


def forest_of(part: LearnerFit, refits: Refits, key: LearnerKey) -> Forest:
    """The model's trees with those of its refits, as the bundle holds them."""
    assert isinstance(part.model, Trees)
    return joined([part.model.forest, *refits.trees.get(key, [])])


def _raw_rows(refits: Refits, key: LearnerKey, part: LearnerFit, design: Array, count: int) -> Array:
    """Raw score of everyone by every refit, shape (refits, patients)."""
    if isinstance(part.model, Linear):
        return np.array(refits.coefficients[key]) @ design.T
    forest = forest_of(part, refits, key)
    known = np.isfinite(design).all(axis=1)
    out = np.full((count, len(design)), np.nan)
    out[:, known] = link(part.kind, forest.means(design[known], count)[:, 1:]).T
    return out


@dataclass(frozen=True, eq=False)
class _Resample:
    """The drawn patients who have a modality, with repetition: design rows, outcome and fold of each."""

    design: Array
    outcome: Outcome
    fold_of: Rows
    seed: int
    number: int

    def part(self, keep: NDArray[np.bool_]) -> tuple[Array, Outcome]:
        outcome = self.outcome
        return self.design[keep], Outcome(outcome.time[keep], outcome.event[keep], outcome.horizons)


def _refit_learner(refits: Refits, key: LearnerKey, learner: LearnerFit, drawn: _Resample) -> None:
    if isinstance(learner.model, Trees):
        planted = plant(learner.kind, drawn.design, drawn.outcome, REFIT_TREES, drawn.seed + drawn.number, drawn.number)
        refits.trees.setdefault(key, []).append(planted)
        refits.standard.setdefault(key, []).append((learner.offset, learner.scale))
        return
    model = learner.model

    def fitted(x: Array, outcome: Outcome, start: Array) -> Array:
        # A Cox penalty is per event, a logistic one per patient: only the first changes with the resample.
        events = max(1.0, float(outcome.event.sum()))
        penalty = model.penalty / model.events * events if learner.kind == "cox" else model.penalty
        return refit_linear(learner.kind, x, outcome, penalty, start)

    beta = rounded(fitted(drawn.design, drawn.outcome, model.beta))
    raw = np.full(len(drawn.design), np.nan)
    for fold in np.unique(drawn.fold_of):
        inside = drawn.fold_of == fold
        raw[inside] = drawn.design[inside] @ fitted(*drawn.part(~inside), beta)
    refits.coefficients.setdefault(key, []).append(beta)
    refits.standard.setdefault(key, []).append(standardiser(raw))


def _recalibrations(
    refits: Refits,
    fitted: Fitted,
    blocks: Sequence[Block],
    endpoint: EndpointName,
    outcome: Outcome,
    drawn: Rows,
) -> None:
    scores = {block.modality: fitted.out_of_fold(block.modality, endpoint)[drawn] for block in blocks}
    for subset in subsets_of(blocks):
        found = recalibrate(fuse(scores, subset), outcome.time[drawn], outcome.event[drawn], max(outcome.horizons))
        refits.recalibration.setdefault((subset, endpoint), []).append(
            (found.slope, found.hazard[list(outcome.horizons)])
        )


def _design(part: LearnerFit, block: Block, everyone: Rows) -> Array:
    """Design matrix of everyone; NaN where the modality is not available."""
    out = np.full((len(everyone), len(part.recipe.columns)), np.nan)
    out[block.available] = apply(part.recipe, block, everyone[block.available])
    return out


def _fold_of(outcome: Outcome, everyone: Rows, settings: TrainingSection, seed: int) -> Rows:
    fold_of = np.empty(len(everyone), np.intp)
    for number, fold in enumerate(stratified(outcome, everyone, settings.folds, seed)):
        fold_of[fold] = number
    return fold_of

"""Learners of one modality: what is fitted to standardised columns and survival, and gives one score per patient.

Linear kinds end as coefficients, forests as plain arrays (`models.forest`); nothing of scikit-learn or
scikit-survival is kept. A higher score is a higher risk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.learner import link
from analysis.train.data.cohort import Outcome
from analysis.train.judging import metrics
from analysis.train.model import cox
from analysis.train.model.predictions import Rows
from models.forest import MAXIMUM_DEPTH, Forest
from models.manifest import LearnerKind, significant

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
# Ridge penalties as multiples of the number of events: from nearly none to nearly all.
PENALTIES = (5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # inverse penalties of the logistic, per patient
TREES, REFIT_TREES = 120, 26
# Patients in a leaf: what randomForestSRC and probability forests (Malley 2012) take where nothing is tuned.
LEAST_LEAF: Mapping[LearnerKind, int] = {"survival-forest": 15, "ipcw-forest": 10}


@dataclass(frozen=True, eq=False)
class Linear:
    """Coefficients of the columns; `penalty`, and the `events` it was chosen on, are kept for refits."""

    beta: Array
    penalty: float
    events: float

    def predict(self, x: Array) -> Array:
        """Linear predictor, shape (rows,)."""
        return np.asarray(x @ self.beta)


@dataclass(frozen=True, eq=False)
class Trees:
    """A forest of one kind."""

    kind: LearnerKind
    forest: Forest

    def predict(self, x: Array) -> Array:
        """Score through the kind's link, shape (rows,)."""
        return link(self.kind, self.forest.means(x, 0)[:, 0])


def fit_learner(kind: LearnerKind, x: Array, outcome: Outcome, folds: Sequence[Rows], seed: int) -> Linear | Trees:
    """Fit one learner.

    Parameters
    ----------
    x : shape (patients, columns), standardised
    outcome : of the same patients
    folds : positions by inner fold, for the choice of a penalty
    """
    if kind == "cox":
        penalty = choose_penalty(x, outcome.time, outcome.event, folds)
        beta = rounded(cox.fit(x, outcome.time, outcome.event, penalty))
        return Linear(beta, penalty, float(outcome.event.sum()))
    if kind == "ipcw-logistic":
        return _logistic(x, outcome, folds)
    return Trees(kind, plant(kind, x, outcome, TREES, seed))


def choose_penalty(x: Array, time: Array, event: Bools, folds: Sequence[Rows]) -> float:
    """The penalty of largest cross-validated partial likelihood (Verweij and van Houwelingen 1993)."""
    total = np.zeros(len(PENALTIES))
    everyone = cox.RiskSets(time, event)
    for fold in folds:
        keep = np.ones(len(time), bool)
        keep[fold] = False
        kept, events, beta = cox.RiskSets(time[keep], event[keep]), float(event[keep].sum()), None
        for position, ratio in enumerate(PENALTIES):
            beta = cox.fit_sorted(x[keep], kept, ratio * events, beta)
            eta = x @ beta
            total[position] += everyone.log_likelihood(eta) - kept.log_likelihood(eta[keep])
    return significant(PENALTIES[int(total.argmax())] * float(event.sum()))


def refit_linear(kind: LearnerKind, x: Array, outcome: Outcome, penalty: float, start: Array | None) -> Array:
    """The same linear kind with a known penalty, as a bootstrap refit needs it."""
    if kind == "cox":
        return cox.fit(x, outcome.time, outcome.event, penalty, start)
    return _logistic_at(x, outcome, penalty)


def rounded(values: Array) -> Array:
    """To the digits that are stored, so that a bundle and the training that made it agree."""
    return np.array([significant(float(value)) for value in values])


# IPCW classification ------------------------------------------------------------------------------------------


def horizons_of(outcome: Outcome) -> list[int]:
    """The horizons at which a classifier has cases and controls to learn from; the best one if none has enough.

    It learns at all of them and says the mean, since one score serves every horizon: on two public cohorts that was
    as good at the first horizon as learning there alone, and better at the last one (`benchmarks.science`).
    """

    def smaller_side(months: int) -> int:
        case, weight = metrics.weights(outcome.time, outcome.event, months)
        return min(int((case & (weight > 0)).sum()), int((~case & (weight > 0)).sum()))

    found = [months for months in outcome.horizons if smaller_side(months) >= metrics.ENOUGH]
    return found or [max(outcome.horizons, key=smaller_side)]


def _classes(outcome: Outcome) -> list[tuple[Bools, Array]]:
    """For each horizon who has the event by then, and the IPCW weight: those censored before are neither."""
    return [metrics.weights(outcome.time, outcome.event, months) for months in horizons_of(outcome)]


def _two(case: Bools, weight: Array) -> bool:
    return len(np.unique(case[weight > 0])) == 2


def _logistic(x: Array, outcome: Outcome, folds: Sequence[Rows]) -> Linear:
    """Ridge logistic regression; the penalty of least cross-validated weighted log loss over all horizons."""
    loss = np.zeros(len(STRENGTHS))
    for case, weight in _classes(outcome):
        for fold in folds:
            keep = np.ones(len(case), bool)
            keep[fold] = False
            if not _two(case[keep], weight[keep]):
                continue
            seen = fold[weight[fold] > 0]
            for position, strength in enumerate(STRENGTHS):
                model = _fitted_logistic(x[keep], case[keep], weight[keep], strength)
                eta = x[seen] @ model.coef_[0] + float(model.intercept_[0])
                loss[position] += float(weight[seen] @ np.logaddexp(0, np.where(case[seen], -eta, eta)))
    strength = STRENGTHS[int(loss.argmin())]
    return Linear(rounded(_logistic_at(x, outcome, strength)), strength, float(outcome.event.sum()))


def _logistic_at(x: Array, outcome: Outcome, strength: float) -> Array:
    """Mean of the horizons' coefficients; zeros where no horizon has two classes."""
    found = [
        _fitted_logistic(x, case, weight, strength).coef_[0] for case, weight in _classes(outcome) if _two(case, weight)
    ]
    return np.asarray(np.mean(found, axis=0), np.float64) if found else np.zeros(x.shape[1])


def _fitted_logistic(x: Array, case: Bools, weight: Array, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 (a second of imports, only with this learner)

    seen = weight > 0
    model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-8)
    return model.fit(x[seen], case[seen], sample_weight=weight[seen])


# Forests ------------------------------------------------------------------------------------------------------


def plant(kind: LearnerKind, x: Array, outcome: Outcome, trees: int, seed: int, rows: int = 0) -> Forest:
    """Grow a forest and take it apart into plain arrays, all trees in row `rows`."""
    grown = _survival_trees if kind == "survival-forest" else _classification_trees
    parts = grown(x, outcome, trees, seed)
    return _plain(parts, rows) if parts else _silent(rows)


def joined(parts: Sequence[Forest]) -> Forest:
    """Several forests as one, nodes renumbered."""
    offsets = np.cumsum([0, *(len(part.feature) for part in parts[:-1])])

    def moved(name: str) -> NDArray[np.int32]:
        arrays = [getattr(part, name) + offset for part, offset in zip(parts, offsets, strict=True)]
        return np.concatenate(arrays).astype(np.int32)

    return Forest(
        roots=moved("roots"),
        rows=np.concatenate([part.rows for part in parts]),
        feature=np.concatenate([part.feature for part in parts]),
        threshold=np.concatenate([part.threshold for part in parts]),
        left=moved("left"),
        right=moved("right"),
        value=np.concatenate([part.value for part in parts]),
    )


def _survival_trees(x: Array, outcome: Outcome, trees: int, seed: int) -> list[tuple[Any, Array]]:
    """Random survival forest (Ishwaran 2008); a leaf's value is its mean cumulative hazard over the event times.

    The mean and not the sum, the usual mortality: that grows with the number of event times, so scores of forests
    planted on fewer patients would not be on one scale with those of the whole. Times count in whole months begun,
    which halves the work of every split and says what the data can say.
    """
    from sksurv.ensemble import RandomSurvivalForest  # noqa: PLC0415
    from sksurv.util import Surv  # noqa: PLC0415

    if not outcome.event.any():
        return []
    least = LEAST_LEAF["survival-forest"]
    forest = RandomSurvivalForest(
        trees, min_samples_leaf=least, max_depth=MAXIMUM_DEPTH, low_memory=True, random_state=seed, n_jobs=1
    )
    forest.fit(x, Surv.from_arrays(outcome.event, np.ceil(outcome.time)))
    times = int(forest.is_event_time_.sum())
    return [(estimator.tree_, estimator.tree_.value[:, 0, 0] / times) for estimator in forest.estimators_]


def _classification_trees(x: Array, outcome: Outcome, trees: int, seed: int) -> list[tuple[Any, Array]]:
    """Random forests for the event by each horizon, weighted for censoring; a leaf's value is its probability."""
    classes = [(case, weight) for case, weight in _classes(outcome) if _two(case, weight)]
    return [
        (estimator.tree_, estimator.tree_.value[:, 0, 1])
        for case, weight in classes
        for estimator in _fitted_forest(x, case, weight, -(-trees // len(classes)), seed)
    ]


def _fitted_forest(x: Array, case: Bools, weight: Array, trees: int, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415

    seen = weight > 0
    least = LEAST_LEAF["ipcw-forest"]
    model = RandomForestClassifier(trees, min_samples_leaf=least, max_depth=MAXIMUM_DEPTH, random_state=seed, n_jobs=1)
    return model.fit(x[seen], case[seen], sample_weight=weight[seen])


def _silent(row: int) -> Forest:
    """One leaf for everybody: where training saw no event, or only one class, there is nothing to tell apart."""
    nowhere = np.zeros(1, np.int32)
    return Forest(nowhere, np.full(1, row, np.int32), np.zeros(1, np.int16), np.zeros(1), nowhere, nowhere, np.zeros(1))


def _plain(parts: Sequence[tuple[Any, Array]], row: int) -> Forest:
    """The nodes of all trees one after another."""
    sizes = [tree.node_count for tree, _ in parts]
    roots = np.cumsum([0, *sizes[:-1]])
    offset, here = np.repeat(roots, sizes), np.arange(sum(sizes))

    def all_of(name: str) -> Array:
        return np.concatenate([getattr(tree, name) for tree, _ in parts])

    leaf = all_of("children_left") < 0
    left = np.where(leaf, here, all_of("children_left") + offset)
    right = np.where(leaf, here, all_of("children_right") + offset)
    value = np.concatenate([value for _, value in parts]).astype(np.float64)
    return Forest(
        roots=roots.astype(np.int32),
        rows=np.full(len(parts), row, np.int32),
        feature=np.where(leaf, 0, all_of("feature")).astype(np.int16),
        threshold=np.where(leaf, 0.0, all_of("threshold")),
        left=left.astype(np.int32),
        right=right.astype(np.int32),
        value=_inner_values(roots, left, right, value, all_of("weighted_n_node_samples")),
    )


def _inner_values(roots: Rows, left: Rows, right: Rows, value: Array, patients: Array) -> Array:
    """Leaves keep their value; a node above has the mean of its leaves by the patients in them."""
    levels = [roots]
    while (inner := levels[-1][left[levels[-1]] != levels[-1]]).size:
        levels[-1] = inner
        levels.append(np.concatenate([left[inner], right[inner]]))
    out = value.copy()
    for level in reversed(levels[:-1]):
        share = patients[left[level]] / patients[level]
        out[level] = share * out[left[level]] + (1 - share) * out[right[level]]
    return out

"""What the trainer adds to the figures of validation: features, stability, null, learners, sites. For metrics.json."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from analysis.feature_names import label_of
from analysis.train.data.cohort import Outcome
from analysis.train.judging import judge
from analysis.train.judging.predicted import predicted
from analysis.train.judging.ranking import concordance, within_folds
from analysis.train.model.design import LEAST_REPEATED, Block, repeated, stability
from analysis.train.model.fit import LearnerFit, stratified, subsets_of
from analysis.train.model.learners import Linear
from analysis.train.model.trained import Trained


def findings(trained: Trained) -> dict[str, Any]:
    """Keys of metrics.json beside the judged predictions; a key stands only where there is something to say."""
    settings = trained.cohort.file.training
    found: dict[str, Any] = {
        "features": list(_features(trained)),
        "learners": list(_learners(trained)),
        "procedure": {
            "learners": {block.modality: list(block.learners) for block in trained.blocks},
            "choose": settings.choose,
            "permutations": settings.permutations,
            "least_icc": settings.least_icc,
            "horizons_months": {name: list(outcome.horizons) for name, outcome in trained.cohort.outcomes.items()},
        },
    }
    if trained.null.permutations:
        found["null"] = _null(trained)
    if (repeated := _stability(trained)) is not None:
        found["stability"] = repeated
    if trained.sites:
        found["sites"] = list(_sites(trained))
    return found


def _features(trained: Trained) -> Iterator[dict[str, Any]]:
    """Every feature of the full model: its weight, how much it moves the score, and how surely it was chosen."""
    everyone = np.arange(len(trained.cohort))
    full = trained.subsets[-1]
    for block in trained.blocks:
        icc = stability(block, everyone)
        for endpoint in trained.cohort.outcomes:
            slope = trained.fitted.recalibration[full, endpoint].slope
            parts = trained.fitted.learners[block.modality, endpoint]
            chosen = trained.nested.selected[block.modality, endpoint]
            for name, weight in _weights(parts).items():
                label = block.predictors[name].label if name in block.predictors else None
                yield {
                    "name": name,
                    "label": label or (name if name in block.predictors else label_of(name)),
                    "modality": block.modality,
                    "endpoint": endpoint,
                    "coefficient": slope * weight[0] / len(full),
                    "importance": slope * weight[1] / len(full),
                    "selected_share": chosen.get(name, 0.0),
                    "icc": None if block.repeats is None else float(icc[block.names.index(name)]),
                }


def _weights(parts: tuple[LearnerFit, ...]) -> dict[str, tuple[float, float]]:
    """Coefficient per SD of the linear learners, and importance (SD of the contribution), by feature.

    Columns are standardised, so a coefficient's size is the SD of what it adds. A forest has no coefficient: its
    importance is the mean step at its splits on the feature, times how often a tree asks for it.
    """
    found: dict[str, tuple[float, float]] = {}
    for part in parts:
        columns = part.recipe.columns
        if isinstance(part.model, Linear):
            sizes = [(float(value), abs(float(value))) for value in part.model.beta]
        else:
            sizes = [(0.0, value) for value in _forest_sizes(part, len(columns))]
        for column, (value, size) in zip(columns, sizes, strict=True):
            before = found.get(column.feature, (0.0, 0.0))
            share = part.scale * len(parts)
            found[column.feature] = (before[0] + value / share, float(np.hypot(before[1], size / share)))
    return found


def _forest_sizes(part: LearnerFit, columns: int) -> list[float]:
    forest = part.model.forest  # type: ignore[union-attr]
    inner = np.flatnonzero(forest.left != np.arange(len(forest.left)))
    spread = np.abs(forest.value[forest.left[inner]] - forest.value[forest.right[inner]]) / 2
    total = np.bincount(forest.feature[inner], weights=spread, minlength=columns) / len(forest.roots)
    scale = max(float(total.sum()), 1e-12)
    return [float(value) * part.scale / scale for value in total]


def _learners(trained: Trained) -> Iterator[dict[str, Any]]:
    """How well each learner of a modality does in the inner folds, and how often it was kept in the outer ones."""
    for block in trained.blocks:
        for endpoint, outcome in trained.cohort.outcomes.items():
            for part in trained.fitted.learners[block.modality, endpoint]:
                yield {
                    "modality": block.modality,
                    "endpoint": endpoint,
                    "learner": part.kind,
                    "concordance": _inner_concordance(trained, part, outcome),
                    "kept": trained.nested.inner_learners.get((block.modality, endpoint, part.kind), 0.0),
                }


def _inner_concordance(trained: Trained, part: LearnerFit, outcome: Outcome) -> float:
    """Mean concordance within the inner folds of the final fit."""
    everyone, settings = np.arange(len(trained.cohort)), trained.cohort.file.training
    found = []
    for fold in stratified(outcome, everyone, settings.folds, trained.cohort.file.cohort.seed):
        inside = fold[np.isfinite(part.out_of_fold[fold])]
        found.append(concordance(part.out_of_fold[inside], outcome.time[inside], outcome.event[inside]))
    return float(np.mean(found))


def _null(trained: Trained) -> dict[str, Any]:
    lines = []
    for subset in subsets_of((*trained.blocks, *trained.baselines)):
        for endpoint, outcome in trained.cohort.outcomes.items():
            observed = within_folds(trained.repeats[:1], subset, endpoint, outcome)  # one repeat, as each permutation
            values = trained.null.concordance[subset, endpoint]
            lines.append(
                {
                    "name": " + ".join(subset),
                    "endpoint": endpoint,
                    "concordance_mean": float(values.mean()),
                    "concordance_95": float(np.quantile(values, 0.95)),
                    "observed": observed,
                    "reached": int((values >= observed).sum()),
                    "p": trained.null.p_value((subset, endpoint), observed),
                }
            )
    return {"permutations": trained.null.permutations, "models": lines}


def _stability(trained: Trained) -> dict[str, Any] | None:
    measured = [block for block in trained.blocks if block.repeats is not None]
    if not measured:
        return None
    least = trained.cohort.file.training.least_icc
    everyone = np.arange(len(trained.cohort))
    repeats = measured[0].repeats
    assert repeats is not None
    patients = int(repeated(repeats).sum())
    return {
        "patients": patients,
        "enough": patients >= LEAST_REPEATED,
        "perturbations": repeats.shape[1],
        "threshold": least,
        "features": sum(len(block.names) for block in measured),
        "kept": sum(int((stability(block, everyone) >= least).sum()) for block in measured),
        "by_modality": [_stable(block, least) for block in measured],
    }


def _stable(block: Block, least: float) -> dict[str, Any]:
    icc = stability(block, np.arange(len(block.available)))
    return {
        "modality": block.modality,
        "features": len(icc),
        "kept": int((icc >= least).sum()),
        "median": float(np.median(icc)),
    }


def _sites(trained: Trained) -> Iterator[dict[str, Any]]:
    """Each hospital judged by a model of all the others (internal-external validation)."""
    full = trained.subsets[-1]
    keep = ("patients", "events", "enough", "auc", "auc_lower", "auc_upper", "observed_expected")
    for site, prediction in trained.sites.items():
        for endpoint, outcome in trained.cohort.outcomes.items():
            given = predicted([prediction], full, endpoint, outcome)
            for column, months in enumerate(outcome.horizons):
                figures = judge.horizon_figures(given, column)
                yield {
                    "site": site,
                    "endpoint": endpoint,
                    "horizon_months": months,
                    **{key: figures[key] for key in keep if key in figures},
                }

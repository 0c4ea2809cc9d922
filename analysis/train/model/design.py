"""From values to design columns, learned on training rows alone: imputation, transform, selection, scaling."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from analysis.train.data.cohort import Cohort, CohortError, Outcome, PredictorSection, TrainingSection
from analysis.train.model import cox
from models.manifest import Column, LearnerKind, ModalityName, significant

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.intp]
Z_LIMIT = 5.0
SKEWED = 0.5
SAME_VALUE_SHARE = 0.95


SIZE, CONTROL = "size", "random encoder"  # baselines beside the modalities
# Of a measurement repeated on few patients an ICC says nothing: then no feature is left out for it.
LEAST_REPEATED = 10
LARGEST_GAP = 0.1  # share of training patients for whom a feature may be unknown


@dataclass(frozen=True)
class Block:
    """One modality's values for every patient: matrix (patients, features), NaN where unknown.

    Booleans are 0 or 1, categories the index into their list. `available`: the modality can speak. `repeats`
    (patients, perturbations, features) are the same features measured again. A baseline is judged beside the
    modalities and never combined with them.
    """

    modality: str
    names: tuple[str, ...]
    matrix: Array
    available: Bools
    predictors: Mapping[str, PredictorSection]
    always_keep: tuple[str, ...] = ()
    learners: tuple[LearnerKind, ...] = ("cox",)
    repeats: Array | None = None
    baseline: bool = False


@dataclass(frozen=True)
class Recipe:
    """What training rows taught: a fill for every clinical predictor, and the columns."""

    fills: Mapping[str, float]
    columns: tuple[Column, ...]


def blocks(cohort: Cohort) -> tuple[Block, ...]:
    """The modalities that a cohort has: clinical, radiomic, deep."""
    found = []
    file = cohort.file
    if file.clinical.predictors:
        found.append(_clinical_block(cohort))
    if cohort.radiomic_names:
        found.append(
            _image_block("radiomic", cohort, cohort.radiomic, file.radiomic.always_keep, file.radiomic.learners)
        )
    if cohort.deep_names:
        found.append(_image_block("deep", cohort, cohort.deep, (), file.deep.learners))
    return tuple(found)


def baselines(cohort: Cohort, modalities: Sequence[Block]) -> tuple[Block, ...]:
    """What every result is printed beside: the tumour's size alone, and an encoder that has learned nothing.

    Raises
    ------
    CohortError
        training.size names no predictor or feature.
    """
    found = []
    size = _size_of(cohort, modalities)
    if size is not None:
        block, index = size
        column = block.matrix[:, [index]]
        name = block.names[index]
        # Of a clinical block the whole row may be judged, the gaps filled; of images only what was measured.
        there = block.available if block.predictors else np.isfinite(column[:, 0])
        known = {name: block.predictors[name]} if block.predictors else {}
        found.append(Block(SIZE, (name,), column, there, known, (name,), baseline=True))
    if cohort.control.shape[1]:
        there = np.asarray(np.isfinite(cohort.control).any(axis=1))
        found.append(Block(CONTROL, cohort.deep_names, cohort.control, there, {}, baseline=True))
    return tuple(found)


def _size_of(cohort: Cohort, modalities: Sequence[Block]) -> tuple[Block, int] | None:
    wanted = cohort.file.training.size
    names = cohort.file.radiomic.always_keep if wanted is None else (wanted,)
    for name in names:
        for block in modalities:
            if name in block.names:
                section = block.predictors.get(name)
                if section is not None and section.type != "number":
                    raise CohortError(f"training.size names {name!r}, which is no number; name one, or leave it out")
                return block, block.names.index(name)
    if wanted is not None:
        raise CohortError(f"training.size names {wanted!r}, which is no predictor and no feature; correct it")
    return None


def _clinical_block(cohort: Cohort) -> Block:
    predictors = {section.name: section for section in cohort.file.clinical.predictors}
    matrix = np.full((len(cohort), len(predictors)), np.nan)
    for column, (name, section) in enumerate(predictors.items()):
        for row, values in enumerate(cohort.clinical):
            if name in values:
                matrix[row, column] = _coded(section, values[name])
    minimum = [list(predictors).index(name) for name in cohort.file.clinical.minimum]
    available = np.asarray(np.isfinite(matrix[:, minimum]).all(axis=1))
    learners = cohort.file.clinical.learners
    return Block("clinical", tuple(predictors), matrix, available, predictors, learners=learners)


def _image_block(
    modality: ModalityName, cohort: Cohort, matrix: Array, keep: tuple[str, ...], learners: tuple[LearnerKind, ...]
) -> Block:
    names = cohort.radiomic_names if modality == "radiomic" else cohort.deep_names
    available = np.asarray(np.isfinite(matrix).any(axis=1))
    return Block(modality, names, matrix, available, {}, keep, learners, cohort.repeats.get(modality))


def learn(block: Block, rows: Rows, outcome: Outcome, settings: TrainingSection) -> Recipe:
    """Columns of a modality from training rows; never sees another row.

    Raises
    ------
    CohortError
        No feature can be used.
    """
    rows = rows[block.available[rows]]
    recipe = _learn_clinical(block, rows) if block.predictors else _learn_image(block, rows, outcome, settings)
    if not recipe.columns:
        raise CohortError(
            f"{block.modality}: not one of {len(block.names)} features is complete, varies and repeats well enough to "
            "be used; look at the images and contours, lower training.least_icc, or leave this modality out"
        )
    return recipe


def _learn_image(block: Block, rows: Rows, outcome: Outcome, settings: TrainingSection) -> Recipe:
    picked = select(block, rows, outcome, settings)
    fills, columns = {}, []
    for index, log in picked:
        name, values = block.names[index], block.matrix[rows, index]
        # Always there from images; a table's own columns may have gaps, in these patients or in others.
        fills[name] = significant(float(np.nanmedian(values)))
        values = np.where(np.isnan(values), fills[name], values)
        columns.append(_column(name, np.log(values) if log else values, log))
    return Recipe(fills, tuple(columns))


def apply(recipe: Recipe, block: Block, rows: Rows) -> Array:
    """Standardised design matrix, shape (rows, columns)."""
    out = np.empty((len(rows), len(recipe.columns)))
    index = {name: position for position, name in enumerate(block.names)}
    for position, column in enumerate(recipe.columns):
        values = block.matrix[rows, index[column.feature]]
        if column.feature in recipe.fills:
            values = np.where(np.isnan(values), recipe.fills[column.feature], values)
        if column.level is not None:
            values = (values == block.predictors[column.feature].categories.index(column.level)).astype(float)
        elif column.transform == "log":
            values = np.log(np.maximum(values, 1e-12))
        z = (values - column.mean) / column.sd
        out[:, position] = z if column.limit is None else np.clip(z, -column.limit, column.limit)
    return out


def select(block: Block, rows: Rows, outcome: Outcome, settings: TrainingSection) -> list[tuple[int, bool]]:
    """Features to use, and whether by their logarithm.

    Constant, nearly constant, unstable and often unknown features go first; a few gaps take the median. Of the rest,
    those always kept come first and then the strongest in a univariate score test; one that correlates (Spearman)
    with one already in is left out; the number is held to one per `events_per_variable` events.
    """
    matrix = _filled(block.matrix[rows])
    kept = np.isin(block.names, block.always_keep)
    stable = stability(block, rows) >= settings.least_icc
    complete = np.isnan(block.matrix[rows]).mean(axis=0) <= LARGEST_GAP
    usable = [i for i in range(len(block.names)) if complete[i] and _varies(matrix[:, i]) and (stable[i] or kept[i])]
    values, logs = matrix[:, usable].copy(), []
    for position in range(len(usable)):
        logs.append(_skewed(values[:, position]))
        if logs[-1]:
            values[:, position] = np.log(values[:, position])
    strength = cox.score_statistics(
        (values - values.mean(axis=0)) / values.std(axis=0), outcome.time[rows], outcome.event[rows]
    )
    strength = np.where(kept[usable], np.inf, strength)
    ranks = rankdata(values, axis=0)
    ranks = (ranks - ranks.mean(axis=0)) / (ranks.std(axis=0) * np.sqrt(len(rows)))
    largest = max(1, int(outcome.event[rows].sum()) // settings.events_per_variable)
    chosen: list[int] = []
    for position in np.argsort(-strength, kind="stable"):
        if len(chosen) == largest:
            break
        if not chosen or np.abs(ranks[:, chosen].T @ ranks[:, position]).max() < settings.largest_correlation:
            chosen.append(int(position))
    return [(usable[position], logs[position]) for position in chosen]


def _filled(matrix: Array) -> Array:
    """Gaps take the column's median; a column without a value stays as it is."""
    if not np.isnan(matrix).any():
        return matrix
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without a value
        return np.where(np.isnan(matrix), np.nanmedian(matrix, axis=0), matrix)


def stability(block: Block, rows: Rows) -> Array:
    """ICC(1,1) of each feature over its repeats on the given patients, shape (features,); 1 where none can be said.

    One-way random effects (Shrout and Fleiss 1979): the share of the variance that is between patients.
    """
    if block.repeats is None:
        return np.ones(len(block.names))
    again = block.repeats[rows]
    there = repeated(again)
    if there.sum() < LEAST_REPEATED:
        return np.ones(len(block.names))
    values = np.concatenate([block.matrix[rows][there][:, None], again[there]], axis=1)
    patients, times = values.shape[:2]
    between = times * values.mean(axis=1).var(axis=0, ddof=1)
    within = values.var(axis=1, ddof=1).mean(axis=0)
    assert patients > 1
    icc = (between - within) / np.maximum(between + (times - 1) * within, 1e-300)
    return np.asarray(np.where(np.isfinite(icc), icc, 0.0))


def repeated(repeats: Array) -> Bools:
    """Patients who were measured again: every perturbation gave something."""
    return np.asarray(np.all(np.any(np.isfinite(repeats), axis=2), axis=1))


def _coded(section: PredictorSection, value: float | str) -> float:
    return float(section.categories.index(value)) if isinstance(value, str) else value


def _learn_clinical(block: Block, rows: Rows) -> Recipe:
    fills: dict[str, float] = {}
    columns: list[Column] = []
    for index, (name, section) in enumerate(block.predictors.items()):
        values = block.matrix[rows, index]
        present = values[np.isfinite(values)]
        if not present.size:
            fills[name] = 0.0
            continue
        fills[name] = _fill(section, present)
        values = np.where(np.isnan(values), fills[name], values)
        if section.type == "category":
            commonest = int(np.bincount(values.astype(int)).argmax())
            columns += [
                column
                for code, level in enumerate(section.categories)
                if code != commonest
                if (column := _level(name, level, values == code)) is not None
            ]
        elif np.ptp(values) > 0:
            columns.append(
                _column(
                    name,
                    np.log(values) if section.transform == "log" else values,
                    section.transform == "log",
                    held=section.type == "number",
                )
            )
    return Recipe(fills, tuple(columns))


def _fill(section: PredictorSection, present: Array) -> float:
    if section.type == "number":
        return significant(float(np.median(present)))
    return float(np.bincount(present.astype(int)).argmax())


def _column(name: str, values: Array, log: bool, held: bool = True) -> Column:
    return Column(
        feature=name,
        transform="log" if log else "none",
        mean=significant(float(values.mean())),
        sd=significant(float(values.std())),
        limit=Z_LIMIT if held else None,
    )


def _level(name: str, level: str, holds: Bools) -> Column | None:
    if not 0 < holds.mean() < 1:
        return None
    return Column(feature=name, level=level, mean=significant(float(holds.mean())), sd=significant(float(holds.std())))


def _varies(values: Array) -> bool:
    """Complete, and more than one value in any number: a constant has nothing to say and breaks the scaling."""
    if not np.isfinite(values).all() or float(np.ptp(values)) <= 1e-9 * max(1e-30, float(np.abs(values).max())):
        return False
    commonest = np.unique(values, return_counts=True)[1].max()
    return bool(commonest <= SAME_VALUE_SHARE * len(values))


def _skewed(values: Array) -> bool:
    if values.min() <= 0:
        return False
    z = (values - values.mean()) / values.std()
    return float(np.mean(z**3)) > SKEWED

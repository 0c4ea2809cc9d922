"""From values to design columns, learned on training rows alone: imputation, transform, selection, scaling."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from analysis.train import cox
from analysis.train.cohort import Cohort, Outcome, PredictorSection, TrainingSection
from models.manifest import Column, ModalityName, significant

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.intp]
Z_LIMIT = 5.0
SKEWED = 0.5
SAME_VALUE_SHARE = 0.95


@dataclass(frozen=True)
class Block:
    """One modality's values for every patient: matrix (patients, features), NaN where unknown.

    Booleans are 0 or 1, categories the index into their list. `available`: the modality can speak.
    """

    modality: ModalityName
    names: tuple[str, ...]
    matrix: Array
    available: Bools
    predictors: Mapping[str, PredictorSection]
    always_keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """What training rows taught: a fill for every clinical predictor, and the columns."""

    fills: Mapping[str, float]
    columns: tuple[Column, ...]


def blocks(cohort: Cohort) -> tuple[Block, ...]:
    """The modalities that a cohort has, clinical first."""
    found = []
    predictors = {section.name: section for section in cohort.file.clinical.predictors}
    if predictors:
        matrix = np.full((len(cohort), len(predictors)), np.nan)
        for column, (name, section) in enumerate(predictors.items()):
            for row, values in enumerate(cohort.clinical):
                if name in values:
                    matrix[row, column] = _coded(section, values[name])
        minimum = [list(predictors).index(name) for name in cohort.file.clinical.minimum]
        available = np.asarray(np.isfinite(matrix[:, minimum]).all(axis=1))
        found.append(Block("clinical", tuple(predictors), matrix, available, predictors))
    if cohort.radiomic_names:
        available = np.asarray(np.isfinite(cohort.radiomic).any(axis=1))
        found.append(
            Block("radiomic", cohort.radiomic_names, cohort.radiomic, available, {}, cohort.file.radiomic.always_keep)
        )
    return tuple(found)


def learn(block: Block, rows: Rows, outcome: Outcome, settings: TrainingSection) -> Recipe:
    """Columns of a modality from training rows; never sees another row."""
    rows = rows[block.available[rows]]
    if block.modality == "clinical":
        return _learn_clinical(block, rows)
    picked = select(block, rows, outcome, settings)
    columns = []
    for index, log in picked:
        values = block.matrix[rows, index]
        columns.append(_column(block.names[index], np.log(values) if log else values, log))
    return Recipe({}, tuple(columns))


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

    Constant, nearly constant and incomplete features go first. Of the rest, those always kept come first and then
    the strongest in a univariate score test; one that correlates (Spearman) with one already in is left out; the
    number is held to one per `events_per_variable` events.
    """
    matrix = block.matrix[rows]
    usable = [index for index in range(len(block.names)) if _varies(matrix[:, index])]
    values, logs = matrix[:, usable].copy(), []
    for position in range(len(usable)):
        logs.append(_skewed(values[:, position]))
        if logs[-1]:
            values[:, position] = np.log(values[:, position])
    strength = cox.score_statistics(
        (values - values.mean(axis=0)) / values.std(axis=0), outcome.time[rows], outcome.event[rows]
    )
    strength = np.where([block.names[index] in block.always_keep for index in usable], np.inf, strength)
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

"""One learner's word on one patient: its standardised score, the same of every refit, and each column's share in it.

Linear kinds are a sum over columns; a forest's score is the mean of its leaves through a link, and its shares are the
steps that each column makes on the way down the trees (Saabas 2014). Shares sum to the score, to the last bit but one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.forest import Forest
from models.manifest import FORESTS, Column, Learner, LearnerKind, LearnerRows

Array = NDArray[np.float64]
Value = float | str
_LEAST_HAZARD, _LEAST_PROBABILITY = 1e-6, 0.01


@dataclass(frozen=True)
class Said:
    """Standardised score, by refit (refits,), and shares by column (columns,) that sum to the score."""

    score: float
    rows: Array
    shares: Array


def say(learner: Learner, refits: LearnerRows, forest: Forest | None, values: Mapping[str, Value], count: int) -> Said:
    """What a learner says of a patient's values; `count` is the number of refits."""
    z = design_row(learner.columns, values)
    raw, raw_rows, parts = _linear(learner, refits, z) if forest is None else _forest(learner, forest, z, count)
    score = (raw - learner.offset) / learner.scale
    rows = (raw_rows - np.asarray(refits.offset)) / np.asarray(refits.scale) if count else np.empty(0)
    return Said(score, rows, parts / learner.scale)


def design_row(columns: Sequence[Column], values: Mapping[str, Value]) -> Array:
    """Standardised design row of one patient, shape (columns,)."""
    row = np.empty(len(columns))
    for index, column in enumerate(columns):
        value = values[column.feature]
        number = float(value == column.level) if column.level is not None else _transformed(column, float(value))
        z = (number - column.mean) / column.sd
        row[index] = z if column.limit is None else min(max(z, -column.limit), column.limit)
    return row


def link(kind: LearnerKind, mean: float | Array) -> Array:
    """From a forest's mean leaf value to a score on the scale of a log hazard."""
    if kind == "survival-forest":
        return np.asarray(np.log(np.maximum(mean, _LEAST_HAZARD)))
    held = np.clip(mean, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return np.asarray(np.log(held / (1 - held)))


def _transformed(column: Column, number: float) -> float:
    """The logarithm of what cannot be is a wild value: held at the column's limit and flagged out of range."""
    return number if column.transform == "none" else math.log(max(number, 1e-12))


def _linear(learner: Learner, refits: LearnerRows, z: Array) -> tuple[float, Array, Array]:
    """Raw score, of refits, and parts that sum to raw score less offset.

    The offset is taken off the columns in proportion to their squared coefficients, so each share is measured
    against a patient of average score and no remainder is left over.
    """
    beta = np.asarray(learner.coefficients)
    squares = float(beta @ beta)
    weights = beta**2 / squares if squares else np.full(len(beta), 1 / len(beta))
    rows = np.asarray(refits.coefficients) @ z if refits.coefficients else np.empty(0)
    return float(beta @ z), rows, beta * z - weights * learner.offset


def _forest(learner: Learner, forest: Forest, z: Array, count: int) -> tuple[float, Array, Array]:
    """As `_linear`; what the root already says, less the offset, is spread evenly over the columns."""
    assert learner.kind in FORESTS
    scores = link(learner.kind, forest.means(z, count))
    start, added = forest.path(z, len(z))
    raw = float(scores[0])
    parts = added * _secant(learner.kind, start, float(added.sum()))
    return raw, scores[1:], parts + (raw - learner.offset - float(parts.sum())) / len(z)


def _secant(kind: LearnerKind, start: float, total: float) -> float:
    """How steep the link is between the root's value and the leaf's; where the two nearly meet, just beside them."""
    least = 1e-6 * max(abs(start), _LEAST_HAZARD)
    step = total if abs(total) > least else least
    return float(link(kind, start + step) - link(kind, start)) / step

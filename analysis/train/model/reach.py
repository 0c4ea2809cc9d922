"""How far the training cohort reaches, per modality: what the out-of-distribution check of the job measures against.

A chi-squared limit would be too low, because the same patients shape the covariance: the limit is a quantile of
the distances of patients left out of the fit.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.outliers import distances
from analysis.train.model.design import Block, Recipe, apply
from analysis.train.model.fit import Fitted
from models.manifest import Column, EndpointName, ModalityName, Outliers, significant

Array = NDArray[np.float64]
FOLDS = 5
NOMINAL = 0.01  # of patients like those of the cohort are flagged
LARGEST = 40  # columns: more need more patients than a cohort has


def outliers_of(
    fitted: Fitted, blocks: Sequence[Block], endpoints: Sequence[EndpointName], seed: int
) -> tuple[Outliers, ...]:
    """The reach of every modality."""
    return tuple(_one(fitted, block, endpoints, seed) for block in blocks)


def _one(fitted: Fitted, block: Block, endpoints: Sequence[EndpointName], seed: int) -> Outliers:
    columns = _columns(fitted, block, endpoints)
    rows = np.flatnonzero(block.available)
    fills = {
        name: value
        for endpoint in endpoints
        for name, value in fitted.learners[block.modality, endpoint][0].recipe.fills.items()
    }
    z = apply(Recipe(fills, columns), block, rows)
    rng = np.random.default_rng([seed, 51])
    fold_of = rng.permutation(len(rows)) % FOLDS
    left_out = np.empty(len(rows))
    for fold in range(FOLDS):
        left_out[fold_of == fold] = distances(z[fold_of == fold], _precision(z[fold_of != fold]))
    precision = _precision(z)
    return Outliers(
        modality=_modality(block),
        columns=columns,
        precision=tuple(tuple(significant(float(value)) for value in row) for row in precision),
        limit=significant(float(np.quantile(left_out, 1 - NOMINAL))),
        nominal=NOMINAL,
    )


def _columns(fitted: Fitted, block: Block, endpoints: Sequence[EndpointName]) -> tuple[Column, ...]:
    """Every column that a learner uses, once, the first endpoint's first; not held at a limit, so that far is far."""
    found: dict[tuple[str, str | None], Column] = {}
    for endpoint in endpoints:
        for column in fitted.learners[block.modality, endpoint][0].recipe.columns:
            found.setdefault((column.feature, column.level), column.model_copy(update={"limit": None}))
    return tuple(found.values())[:LARGEST]


def _precision(z: Array) -> Array:
    from sklearn.covariance import LedoitWolf  # noqa: PLC0415 (a second of imports, and only here)

    return np.asarray(LedoitWolf(assume_centered=True).fit(z).precision_)


def _modality(block: Block) -> ModalityName:
    assert block.modality in ("clinical", "radiomic", "deep")
    return block.modality  # type: ignore[return-value]

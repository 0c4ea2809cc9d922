"""Harrell's C without an interval, for whatever only has to be ranked: predictors, inner folds, the null."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.train.data.cohort import Outcome
from analysis.train.judging import metrics
from analysis.train.judging.predicted import predicted
from analysis.train.model.predictions import OutOfFold, Subset
from models.manifest import EndpointName

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]


def concordance(values: Array, time: Array, event: Bools) -> float:
    """Share of comparable pairs that a value ranks rightly; 0.5 where no pair can be compared."""
    everyone = np.arange(len(time))
    found = float(metrics.ordered_pairs(values, time, event, event.astype(float), everyone).auc(np.ones(len(time))))
    return found if np.isfinite(found) else 0.5


def within_folds(repeats: Sequence[OutOfFold], subset: Subset, endpoint: EndpointName, outcome: Outcome) -> float:
    """Mean within-fold concordance of out-of-fold predictions over repeats."""
    given = predicted(repeats, subset, endpoint, outcome)
    return float(
        np.mean(
            [
                concordance(eta[fold], given.time[fold], given.event[fold])
                for eta, parts in zip(given.eta, given.folds, strict=True)
                for fold in parts
                if fold.size
            ]
        )
    )

"""The predictions of one combination for one endpoint beside what became of the patients: what judging reads.

Only patients who have a prediction are in it. The same view serves cross-validation (folds, repeats) and external
validation (one fold of everybody, one repeat).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from analysis.train.data.cohort import Outcome
from analysis.train.model.predictions import OutOfFold, Subset
from models.manifest import EndpointName

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.intp]
RESAMPLES = 500


@dataclass(frozen=True)
class Predicted:
    """Shapes: time and event (patients,); eta and high (repeats, patients); probability (repeats, patients, horizons).

    `folds[r]` are the folds of repeat r as positions among these patients, `rows` the patients' rows in the cohort.
    Scores are comparable within a fold. A score that is no probability (an oracle's rank, a volume) has NaN there.
    """

    rows: Rows
    time: Array
    event: Bools
    horizons: tuple[int, ...]
    folds: tuple[tuple[Rows, ...], ...]
    eta: Array
    probability: Array
    high: Bools

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, keep: Bools) -> "Predicted":
        """The same for some of the patients; `keep` has shape (patients,)."""
        position = np.cumsum(keep) - 1
        return replace(
            self,
            rows=self.rows[keep],
            time=self.time[keep],
            event=self.event[keep],
            folds=tuple(tuple(position[fold[keep[fold]]] for fold in folds) for folds in self.folds),
            eta=self.eta[:, keep],
            probability=self.probability[:, keep],
            high=self.high[:, keep],
        )


def predicted(repeats: Sequence[OutOfFold], subset: Subset, endpoint: EndpointName, outcome: Outcome) -> Predicted:
    """What a combination of modalities, or a baseline, says of an endpoint."""
    key = (subset, endpoint)
    everyone = Predicted(
        rows=np.arange(len(outcome.time)),
        time=outcome.time,
        event=outcome.event,
        horizons=outcome.horizons,
        folds=tuple(repeat.folds for repeat in repeats),
        eta=np.array([repeat.linear_predictor[key] for repeat in repeats]),
        probability=np.array([repeat.probability[key] for repeat in repeats]),
        high=np.array([repeat.high[key] for repeat in repeats]),
    )
    return everyone.only(np.asarray(np.all(np.isfinite(everyone.eta), axis=0)))


def scored(repeats: Sequence[OutOfFold], score: Array, outcome: Outcome) -> Predicted:
    """A score that needs no fit, shape (patients,), on the same folds; NaN where a patient has none."""
    eta = np.tile(score, (len(repeats), 1))
    everyone = Predicted(
        rows=np.arange(len(score)),
        time=outcome.time,
        event=outcome.event,
        horizons=outcome.horizons,
        folds=tuple(repeat.folds for repeat in repeats),
        eta=eta,
        probability=np.full((*eta.shape, len(outcome.horizons)), np.nan),
        high=np.zeros(eta.shape, bool),
    )
    return everyone.only(np.isfinite(score))


@lru_cache(maxsize=4)
def resamples(patients: int) -> Array:
    """How often each patient is drawn in each bootstrap resample, shape (RESAMPLES, patients)."""
    rng = np.random.default_rng([20250101, patients])
    return rng.multinomial(patients, np.full(patients, 1 / patients), RESAMPLES).astype(float)

"""Simulated predictions with a known truth, for the tests of how predictions are judged."""

import numpy as np

from analysis.train.data.cohort import Outcome
from analysis.train.judging.predicted import Predicted, predicted
from analysis.train.model.predictions import OutOfFold

SCALE = 20.0  # months, of an exponential time to the event at linear predictor 0


def outcome(eta: np.ndarray, rng: np.random.Generator, censoring: float, horizons: tuple[int, ...]) -> Outcome:
    """Exponential times with log hazard `eta`, and exponential censoring of the given mean, months."""
    death = SCALE * rng.standard_exponential(len(eta)) * np.exp(-eta)
    censored = rng.exponential(censoring, len(eta)) if np.isfinite(censoring) else np.full(len(eta), 600.0)
    return Outcome(np.minimum(death, censored), death <= censored, horizons)


def risk(eta: np.ndarray, months: float) -> np.ndarray:
    """True probability of the event by `months`."""
    return -np.expm1(-months / SCALE * np.exp(eta))


def out_of_fold(eta: np.ndarray, horizons: tuple[int, ...], folds: int = 1, repeats: int = 1) -> list[OutOfFold]:
    """The truth itself as the prediction of ("clinical",) for OS, dealt into folds."""
    key = (("clinical",), "OS")
    probability = np.column_stack([risk(eta, months) for months in horizons])
    found = []
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(len(eta))
        parts = tuple(np.sort(part) for part in np.array_split(order, folds))
        found.append(OutOfFold(parts, {key: eta}, {key: probability}, {key: eta > np.median(eta)}))
    return found


def perfect(
    count: int,
    seed: int,
    *,
    spread: float = 0.8,
    censoring: float = 60.0,
    folds: int = 1,
    repeats: int = 1,
    horizons: tuple[int, ...] = (12, 36),
) -> Predicted:
    """Patients judged by their true risk."""
    rng = np.random.default_rng(seed)
    eta = spread * rng.standard_normal(count)
    given = outcome(eta, rng, censoring, horizons)
    return predicted(out_of_fold(eta, horizons, folds, repeats), ("clinical",), "OS", given)

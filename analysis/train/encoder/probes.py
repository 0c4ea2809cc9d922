"""Linear probes: how much of a planted property a set of features tells, by ridge regression judged out of fold."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

Array = NDArray[np.float64]

PENALTIES = tuple(float(penalty) for penalty in 10.0 ** np.arange(-1, 6))
FOLDS = 5
FARTHEST_SD = 3.0
TARGETS = ("volume", "heterogeneity", "roughness")


def r_squared(features: Array, target: Array, repeats: int = 5, seed: int = 0) -> float:
    """Out-of-fold R^2 of a ridge regression, mean over repeats; the penalty is chosen within each training fold.

    Parameters
    ----------
    features : shape (patients, columns)
    target : shape (patients,)
    """
    total = float(np.square(target - target.mean()).sum())
    found = []
    for repeat in range(repeats):
        folds = KFold(FOLDS, shuffle=True, random_state=seed + repeat)
        # One odd patient must not decide: an untrained encoder's columns have long tails.
        clip = FunctionTransformer(np.clip, kw_args={"a_min": -FARTHEST_SD, "a_max": FARTHEST_SD})
        model = make_pipeline(StandardScaler(), clip, RidgeCV(PENALTIES))
        error = float(np.square(cross_val_predict(model, features, target, cv=folds) - target).sum())
        found.append(1 - error / total)
    return float(np.mean(found))


def planted(truth: Path) -> tuple[tuple[str, ...], dict[str, Array]]:
    """Patients of a synthetic cohort's truth.json and what was planted in each: log volume, and two latents in SD."""
    patients = json.loads(truth.read_text())["patients"]
    columns = {
        "volume": [np.log(values["volume_ml"]) for values in patients.values()],
        "heterogeneity": [values["heterogeneity"] for values in patients.values()],
        "roughness": [values["roughness"] for values in patients.values()],
    }
    return tuple(patients), {name: np.asarray(values, np.float64) for name, values in columns.items()}


def table(features: Mapping[str, Array], targets: Mapping[str, Array]) -> dict[str, dict[str, float]]:
    """R^2 by set of features and target."""
    return {
        name: {target: r_squared(values, wanted) for target, wanted in targets.items()}
        for name, values in features.items()
    }

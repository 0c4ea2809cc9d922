"""The curves of a report at one horizon: ROC, calibration, decision curve. From the first repeat.

The ROC is the mean of the folds' curves, as the AUC is the mean of the folds' areas. Calibration and decision
curves read probabilities, which are on one scale whoever's model said them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.train.judging import km, metrics
from analysis.train.judging.metrics import survival_curve
from analysis.train.judging.predicted import Predicted

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
ROC_POINTS = 100
MOST_GROUPS = 10
LEAST_IN_GROUP = 15
THRESHOLDS = np.round(np.arange(0.02, 0.99, 0.02), 2)


def curves(given: Predicted, column: int) -> dict[str, Any] | None:
    """The three curves at one horizon; None where too few patients remain to say."""
    months = given.horizons[column]
    case, weight = metrics.weights(given.time, given.event, months)
    if not metrics.enough(case, weight):
        return None
    return {
        "horizon_months": months,
        "roc": roc(given, case, weight),
        "calibration": calibration(given, column),
        "decision": decision(given, column),
    }


def roc(given: Predicted, case: Bools, weight: Array) -> list[list[float]]:
    """Points (false positive rate, true positive rate), cases weighted for censoring."""
    grid = np.linspace(0, 1, ROC_POINTS)
    found = []
    for fold in given.folds[0]:
        cases, controls = fold[case[fold] & (weight[fold] > 0)], fold[~case[fold] & (weight[fold] > 0)]
        if len(cases) and len(controls):
            found.append(np.interp(grid, *_one_roc(given.eta[0], cases, controls, weight)))
    mean = np.minimum(np.mean(found, axis=0), 1.0) if found else grid
    return [[0.0, 0.0], *np.column_stack([grid, mean]).tolist()]


def _one_roc(score: Array, cases: NDArray[np.intp], controls: NDArray[np.intp], weight: Array) -> tuple[Array, Array]:
    cuts = np.unique(score[np.concatenate([cases, controls])])[::-1]
    false = (score[controls][None, :] >= cuts[:, None]).mean(axis=1)
    true = (score[cases][None, :] >= cuts[:, None]) @ weight[cases] / weight[cases].sum()
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def calibration(given: Predicted, column: int) -> list[dict[str, Any]]:
    """Groups of rising predicted risk, at most ten: mean predicted risk beside the Kaplan-Meier risk."""
    probability = given.probability[0, :, column]
    count = int(np.clip(len(given) // LEAST_IN_GROUP, 2, MOST_GROUPS))
    edges = np.quantile(probability, np.linspace(0, 1, count + 1)[1:-1])
    group = np.searchsorted(edges, probability, side="right")
    found = []
    for number in np.unique(group):
        inside = group == number
        observed = km.risk_at(given.time[inside], given.event[inside], given.horizons[column])
        value, lower, upper = observed if observed is not None else (None, None, None)
        found.append(
            {
                "predicted": float(probability[inside].mean()),
                "observed": value,
                "lower": lower,
                "upper": upper,
                "patients": int(inside.sum()),
            }
        )
    return found


def decision(given: Predicted, column: int) -> dict[str, Any]:
    """Net benefit of acting above each threshold of risk, of acting on everyone, and of acting on no one.

    With censoring, the risk among those above the threshold is their Kaplan-Meier risk (Vickers 2008).
    """
    probability, months = given.probability[0, :, column], given.horizons[column]
    everyone = np.ones(len(given), bool)
    return {
        "threshold": THRESHOLDS.tolist(),
        "model": [net_benefit(given, probability >= value, float(value), months) for value in THRESHOLDS],
        "all": [net_benefit(given, everyone, float(value), months) for value in THRESHOLDS],
        "none": 0,
    }


def net_benefit(given: Predicted, acted: Bools, threshold: float, months: int) -> float:
    """True positives less false positives at the threshold's odds, per patient; 0 where nobody is acted on."""
    if not acted.any():
        return 0.0
    event_free = float(survival_curve(given.time[acted], given.event[acted], np.array([float(months)]))[0])
    return float(acted.mean()) * ((1 - event_free) - event_free * threshold / (1 - threshold))

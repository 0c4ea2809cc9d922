"""How good predictions are: discrimination, calibration, separation, each with its uncertainty.

AUC and concordance are means of within-fold values, since scores of different folds' models are not on one scale;
baselines that need no fit are judged on the same folds. Over repeats, statistics and their standard errors are
averaged: repeats share their patients, so more of them make no interval narrower. Intervals come from resampling
patients (AUC, C, IPA), from Greenwood's formula (O/E) or are Wald's (slope, hazard ratio); none refits the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.train.data.cohort import Outcome
from analysis.train.judging import km, metrics
from analysis.train.judging.predicted import Predicted, predicted, resamples, scored
from analysis.train.model.predictions import OutOfFold, Subset
from models.manifest import EndpointName, PerformanceFacts

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Figure = float | None
LEAST_SPREAD = 2.0  # a standard error of the slope of about a half


@dataclass(frozen=True)
class Separation:
    """High against low risk by the training cut-off, and concordance."""

    concordance: Figure
    concordance_uno: Figure
    concordance_uno_lower: Figure
    concordance_uno_upper: Figure
    hazard_ratio: Figure
    hazard_ratio_lower: Figure
    hazard_ratio_upper: Figure
    logrank_p: Figure


def performance(
    repeats: Sequence[OutOfFold], subset: Subset, endpoint: EndpointName, outcome: Outcome
) -> list[PerformanceFacts]:
    """One line per horizon for one combination and endpoint, as the manifest has them."""
    given = predicted(repeats, subset, endpoint, outcome)
    model = model_figures(given)
    wanted = ("horizon_months", "auc", "auc_lower", "auc_upper", "observed_expected", "patients", "events")
    return [
        PerformanceFacts(
            endpoint=endpoint,
            calibration_slope=model["calibration_slope"],
            hazard_ratio=model["hazard_ratio"],
            **{name: line[name] for name in wanted},
        )
        for line in model["horizons"]
    ]


def separation(repeats: Sequence[OutOfFold], subset: Subset, endpoint: EndpointName, outcome: Outcome) -> Separation:
    """Concordance, hazard ratio and log-rank test of one combination and endpoint."""
    given = predicted(repeats, subset, endpoint, outcome)
    found = rounded(_concordance(given) | hazard_ratio(given))
    return Separation(**found)


def baseline_auc(repeats: Sequence[OutOfFold], score: Array, outcome: Outcome, months: int) -> dict[str, Figure]:
    """A score that needs no fit (volume, the oracle), judged on the same folds."""
    found: dict[str, Figure] = rounded(auc(scored(repeats, score, outcome), months))
    return found


def model_figures(given: Predicted) -> dict[str, Any]:
    """The line of one combination and endpoint in `metrics.json`, less its names; rounded."""
    found: dict[str, Any] = {"patients": len(given), "events": int(given.event.sum())}
    found |= _concordance(given) | _calibration_slope(given) | hazard_ratio(given)
    found["horizons"] = [horizon_figures(given, column) for column in range(len(given.horizons))]
    rounding: dict[str, Any] = rounded(found)
    return rounding


def horizon_figures(given: Predicted, column: int) -> dict[str, Any]:
    """Every figure at one horizon; all but the counts are None where too few patients remain to say."""
    months = given.horizons[column]
    case, weight = metrics.weights(given.time, given.event, months)
    found: dict[str, Any] = {"horizon_months": months, **counts(given, months)}
    return found | auc(given, months) | _brier(given, case, weight, column) | observed_expected(given, column)


def counts(given: Predicted, months: int) -> dict[str, Any]:
    """Who is known to have had the event by then, to be free of it, or was censored before; and whether it suffices."""
    case, weight = metrics.weights(given.time, given.event, months)
    return {
        "patients": len(given),
        "events": int(case.sum()),
        "event_free": int((~case & (weight > 0)).sum()),
        "censored_before": int((weight == 0).sum()),
        "enough": metrics.enough(case, weight),
    }


def auc(
    given: Predicted,
    months: int,
    over_folds: Callable[[list[metrics.Pairs], Array], Array] = metrics.within_folds,
) -> dict[str, Figure]:
    """Cumulative/dynamic AUC with its interval."""
    case, weight = metrics.weights(given.time, given.event, months)
    if not metrics.enough(case, weight):
        return _no_interval("auc")
    folds = [
        [metrics.pairs(eta, case, weight, fold) for fold in parts]
        for eta, parts in zip(given.eta, given.folds, strict=True)
    ]
    return interval("auc", len(given), lambda copies: [over_folds(parts, copies) for parts in folds])


def interval(name: str, patients: int, statistic: Callable[[Array], list[Array]]) -> dict[str, Figure]:
    """A statistic, a value per repeat, averaged; and its 95 % percentile interval from resampling patients.

    The interval is widened to hold the statistic itself.
    """
    value = float(np.mean(statistic(np.ones(patients))))
    if not np.isfinite(value):
        return _no_interval(name)
    drawn = np.mean(statistic(resamples(patients)), axis=0)
    lower, upper = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975])
    return {name: value, f"{name}_lower": min(float(lower), value), f"{name}_upper": max(float(upper), value)}


def _no_interval(name: str) -> dict[str, Figure]:
    return {name: None, f"{name}_lower": None, f"{name}_upper": None}


def _brier(given: Predicted, case: Bools, weight: Array, column: int) -> dict[str, Figure]:
    """IPCW Brier score, and how much better than one risk for everyone (IPA)."""
    probability = given.probability[:, :, column]
    if not metrics.enough(case, weight) or not np.isfinite(probability).all():
        return {"brier": None, **_no_interval("ipa")}
    score = float(np.mean([metrics.brier(case, weight, one) for one in probability]))
    found = interval("ipa", len(given), lambda copies: [metrics.ipa(case, weight, one, copies) for one in probability])
    return {"brier": score, **found}


def observed_expected(given: Predicted, column: int) -> dict[str, Figure]:
    """Kaplan-Meier risk over mean predicted risk; the limits are those of the Kaplan-Meier risk."""
    months = given.horizons[column]
    case, weight = metrics.weights(given.time, given.event, months)
    expected = float(given.probability[:, :, column].mean()) if len(given) else 0.0
    observed = km.risk_at(given.time, given.event, months) if metrics.enough(case, weight) else None
    if observed is None or not expected > 0:
        return _no_interval("observed_expected")
    names = ("observed_expected", "observed_expected_lower", "observed_expected_upper")
    return {name: value / expected for name, value in zip(names, observed, strict=True)}


def _concordance(given: Predicted) -> dict[str, Figure]:
    """Harrell's C, and Uno's up to the last horizon with its interval; means of within-fold values."""
    if not given.event.any():
        return {"concordance": None, **_no_interval("concordance_uno")}

    def folds(weight: Array) -> list[list[metrics.Pairs]]:
        return [
            [metrics.ordered_pairs(eta, given.time, given.event, weight, fold) for fold in parts]
            for eta, parts in zip(given.eta, given.folds, strict=True)
        ]

    ones = np.ones(len(given))
    harrell = float(np.mean([metrics.within_folds(parts, ones) for parts in folds(given.event.astype(float))]))
    parts_of = folds(metrics.uno_weights(given.time, given.event, max(given.horizons)))
    uno = interval(
        "concordance_uno", len(given), lambda copies: [metrics.within_folds(parts, copies) for parts in parts_of]
    )
    return {"concordance": harrell, **uno}


def _calibration_slope(given: Predicted) -> dict[str, Figure]:
    """Cox slope of the outcome on out-of-fold linear predictors; 1 is ideal, below 1 is overfitted.

    None where predictions hardly differ: the slope's standard error, about 1 / (SD sqrt(events)), is then too large.
    None too of a score that is no linear predictor.
    """
    if not np.isfinite(given.probability).any():
        return _no_interval("calibration_slope")
    root = float(np.sqrt(given.event.sum()))
    spread = [eta for eta in given.eta if float(eta.std()) * root >= LEAST_SPREAD]
    known = [metrics.slope(eta, given.time, given.event) for eta in spread]
    return _wald("calibration_slope", known, lambda value: value)


def hazard_ratio(given: Predicted) -> dict[str, Figure]:
    """High against low risk; the p value is that of the log-rank statistic's mean over repeats."""
    found = [metrics.hazard_ratio(high, given.time, given.event) for high in given.high]
    statistics = [km.log_rank(high, given.time, given.event) for high in given.high]
    known = [value for value in statistics if value is not None]
    ratio = _wald("hazard_ratio", [item for item in found if item is not None], np.exp)
    return ratio | {"logrank_p": km.p_value(float(np.mean(known))) if known else None}


def _wald(name: str, found: Sequence[tuple[float, float]], scale: Callable[[float], float]) -> dict[str, Figure]:
    if not found:
        return _no_interval(name)
    value, error = np.mean(found, axis=0)
    moves = (0.0, -metrics.NORMAL, metrics.NORMAL)
    names = (name, f"{name}_lower", f"{name}_upper")
    return {item: float(scale(value + move * error)) for item, move in zip(names, moves, strict=True)}


def rounded(found: Any) -> Any:
    """Every float in a tree of mappings and sequences to four digits; None for what is not finite."""
    if isinstance(found, dict):
        return {key: rounded(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [rounded(value) for value in found]
    if isinstance(found, float | np.floating):
        return round(float(found), 4) + 0.0 if np.isfinite(found) else None  # + 0.0: no negative zero
    return found

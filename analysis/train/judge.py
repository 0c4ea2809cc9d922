"""How good out-of-fold predictions are: discrimination, calibration, separation, each with its uncertainty.

AUC is the mean of within-fold values, since scores of different folds' models are not on one scale; baselines that
need no fit are judged on the same folds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.train import cox, metrics
from analysis.train.cohort import Outcome
from analysis.train.predictions import OutOfFold, Subset
from models.manifest import EndpointName, PerformanceFacts

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
RESAMPLES = 500
LEAST_SPREAD = 2.0  # a standard error of the slope of about a half


@dataclass(frozen=True)
class Separation:
    """High against low risk by the training cut-off, out of fold, and concordance; over repeats."""

    concordance: float | None
    hazard_ratio: float | None
    hazard_ratio_lower: float | None
    hazard_ratio_upper: float | None


def performance(
    repeats: Sequence[OutOfFold], subset: Subset, endpoint: EndpointName, outcome: Outcome
) -> list[PerformanceFacts]:
    """One line per horizon for one combination and endpoint."""
    key = (subset, endpoint)
    there = np.isfinite(repeats[0].linear_predictor[key])
    slope = _mean([calibration_slope(repeat.linear_predictor[key][there], outcome, there) for repeat in repeats])
    ratio = separation(repeats, subset, endpoint, outcome).hazard_ratio
    found = []
    for column, months in enumerate(outcome.horizons):
        case, weight = metrics.weights(outcome.time, outcome.event, months)
        weight = np.where(there, weight, 0.0)
        folds = [
            [metrics.pairs(repeat.linear_predictor[key], case, weight, fold) for fold in repeat.folds]
            for repeat in repeats
        ]
        auc, lower, upper = auc_interval(folds, len(there)) if metrics.enough(case, weight) else (None, None, None)
        expected = float(np.mean([repeat.probability[key][there, column].mean() for repeat in repeats]))
        observed = 1 - float(metrics.survival_curve(outcome.time[there], outcome.event[there], np.array([months]))[0])
        found.append(
            PerformanceFacts(
                endpoint=endpoint,
                horizon_months=months,
                auc=_round(auc),
                auc_lower=_round(lower),
                auc_upper=_round(upper),
                observed_expected=_round(observed / expected) if auc is not None else None,
                calibration_slope=_round(slope),
                hazard_ratio=_round(ratio),
                patients=int(there.sum()),
                events=int((case & there).sum()),
            )
        )
    return found


def auc_interval(
    repeats: Sequence[list[metrics.Pairs]], patients: int
) -> tuple[float | None, float | None, float | None]:
    """AUC, and its 95 % interval from resampling patients (not from refitting)."""

    def over_repeats(copies: Array) -> float | None:
        return _mean([metrics.mean_auc(folds, copies) for folds in repeats])

    rng = np.random.default_rng([20250101, patients])
    drawn = [
        over_repeats(rng.multinomial(patients, np.full(patients, 1 / patients)).astype(float)) for _ in range(RESAMPLES)
    ]
    known = [value for value in drawn if value is not None]
    lower, upper = np.quantile(known, [0.025, 0.975])
    return over_repeats(np.ones(patients)), float(lower), float(upper)


def baseline_auc(repeats: Sequence[OutOfFold], score: Array, outcome: Outcome, months: int) -> dict[str, float | None]:
    """A score that needs no fit (volume, the oracle), judged on the same folds."""
    case, weight = metrics.weights(outcome.time, outcome.event, months)
    weight = np.where(np.isfinite(score), weight, 0.0)
    if not metrics.enough(case, weight):
        return {"auc": None, "auc_lower": None, "auc_upper": None}
    folds = [[metrics.pairs(score, case, weight, fold) for fold in repeat.folds] for repeat in repeats]
    found = auc_interval(folds, len(score))
    return dict(zip(("auc", "auc_lower", "auc_upper"), map(_round, found), strict=True))


def brier_and_ipa(
    repeats: Sequence[OutOfFold], subset: Subset, endpoint: EndpointName, outcome: Outcome, column: int, months: int
) -> dict[str, float | None]:
    """IPCW Brier score, and how much better than the Kaplan-Meier estimate for everyone (IPA)."""
    key = (subset, endpoint)
    there = np.isfinite(repeats[0].linear_predictor[key])
    time, event = outcome.time[there], outcome.event[there]
    case, weight = metrics.weights(time, event, months)
    if not metrics.enough(case, weight):
        return {"brier": None, "ipa": None}
    score = float(np.mean([metrics.brier(case, weight, repeat.probability[key][there, column]) for repeat in repeats]))
    overall = 1 - float(metrics.survival_curve(time, event, np.array([months]))[0])
    null = metrics.brier(case, weight, np.full(len(time), overall))
    return {"brier": _round(score), "ipa": _round(1 - score / null)}


def separation(repeats: Sequence[OutOfFold], subset: Subset, endpoint: EndpointName, outcome: Outcome) -> Separation:
    """Within-fold concordance, and the hazard ratio of high against low risk, averaged over repeats."""
    key = (subset, endpoint)
    there = np.isfinite(repeats[0].linear_predictor[key])
    within = [
        metrics.concordance(repeat.linear_predictor[key][fold], outcome.time[fold], outcome.event[fold])
        for repeat in repeats
        for part in repeat.folds
        if (fold := part[there[part]]).size
    ]
    ratios = [
        metrics.hazard_ratio(repeat.high[key][there], outcome.time[there], outcome.event[there]) for repeat in repeats
    ]
    known = [ratio for ratio in ratios if ratio is not None]
    if not known:
        return Separation(_round(_mean(within)), None, None, None)
    log_ratio, error = np.mean(known, axis=0)
    limits = [float(np.exp(log_ratio + move * error)) for move in (0.0, -1.96, 1.96)]
    return Separation(_round(_mean(within)), *(_round(value) for value in limits))


def calibration_slope(eta: Array, outcome: Outcome, there: Bools) -> float | None:
    """Cox slope of the outcome on out-of-fold linear predictors; 1 is ideal, below 1 is overfitted.

    None where predictions hardly differ: the slope's standard error, about 1 / (SD sqrt(events)), is then too large.
    """
    if float(eta.std()) * float(np.sqrt(outcome.event[there].sum())) < LEAST_SPREAD:
        return None
    return float(cox.fit(eta[:, None], outcome.time[there], outcome.event[there], 1e-6)[0])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)

"""Cox regression with a ridge penalty, and its Breslow baseline; written out so that ten thousand fits are cheap.

Ties as Breslow (1974). Agrees with scikit-survival's CoxPHSurvivalAnalysis(ties="breslow"), which a test holds it
to; a fit of 240 patients and 17 columns takes about a millisecond.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]


class RiskSets:
    """Patients in descending order of time, where each one's risk set ends, and which of them had the event."""

    def __init__(self, time: Array, event: Bools) -> None:
        self.order = np.argsort(-time, kind="stable")
        self.event = event[self.order]
        descending = -time[self.order]
        self.last = np.searchsorted(descending, descending, side="right") - 1
        self._events = np.flatnonzero(self.event)
        self._ends = self.last[self._events]

    def log_likelihood(self, eta: Array) -> float:
        """Partial log-likelihood; `eta` in the patients' own order."""
        return self.at(eta[self.order])[0]

    def at(self, eta: Array) -> tuple[float, Array, Array]:
        """Partial log-likelihood, weights, and their sums at risk at each event; `eta` in descending order of time."""
        top = eta.max()
        weight = np.exp(eta - top)
        at_risk = np.cumsum(weight)[self._ends]
        # A score in the hundreds leaves nothing of the late risk sets beside the largest: hold them above nothing.
        value = np.sum(eta[self._events] - top - np.log(np.maximum(at_risk, 1e-300)))
        return float(value), weight, at_risk

    def derivatives(self, x: Array, weight: Array, at_risk: Array) -> tuple[Array, Array]:
        """Gradient and information from what `at` gives; `x` in descending order of time."""
        mean = np.cumsum(weight[:, None] * x, axis=0)[self._ends] / at_risk[:, None]
        deviation = x[self._events] - mean
        # Each patient j counts once for every event whose risk set holds j.
        share = np.bincount(self._ends, 1 / at_risk, len(x))
        share = np.cumsum(share[::-1])[::-1]
        information = x.T @ ((weight * share)[:, None] * x) - mean.T @ mean
        return deviation.sum(axis=0), information


def log_likelihood(eta: Array, time: Array, event: Bools) -> float:
    """Partial log-likelihood of a linear predictor."""
    return RiskSets(time, event).log_likelihood(eta)


def fit(x: Array, time: Array, event: Bools, penalty: float, start: Array | None = None) -> Array:
    """Coefficients that maximise the partial log-likelihood less penalty / 2 times their squared length.

    Parameters
    ----------
    x : shape (patients, columns), standardised
    time, event : shape (patients,)
    """
    return fit_sorted(x, RiskSets(time, event), penalty, start)


def fit_sorted(x: Array, risk: RiskSets, penalty: float, start: Array | None = None) -> Array:
    """`fit`, for many penalties and the same patients: their order is found once."""
    x = x[risk.order]
    beta = np.zeros(x.shape[1]) if start is None else start.copy()
    ridge = (penalty + 1e-9) * np.eye(len(beta))

    def objective(candidate: Array) -> tuple[float, Array, Array]:
        value, weight, at_risk = risk.at(x @ candidate)
        return value - penalty / 2 * float(candidate @ candidate), weight, at_risk

    here = objective(beta)
    for _ in range(50):
        gradient, information = risk.derivatives(x, *here[1:])
        gradient = gradient - penalty * beta
        if np.abs(gradient).max(initial=0.0) < 1e-9 * len(x):
            break
        step = np.linalg.solve(information + ridge, gradient)
        scale = 1.0
        while (there := objective(beta + scale * step))[0] < here[0] - 1e-12 * abs(here[0]) and scale > 1e-4:
            scale /= 2
        beta, here = beta + scale * step, there
    return beta


def score_statistics(x: Array, time: Array, event: Bools) -> Array:
    """Univariate score test of each column (chi-squared on one degree of freedom), shape (columns,)."""
    risk = RiskSets(time, event)
    x = x[risk.order]
    at_risk = (risk.last + 1)[:, None]
    mean = np.cumsum(x, axis=0)[risk.last] / at_risk
    variance = np.cumsum(x**2, axis=0)[risk.last] / at_risk - mean**2
    score = (x - mean)[risk.event].sum(axis=0)
    information = variance[risk.event].sum(axis=0)
    return np.asarray(np.where(information > 1e-12, score**2 / np.maximum(information, 1e-12), 0.0))


def breslow(eta: Array, time: Array, event: Bools, at: Array) -> Array:
    """Cumulative baseline hazard at the times `at`, shape (len(at),)."""
    risk = RiskSets(time, event)
    weight = np.exp(eta[risk.order])
    jumps = risk.event / np.cumsum(weight)[risk.last]
    ascending = time[risk.order][::-1]
    cumulative = np.concatenate([[0.0], np.cumsum(jumps[::-1])])
    return np.asarray(cumulative[np.searchsorted(ascending, at, side="right")])

"""Cox regression with a ridge penalty, and its Breslow baseline; written out so that ten thousand fits are cheap.

Ties as Breslow (1974). Agrees with scikit-survival's CoxPHSurvivalAnalysis(ties="breslow"), which a test holds it
to; a fit of 240 patients and 17 columns takes about a millisecond.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]


class _Risk:
    """Patients in descending order of time, and where each one's risk set ends."""

    def __init__(self, time: Array, event: Bools) -> None:
        self.order = np.argsort(-time, kind="stable")
        self.event = event[self.order]
        descending = -time[self.order]
        self.last = np.searchsorted(descending, descending, side="right") - 1

    def log_likelihood(self, eta: Array) -> float:
        """Partial log-likelihood; `eta` in the patients' own order."""
        eta = eta[self.order]
        top = eta.max()
        at_risk = np.cumsum(np.exp(eta - top))[self.last]
        # A score in the hundreds leaves nothing of the late risk sets beside the largest: hold them above nothing.
        return float(np.sum((eta - top - np.log(np.maximum(at_risk, 1e-300)))[self.event]))

    def derivatives(self, x: Array, eta: Array) -> tuple[Array, Array]:
        """Gradient and information; `x` and `eta` in descending order of time."""
        weight = np.exp(eta - eta.max())
        at_risk = np.cumsum(weight)[self.last]
        mean = np.cumsum(weight[:, None] * x, axis=0)[self.last] / at_risk[:, None]
        deviation = (x - mean)[self.event]
        # Each patient j counts once for every event whose risk set holds j.
        share = np.zeros(len(eta))
        np.add.at(share, self.last, self.event / at_risk)
        share = np.cumsum(share[::-1])[::-1]
        events_mean = mean[self.event]
        information = x.T @ ((weight * share)[:, None] * x) - events_mean.T @ events_mean
        return deviation.sum(axis=0), information


def log_likelihood(eta: Array, time: Array, event: Bools) -> float:
    """Partial log-likelihood of a linear predictor."""
    return _Risk(time, event).log_likelihood(eta)


def fit(x: Array, time: Array, event: Bools, penalty: float, start: Array | None = None) -> Array:
    """Coefficients that maximise the partial log-likelihood less penalty / 2 times their squared length.

    Parameters
    ----------
    x : shape (patients, columns), standardised
    time, event : shape (patients,)
    """
    risk = _Risk(time, event)
    x = x[risk.order]
    back = np.argsort(risk.order)
    beta = np.zeros(x.shape[1]) if start is None else start.copy()

    def objective(candidate: Array) -> float:
        return risk.log_likelihood((x @ candidate)[back]) - penalty / 2 * float(candidate @ candidate)

    value = objective(beta)
    for _ in range(50):
        gradient, information = risk.derivatives(x, x @ beta)
        gradient = gradient - penalty * beta
        if np.abs(gradient).max(initial=0.0) < 1e-9 * len(time):
            break
        step = np.linalg.solve(information + (penalty + 1e-9) * np.eye(len(beta)), gradient)
        scale = 1.0
        while (found := objective(beta + scale * step)) < value - 1e-12 * abs(value) and scale > 1e-4:
            scale /= 2
        beta, value = beta + scale * step, found
    return beta


def score_statistics(x: Array, time: Array, event: Bools) -> Array:
    """Univariate score test of each column (chi-squared on one degree of freedom), shape (columns,)."""
    risk = _Risk(time, event)
    x = x[risk.order]
    at_risk = (risk.last + 1)[:, None]
    mean = np.cumsum(x, axis=0)[risk.last] / at_risk
    variance = np.cumsum(x**2, axis=0)[risk.last] / at_risk - mean**2
    score = (x - mean)[risk.event].sum(axis=0)
    information = variance[risk.event].sum(axis=0)
    return np.asarray(np.where(information > 1e-12, score**2 / np.maximum(information, 1e-12), 0.0))


def breslow(eta: Array, time: Array, event: Bools, at: Array) -> Array:
    """Cumulative baseline hazard at the times `at`, shape (len(at),)."""
    risk = _Risk(time, event)
    weight = np.exp(eta[risk.order])
    jumps = risk.event / np.cumsum(weight)[risk.last]
    ascending = time[risk.order][::-1]
    cumulative = np.concatenate([[0.0], np.cumsum(jumps[::-1])])
    return np.asarray(cumulative[np.searchsorted(ascending, at, side="right")])

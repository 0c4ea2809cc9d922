"""How good a prediction of survival is: discrimination, calibration, separation. All with censored patients.

Inverse-probability-of-censoring weights (IPCW) after Uno 2007 and Gerds 2006: a patient censored before the
horizon is neither a case nor a control, and those who remain stand in for them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.train import cox

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
ENOUGH = 8  # cases, and controls, at a horizon; with fewer no figure is printed


def survival_curve(time: Array, event: Bools, at: Array) -> Array:
    """Kaplan-Meier survival at the times `at`."""
    order = np.argsort(time, kind="stable")
    times, events = time[order], event[order]
    unique, first = np.unique(times, return_index=True)
    deaths = np.add.reduceat(events.astype(float), first)
    steps = np.cumprod(1 - deaths / (len(times) - first))
    return np.asarray(np.concatenate([[1.0], steps])[np.searchsorted(unique, at, side="right")])


def weights(time: Array, event: Bools, horizon: float) -> tuple[Bools, Array]:
    """Who has had the event by the horizon, and the IPCW weight; 0 for those censored before it."""
    case = event & (time <= horizon)
    control = time > horizon
    # G(t-): the censoring curve just before t.
    free = survival_curve(time, ~event, np.where(case, time - 1e-9, horizon))
    return case, np.where(case | control, 1 / np.maximum(free, 0.05), 0.0)


@dataclass(frozen=True)
class Pairs:
    """Cases against controls of one fold at one horizon: who is ranked rightly, and with what weight."""

    cases: NDArray[np.intp]
    controls: NDArray[np.intp]
    right: Array  # (cases, controls): 1, 0 or a half
    weight: Array  # (cases,)

    def auc(self, copies: Array) -> float | None:
        """Cumulative/dynamic AUC, each patient counted `copies` times."""
        cases, controls = self.weight * copies[self.cases], copies[self.controls]
        total = float(cases.sum() * controls.sum())
        return float(cases @ self.right @ controls) / total if total > 0 else None


def pairs(score: Array, case: Bools, weight: Array, members: NDArray[np.intp]) -> Pairs:
    """Compare the cases and controls among `members`."""
    cases = members[case[members] & (weight[members] > 0)]
    controls = members[~case[members] & (weight[members] > 0)]
    difference = score[cases][:, None] - score[controls][None, :]
    right = (difference > 0) + 0.5 * (difference == 0)
    return Pairs(cases, controls, right, weight[cases])


def mean_auc(folds: list[Pairs], copies: Array) -> float | None:
    """Mean over folds of the within-fold AUC: pooled out-of-fold scores would bias it below a half."""
    found = [value for fold in folds if (value := fold.auc(copies)) is not None]
    return float(np.mean(found)) if found else None


def enough(case: Bools, weight: Array) -> bool:
    """Whether a figure at this horizon means anything."""
    seen = weight > 0
    return int((case & seen).sum()) >= ENOUGH and int((~case & seen).sum()) >= ENOUGH


def brier(case: Bools, weight: Array, probability: Array) -> float:
    """IPCW Brier score."""
    return float(np.mean(weight * (case - probability) ** 2))


def concordance(score: Array, time: Array, event: Bools) -> float | None:
    """Harrell's C."""
    earlier = event[:, None] & (time[:, None] < time[None, :])
    total = int(earlier.sum())
    if not total:
        return None
    difference = score[:, None] - score[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0))[earlier].sum() / total)


def hazard_ratio(high: Bools, time: Array, event: Bools) -> tuple[float, float] | None:
    """Log hazard ratio of one group against the rest and its standard error; None where a group has no event."""
    if not (event & high).any() or not (event & ~high).any():
        return None
    x = high.astype(float)[:, None]
    beta = cox.fit(x, time, event, 1e-6)
    return float(beta[0]), 1 / float(np.sqrt(_information(x, beta, time, event)))


def _information(x: Array, beta: Array, time: Array, event: Bools) -> float:
    step = 1e-3
    value = [cox.log_likelihood(x @ (beta + move), time, event) for move in (-step, 0.0, step)]
    return max(1e-12, -(value[0] - 2 * value[1] + value[2]) / step**2)

"""How good a prediction of survival is: discrimination, calibration, separation. All with censored patients.

Inverse-probability-of-censoring weights (IPCW) after Uno 2007, Uno 2011 and Gerds 2006: a patient censored before
the horizon is neither a case nor a control, and those who remain stand in for them. Every figure that gets a
bootstrap interval takes `copies`, how often each patient was drawn, shape (..., patients), and gives one value per
row; the weights stay those of the original patients, so that a resample costs a matrix product and no more.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.train.model import cox

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.intp]
ENOUGH = 8  # cases, and controls, at a horizon; with fewer no figure is printed
LEAST_FREE = 0.05  # no patient stands in for more than twenty
NORMAL = 1.959964  # 97.5th percentile


def survival_curve(time: Array, event: Bools, at: Array) -> Array:
    """Kaplan-Meier survival at the times `at`."""
    order = np.argsort(time, kind="stable")
    times, events = time[order], event[order]
    unique, first = np.unique(times, return_index=True)
    deaths = np.add.reduceat(events.astype(float), first)
    steps = np.cumprod(1 - deaths / (len(times) - first))
    return np.asarray(np.concatenate([[1.0], steps])[np.searchsorted(unique, at, side="right")])


def still_followed(time: Array, event: Bools, at: Array) -> Array:
    """Probability of not being censored by the times `at`: who has the event on a day leaves before who is censored."""
    order = np.argsort(time, kind="stable")
    times, events = time[order], event[order]
    unique, first, count = np.unique(times, return_index=True, return_counts=True)
    deaths = np.add.reduceat(events.astype(float), first)
    at_risk = len(times) - first - deaths
    steps = np.cumprod(1 - np.where(at_risk > 0, (count - deaths) / np.maximum(at_risk, 1), 0.0))
    return np.asarray(np.concatenate([[1.0], steps])[np.searchsorted(unique, at, side="right")])


def weights(time: Array, event: Bools, horizon: float) -> tuple[Bools, Array]:
    """Who has had the event by the horizon, and the IPCW weight; 0 for those censored before it."""
    case = event & (time <= horizon)
    control = time > horizon
    # Just before t for a case: those censored at its own time were still followed.
    free = still_followed(time, event, np.where(case, time - 1e-9, horizon))
    return case, np.where(case | control, 1 / np.maximum(free, LEAST_FREE), 0.0)


def uno_weights(time: Array, event: Bools, until: float) -> Array:
    """Weight of each patient's event in Uno's C: 1 / G(t-) squared before `until`; 0 for everyone else."""
    free = np.maximum(still_followed(time, event, time - 1e-9), LEAST_FREE)
    return np.where(event & (time < until), free**-2.0, 0.0)


@dataclass(frozen=True)
class Pairs:
    """Patients with the event against those known to be free of it for longer, in one fold.

    `right` (cases, controls) is 1, 0 or a half; `comparable` says which pairs count, None for all of them.
    """

    cases: Rows
    controls: Rows
    right: Array
    weight: Array  # (cases,)
    comparable: Array | None = None

    def counts(self, copies: Array) -> tuple[Array, Array]:
        """Weight of the pairs ranked rightly, and of all pairs."""
        cases, controls = self.weight * copies[..., self.cases], copies[..., self.controls]
        right = ((cases @ self.right) * controls).sum(axis=-1)
        if self.comparable is None:
            return right, cases.sum(axis=-1) * controls.sum(axis=-1)
        return right, ((cases @ self.comparable) * controls).sum(axis=-1)

    def auc(self, copies: Array) -> Array:
        """Share of pairs ranked rightly; NaN where there is none."""
        return ratio(*self.counts(copies))


def pairs(score: Array, case: Bools, weight: Array, members: Rows) -> Pairs:
    """Compare the cases and controls at a horizon among `members`: cumulative/dynamic AUC."""
    cases = members[case[members] & (weight[members] > 0)]
    controls = members[~case[members] & (weight[members] > 0)]
    return Pairs(cases, controls, _ranked_rightly(score, cases, controls), weight[cases])


def ordered_pairs(score: Array, time: Array, event: Bools, weight: Array, members: Rows) -> Pairs:
    """Compare each event of positive weight with everyone who was followed for longer: C of Harrell or of Uno."""
    cases = members[weight[members] > 0]
    later = time[cases][:, None] < time[members][None, :]
    censored_then = (time[cases][:, None] == time[members][None, :]) & ~event[members][None, :]
    comparable = (later | censored_then).astype(float)
    return Pairs(cases, members, _ranked_rightly(score, cases, members) * comparable, weight[cases], comparable)


def _ranked_rightly(score: Array, cases: Rows, controls: Rows) -> Array:
    difference = score[cases][:, None] - score[controls][None, :]
    return np.asarray((difference > 0) + 0.5 * (difference == 0))


def within_folds(folds: list[Pairs], copies: Array) -> Array:
    """Mean over folds of the within-fold share: pooled out-of-fold scores would bias it below a half."""
    return _mean_of_known(np.array([fold.auc(copies) for fold in folds]))


def over_all_pairs(folds: list[Pairs], copies: Array) -> Array:
    """Share of all pairs that lie within a fold: steadier than a mean of folds where folds hold a handful each."""
    counts = np.array([fold.counts(copies) for fold in folds])
    return ratio(counts[:, 0].sum(axis=0), counts[:, 1].sum(axis=0))


def ratio(above: Array, below: Array) -> Array:
    """Quotient; NaN where the divisor is not above 0."""
    above, below = np.asarray(above, float), np.asarray(below, float)
    empty = np.full(np.broadcast(above, below).shape, np.nan)
    return np.asarray(np.divide(above, below, out=empty, where=below > 0))


def _mean_of_known(values: Array) -> Array:
    known = np.isfinite(values)
    return ratio(np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0))


def enough(case: Bools, weight: Array) -> bool:
    """Whether a figure at this horizon means anything."""
    seen = weight > 0
    return int((case & seen).sum()) >= ENOUGH and int((~case & seen).sum()) >= ENOUGH


def brier(case: Bools, weight: Array, probability: Array) -> float:
    """IPCW Brier score."""
    return float(np.mean(weight * (case - probability) ** 2))


def ipa(case: Bools, weight: Array, probability: Array, copies: Array) -> Array:
    """Index of prediction accuracy: how much smaller the Brier score is than that of one risk for everyone.

    That one risk is the weighted share of cases, which is the Kaplan-Meier estimate (Satten and Datta 2001).
    """
    patients, mass = copies.sum(axis=-1), copies @ weight
    share = ratio(copies @ (weight * case), mass)
    null = ratio(share * (1 - share) * mass, patients)
    return 1 - ratio(ratio(copies @ (weight * (case - probability) ** 2), patients), null)


def concordance(score: Array, time: Array, event: Bools) -> float | None:
    """Harrell's C."""
    everyone = np.arange(len(time))
    found = float(ordered_pairs(score, time, event, event.astype(float), everyone).auc(np.ones(len(time))))
    return found if np.isfinite(found) else None


def hazard_ratio(high: Bools, time: Array, event: Bools) -> tuple[float, float] | None:
    """Log hazard ratio of one group against the rest and its standard error; None where a group has no event."""
    if not (event & high).any() or not (event & ~high).any():
        return None
    return slope(high.astype(float), time, event)


def slope(x: Array, time: Array, event: Bools) -> tuple[float, float]:
    """Cox coefficient of one column, shape (patients,), and its standard error."""
    column = x[:, None]
    beta = cox.fit(column, time, event, 1e-6)
    return float(beta[0]), 1 / float(np.sqrt(_information(column, beta, time, event)))


def _information(x: Array, beta: Array, time: Array, event: Bools) -> float:
    step = 1e-3
    value = [cox.log_likelihood(x @ (beta + move), time, event) for move in (-step, 0.0, step)]
    return max(1e-12, -(value[0] - 2 * value[1] + value[2]) / step**2)

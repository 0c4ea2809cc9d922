"""Kaplan-Meier curves with their intervals, the log-rank test, and the groups of a plot. From scikit-survival."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2
from sksurv.compare import compare_survival
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
MOST_MARKS = 11  # under a plot
TAIL = 0.025
NOTHING = 1e-12


def curve(time: Array, event: Bools) -> tuple[Array, Array, Array, Array]:
    """Times, survival, and its 95 % limits (Greenwood, complementary log-log); each of shape (distinct times,)."""
    times, survival, (lower, upper) = kaplan_meier_estimator(event, time, conf_type="log-log")
    return times, survival, lower, upper


def risk_at(time: Array, event: Bools, months: float) -> tuple[float, float, float] | None:
    """Observed risk by `months` with its 95 % limits; None where nobody was followed that long.

    Everybody having had the event is an observation too, though nobody is left. Where nobody or everybody had it,
    Greenwood's variance is 0 and the open limit is the binomial's (Clopper and Pearson 1934).
    """
    times, survival, lower, upper = curve(time, event)
    if times[-1] < months and survival[-1] > 0:
        return None
    at = int(np.searchsorted(times, months, side="right")) - 1
    value = 1.0 if at < 0 else float(survival[at])
    if value == 1:
        return 0.0, 0.0, 1 - TAIL ** (1 / int((time >= months).sum()))
    if value < NOTHING:
        return 1.0, TAIL ** (1 / len(time)), 1.0
    return 1 - value, 1 - float(upper[at]), 1 - float(lower[at])


def log_rank(high: Bools, time: Array, event: Bools) -> float | None:
    """Chi-squared on one degree of freedom; None where a group is empty or nobody has the event."""
    if not high.any() or high.all() or not event.any():
        return None
    return float(compare_survival(Surv.from_arrays(event, time), high)[0])


def p_value(chi_squared: float) -> float:
    """Of the log-rank test of two groups."""
    return float(chi2.sf(chi_squared, 1))


def group(name: str, time: Array, event: Bools, last: float) -> dict[str, Any]:
    """One group's line in `kaplan_meier`: steps at events and the end, and how many are at risk below the plot.

    `last`: the end of the plot's axis, months.
    """
    times, survival, lower, upper = curve(time, event)
    step = np.diff(survival, prepend=1.0) < 0
    step[-1] = True
    return {
        "group": name,
        "patients": len(time),
        "events": int(event.sum()),
        "times": [0.0, *times[step].tolist()],
        "survival": [1.0, *survival[step].tolist()],
        "lower": [1.0, *lower[step].tolist()],
        "upper": [1.0, *upper[step].tolist()],
        "at_risk": [[month, int((time >= month).sum())] for month in marks(last)],
    }


def marks(last: float) -> list[int]:
    """Months at which the number at risk is written, from 0 and at most MOST_MARKS of them.

    >>> marks(40.0)
    [0, 6, 12, 18, 24, 30, 36]
    >>> marks(100.0)
    [0, 12, 24, 36, 48, 60, 72, 84, 96]
    """
    step = next(months for months in (3, 6, 12, 24, 60, 120, 1200) if last / months < MOST_MARKS)
    return list(range(0, int(last) + 1, step))

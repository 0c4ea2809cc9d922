"""The probability of an event by month: the curve on which the scores are points. Part of the analyse step.

The curve is the model's own (Breslow baseline, one value per whole month) and passes through the very numbers of the
scores at their horizons. The refits behind the band are known at the horizons alone; in between each one rises in
step with the baseline. A bundle that holds the training cohort's Kaplan-Meier estimate gives the curve beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.contract import Curve, Endpoint, RiskScore
from models.manifest import Model, Recalibration, RecalibrationRows

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Patient:
    """What an endpoint's model says of one patient; `rows` are the linear predictors of the refits, (refits,)."""

    recalibration: Recalibration
    refits: RecalibrationRows
    horizons: tuple[int, ...]
    linear_predictor: float
    rows: Array


def event_probability(cumulative_hazard: Array | np.float64, linear_predictor: Array | np.float64) -> Array:
    """1 - exp(-H0(t) exp(eta)): the chance of the event by t in a proportional hazards model."""
    return np.asarray(-np.expm1(-cumulative_hazard * np.exp(np.minimum(linear_predictor, 50.0))))


def interval(point: float, rows: Array, level: float) -> tuple[float, float]:
    """Percentile interval of the refits, widened to hold the point itself."""
    if not rows.size:
        return point, point
    lower, upper = np.quantile(rows, [(1 - level) / 2, (1 + level) / 2])
    return min(float(lower), point), max(float(upper), point)


def curves(
    model: Model, patients: Mapping[Endpoint, Patient], scores: Sequence[RiskScore], level: float
) -> tuple[Curve, ...]:
    """A curve per endpoint; that of PFS is never below that of OS.

    Parameters
    ----------
    scores : sequence of RiskScore
        At every horizon of every endpoint: the curve is held to them.
    level : float
        Of the band.
    """
    by_month = {endpoint: _by_month(patient) for endpoint, patient in patients.items()}
    if Endpoint.OS in by_month and Endpoint.PFS in by_month:
        by_month[Endpoint.PFS] = _not_below(by_month[Endpoint.PFS], by_month[Endpoint.OS])
    return tuple(
        _curve(
            model, endpoint, patients[endpoint].horizons, values, [s for s in scores if s.endpoint == endpoint], level
        )
        for endpoint, values in by_month.items()
    )


def baseline_by_month(hazard: Array, horizons: Sequence[int], refits: Array) -> Array:
    """Cumulative hazard of each refit by month.

    Parameters
    ----------
    hazard : (months,), the model's own, months = last horizon + 1
    refits : (refits, horizons)

    Returns
    -------
    array, (refits, months)
        The refits' own values at the horizons; between two of them the share of the rise that the model's own
        baseline has made, or the share of the time where that does not rise.
    """
    filled = np.zeros((len(refits), len(hazard)))
    before, base = 0, np.zeros(len(refits))
    for column, after in enumerate(horizons):
        rise = hazard[after] - hazard[before]
        part = hazard[before : after + 1]
        share = (part - part[0]) / rise if rise > 0 else np.linspace(0, 1, after - before + 1)
        filled[:, before : after + 1] = base[:, None] + (refits[:, column] - base)[:, None] * share
        before, base = after, refits[:, column]
    return filled


def _by_month(patient: Patient) -> tuple[Array, Array]:
    """Probability by month, (months,), and of every refit, (refits, months)."""
    hazard = np.asarray(patient.recalibration.cumulative_hazard)[: patient.horizons[-1] + 1]
    refits = np.asarray(patient.refits.cumulative_hazard).reshape(-1, len(patient.horizons))
    point = event_probability(hazard, np.float64(patient.linear_predictor))
    return point, event_probability(baseline_by_month(hazard, patient.horizons, refits), patient.rows[:, None])


def _not_below(values: tuple[Array, Array], floor: tuple[Array, Array]) -> tuple[Array, Array]:
    """Whoever has died has not lived without progression; beyond the months that OS knows, nothing is raised."""
    known = min(len(values[0]), len(floor[0]))
    point, rows = values[0].copy(), values[1].copy()
    point[:known] = np.maximum(point[:known], floor[0][:known])
    rows[:, :known] = np.maximum(rows[:, :known], floor[1][:, :known])
    return np.maximum.accumulate(point), np.maximum.accumulate(rows, axis=1)


def _curve(
    model: Model,
    endpoint: Endpoint,
    horizons: Sequence[int],
    values: tuple[Array, Array],
    scores: Sequence[RiskScore],
    level: float,
) -> Curve:
    point, rows = values
    limits = np.array([interval(float(p), rows[:, month], level) for month, p in enumerate(point)])
    at = {score.horizon_months: score for score in scores}
    held = [
        _through(column, horizons, [getattr(at[months], name) for months in horizons])
        for column, name in ((point, "event_probability"), (limits[:, 0], "lower"), (limits[:, 1], "upper"))
    ]
    known = next((item.event_probability for item in model.population if item.endpoint == endpoint), ())
    return Curve(
        endpoint=endpoint,
        months=tuple(range(len(point))),
        event_probability=tuple(held[0].tolist()),
        lower=tuple(held[1].tolist()),
        upper=tuple(held[2].tolist()),
        population=known[: len(point)],
    )


def _through(values: Array, horizons: Sequence[int], pinned: Sequence[float]) -> Array:
    """The values made to pass through `pinned` at the horizons, rising throughout."""
    held = values.copy()
    held[list(horizons)] = pinned
    ceiling = np.asarray(pinned)[np.searchsorted(horizons, np.arange(len(held)))]
    rising: Array = np.minimum(np.maximum.accumulate(held), ceiling)
    return rising

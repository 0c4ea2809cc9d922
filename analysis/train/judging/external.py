"""Scores a cohort with an installed bundle, patient by patient, through the very function that the job calls.

What comes out is shaped like one fold of everybody, so that it is judged as cross-validation is. Each patient is
scored with the sub-model of what they have, and again with every smaller one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis import ensemble
from analysis.contract import ClinicalValue, NotScorable, Reason
from analysis.ensemble import EnsembleResult
from analysis.train.data.cohort import Cohort, CohortError, Outcome
from analysis.train.judging.figures import AS_USED
from analysis.train.model.predictions import OutOfFold, Subset
from models.bundle import Bundle, combinations_of
from models.manifest import EndpointName

Array = NDArray[np.float64]
TINY = 1e-12
Key = tuple[Subset, EndpointName]


@dataclass(frozen=True)
class Patient:
    """What is known of one patient, as the job would be given it; None where a modality is not at hand."""

    clinical: Sequence[ClinicalValue]
    radiomic: Mapping[str, float] | None
    deep: Mapping[str, float] | None
    refused: Reason | None = None  # why the images could not be measured

    def only(self, subset: Subset) -> "Patient":
        """The same patient with fewer modalities."""
        return Patient(
            self.clinical if "clinical" in subset else (),
            self.radiomic if "radiomic" in subset else None,
            self.deep if "deep" in subset else None,
        )


@dataclass(frozen=True)
class Scored:
    """What the bundle says of a cohort.

    Attributes
    ----------
    predictions : OutOfFold
        Under AS_USED each patient by their own sub-model; then every combination, NaN where it cannot be computed.
    groups : mapping
        By endpoint, the printed group of each patient; empty where not scored.
    results : tuple
        By patient; None where not scored.
    reasons : tuple of str
        By patient, the code of the reason why not; empty where scored.
    """

    predictions: OutOfFold
    groups: Mapping[EndpointName, tuple[str, ...]]
    results: tuple[EnsembleResult | None, ...]
    reasons: tuple[str, ...]


def outcomes_of(bundle: Bundle, cohort: Cohort) -> dict[EndpointName, Outcome]:
    """Outcomes of the endpoints that bundle and cohort share, at the bundle's horizons. Raises CohortError if none."""
    found = {
        facts.name: replace(cohort.outcomes[facts.name], horizons=facts.horizons_months)
        for facts in bundle.manifest.endpoints
        if facts.name in cohort.outcomes
    }
    if not found:
        wanted = ", ".join(facts.name for facts in bundle.manifest.endpoints)
        raise CohortError(
            f"the cohort file has no outcome that the bundle predicts ({wanted}); add [outcomes.{wanted}]"
        )
    return found


def check_units(bundle: Bundle, cohort: Cohort) -> None:
    """Refuse predictors whose unit or type is not the bundle's: they would score as confidently as right ones.

    Raises
    ------
    CohortError
        Names the predictor and both units.
    """
    known = {predictor.name: predictor for predictor in bundle.manifest.clinical}
    for section in cohort.file.clinical.predictors:
        wanted = known.get(section.name)
        if wanted is None:
            continue
        for what, ours, theirs in (("unit", section.unit, wanted.unit), ("type", section.type, wanted.type)):
            if ours != theirs:
                raise CohortError(
                    f"clinical predictor {section.name}: {what} is {ours!r}, the bundle wants {theirs!r}; convert the "
                    "column and state it so, or leave the predictor out"
                )


def patients_of(bundle: Bundle, cohort: Cohort) -> list[Patient]:
    """The cohort as the job would see it: values by the bundle's names."""
    manifest = bundle.manifest
    units = {section.name: section.unit for section in cohort.file.clinical.predictors}
    radiomic = _features(manifest.radiomic, cohort.radiomic_names, cohort.radiomic)
    deep = _features(manifest.deep, cohort.deep_names, cohort.deep)
    return [
        Patient(
            [ClinicalValue(name=n, value=v, unit=units[n], source="cohort file") for n, v in values.items()],
            radiomic[row],
            deep[row],
            cohort.refused.get(row),
        )
        for row, values in enumerate(cohort.clinical)
    ]


def absent(bundle: Bundle, cohort: Cohort) -> list[str]:
    """Names the bundle wants and the cohort does not have at all."""
    there = {section.name for section in cohort.file.clinical.predictors}
    there |= {*cohort.radiomic_names, *cohort.deep_names}
    wanted = [predictor.name for predictor in bundle.manifest.clinical]
    wanted += [*bundle.manifest.radiomic, *bundle.manifest.deep]
    return [name for name in wanted if name not in there]


def _features(wanted: Sequence[str], names: Sequence[str], values: Array) -> list[dict[str, float] | None]:
    """By patient; None where no value is known, or the cohort lacks a wanted feature altogether.

    A patient who has some of the values and not others keeps them, and is refused as the job would refuse.
    """
    if not wanted or set(wanted) - set(names):
        return [None] * len(values)
    columns = [(name, list(names).index(name)) for name in wanted]
    found = [{name: float(row[at]) for name, at in columns if np.isfinite(row[at])} for row in values]
    return [features or None for features in found]


def score_cohort(
    bundle: Bundle,
    patients: Sequence[Patient],
    outcomes: Mapping[EndpointName, Outcome],
    progress: Callable[[int], None] | None = None,
) -> Scored:
    """Score every patient."""
    count = len(patients)
    table = _Table(count, outcomes)
    results: list[EnsembleResult | None] = []
    reasons = []
    for row, patient in enumerate(patients):
        try:
            result = _scored(bundle, patient)
        except NotScorable as refusal:
            results.append(None)
            reasons.append(str(refusal.reason))
        else:
            results.append(result)
            reasons.append("")
            table.add(AS_USED, row, result)
            for subset in combinations_of(tuple(str(name) for name in result.sub_model.modalities)):
                _add_smaller(table, bundle, patient, row, subset, result)
        if progress:
            progress(row + 1)
    groups = {endpoint: tuple(_group(result, endpoint) for result in results) for endpoint in outcomes}
    order = combinations_of(bundle.manifest.modalities)
    return Scored(table.predictions(results, order), groups, tuple(results), tuple(reasons))


def _scored(bundle: Bundle, patient: Patient) -> EnsembleResult:
    if patient.refused is not None:
        raise NotScorable(patient.refused)
    return ensemble.score(bundle, patient.clinical, patient.radiomic, patient.deep)


def _add_smaller(
    table: "_Table", bundle: Bundle, patient: Patient, row: int, subset: Subset, result: EnsembleResult
) -> None:
    own = tuple(str(name) for name in result.sub_model.modalities)
    if subset != own:
        part = patient.only(subset)
        result = ensemble.score(bundle, part.clinical, part.radiomic, part.deep)
    # Where the bundle needs no clinical value at all, the clinical sub-model speaks uncalled: not this combination.
    if tuple(str(name) for name in result.sub_model.modalities) == subset:
        table.add(subset, row, result)


def _group(result: EnsembleResult | None, endpoint: EndpointName) -> str:
    return "" if result is None else next(str(group.group) for group in result.groups if group.endpoint == endpoint)


class _Table:
    """Predictions as they come, by combination and endpoint."""

    def __init__(self, count: int, outcomes: Mapping[EndpointName, Outcome]) -> None:
        self.count, self.outcomes = count, outcomes
        self.eta: dict[Key, Array] = {}
        self.probability: dict[Key, Array] = {}
        self.high: dict[Key, NDArray[np.bool_]] = {}

    def add(self, subset: Subset, row: int, result: EnsembleResult) -> None:
        """One patient's scores by one sub-model."""
        for endpoint, outcome in self.outcomes.items():
            key = (subset, endpoint)
            if key not in self.eta:
                self.eta[key] = np.full(self.count, np.nan)
                self.probability[key] = np.full((self.count, len(outcome.horizons)), np.nan)
                self.high[key] = np.zeros(self.count, bool)
            group = next(group for group in result.groups if group.endpoint == endpoint)
            self.eta[key][row] = group.linear_predictor
            self.high[key][row] = group.linear_predictor > group.cutoff
            for score in result.scores:
                if score.endpoint == endpoint:
                    column = outcome.horizons.index(score.horizon_months)
                    self.probability[key][row, column] = score.event_probability

    def predictions(self, results: Sequence[EnsembleResult | None], order: Sequence[Subset]) -> OutOfFold:
        """Everything, those as used first."""
        if len({result.sub_model.modalities for result in results if result is not None}) > 1:
            for endpoint in self.outcomes:
                self.eta[AS_USED, endpoint] = _common_scale(self.probability[AS_USED, endpoint][:, -1])
        keys = [(subset, endpoint) for subset in (AS_USED, *order) for endpoint in self.outcomes]
        keys = [key for key in keys if key in self.eta]
        return OutOfFold(
            (np.arange(self.count),),
            {key: self.eta[key] for key in keys},
            {key: self.probability[key] for key in keys},
            {key: self.high[key] for key in keys},
        )


def _common_scale(probability: Array) -> Array:
    """Log cumulative hazard at the last horizon: linear predictors of different sub-models have different baselines."""
    return np.asarray(np.log(-np.log1p(-np.clip(probability, TINY, 1 - TINY))))

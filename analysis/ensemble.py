"""The ensemble: values of the modalities at hand -> event probabilities with intervals, groups, contributions.

Part of the analyse step; plain numpy over the bundle's numbers. For each modality the mean of its learners' scores,
each standardised by its out-of-fold mean and SD; the equal-weight mean of the modalities at hand, one slope and one
Breslow baseline for that very combination (facts and figures in the bundle's model card). Survival at 36 months is
never above that at 12, and predicted PFS is never above predicted OS.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis import clinical, outliers
from analysis.contract import (
    ClinicalValue,
    Contribution,
    Curve,
    Endpoint,
    EndpointGroup,
    Modality,
    NotScorable,
    Performance,
    QualityFlag,
    RiskGroup,
    RiskScore,
    SubModel,
)
from analysis.curve import Patient, curves, event_probability, interval
from analysis.feature_names import label_of, unit_of
from analysis.learner import Said, Value, say
from analysis.reasons import Reason
from analysis.score_flags import score_flags
from models.bundle import Bundle
from models.manifest import Learner, Manifest, Recalibration, RecalibrationRows, SubModelFacts

Array = NDArray[np.float64]


@dataclass(frozen=True)
class EnsembleResult:
    """What the ensemble says about one patient, in the terms of the job's contract."""

    scores: tuple[RiskScore, ...]
    curves: tuple[Curve, ...]
    groups: tuple[EndpointGroup, ...]
    sub_model: SubModel
    contributions: tuple[Contribution, ...]
    flags: tuple[QualityFlag, ...]


@dataclass(frozen=True)
class Inputs:
    """The values at hand: by modality, by feature name."""

    values: Mapping[Modality, Mapping[str, Value]]
    labels: Mapping[str, str]
    units: Mapping[str, str]
    imputed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class EndpointScore:
    """One endpoint: linear predictor and event probability by horizon, with a row per bootstrap refit.

    `shares` sum to the linear predictor, by modality and feature.
    """

    linear_predictor: float
    linear_predictor_rows: Array  # (refits,)
    probability: Array  # (horizons,)
    probability_rows: Array  # (refits, horizons)
    shares: Mapping[tuple[Modality, str], float]


def score(
    bundle: Bundle,
    clinical_values: Sequence[ClinicalValue],
    radiomic: Mapping[str, float] | None,
    deep: Mapping[str, float] | None = None,
) -> EnsembleResult:
    """Score one patient with the sub-model of the modalities at hand.

    Parameters
    ----------
    clinical_values : sequence of ClinicalValue
        As supplied; too few for the bundle's minimum set means that the clinical modality is missing.
    radiomic, deep : mapping or None
        Features by name; None where none were extracted.

    Raises
    ------
    NotScorable
        CLINICAL_VALUES_INVALID, FEATURES_FAILED or NO_SUB_MODEL.
    """
    manifest = bundle.manifest
    vector = clinical.read(clinical_values, manifest.clinical, manifest.minimum_clinical)
    inputs = _inputs(manifest, vector, radiomic, deep)
    modalities = tuple(Modality(name) for name in manifest.modalities if name in inputs.values)
    if not modalities:
        raise NotScorable(Reason.NO_SUB_MODEL, _lacking_text(vector))
    endpoints = {
        Endpoint(facts.name): endpoint_score(bundle, Endpoint(facts.name), inputs, modalities)
        for facts in manifest.endpoints
    }
    scores = _risk_scores(bundle, endpoints, modalities)
    contributions = tuple(
        _contribution(manifest, endpoint, inputs, key, share)
        for endpoint, result in endpoints.items()
        for key, share in result.shares.items()
    )
    return EnsembleResult(
        scores=scores,
        curves=_curves(bundle, endpoints, modalities, scores),
        groups=_groups(manifest, endpoints, modalities),
        sub_model=_sub_model(manifest, modalities),
        contributions=contributions,
        flags=score_flags(manifest, vector, modalities, scores, contributions, _far(bundle, inputs)),
    )


def endpoint_score(bundle: Bundle, endpoint: Endpoint, inputs: Inputs, modalities: Sequence[Modality]) -> EndpointScore:
    """Linear predictor and event probabilities of one endpoint, by the sub-model of `modalities`."""
    recalibration, refits = _recalibration(bundle, endpoint, modalities)
    standardised, rows = 0.0, np.zeros(bundle.bootstrap.rows)
    shares: dict[tuple[Modality, str], float] = {}
    for modality in modalities:
        said = _said(bundle, endpoint, modality, inputs.values[modality])
        weight = 1 / (len(modalities) * len(said))
        for learner, word in said:
            standardised += weight * word.score
            rows += weight * word.rows
            for column, share in zip(learner.columns, word.shares, strict=True):
                key = (modality, column.feature)
                shares[key] = shares.get(key, 0.0) + recalibration.slope * weight * float(share)
    linear_predictor, linear_predictor_rows = recalibration.slope * standardised, np.asarray(refits.slope) * rows
    months = list(_horizons(bundle.manifest, endpoint))
    hazard = np.asarray(recalibration.cumulative_hazard)[months]
    hazard_rows = np.asarray(refits.cumulative_hazard).reshape(-1, len(months))
    return EndpointScore(
        linear_predictor=linear_predictor,
        linear_predictor_rows=linear_predictor_rows,
        probability=event_probability(hazard, np.float64(linear_predictor)),
        probability_rows=event_probability(hazard_rows, linear_predictor_rows[:, None]),
        shares=shares,
    )


def _inputs(
    manifest: Manifest,
    vector: clinical.ClinicalVector,
    radiomic: Mapping[str, float] | None,
    deep: Mapping[str, float] | None,
) -> Inputs:
    """Values by modality; a modality that cannot speak is left out."""
    values: dict[Modality, Mapping[str, Value]] = {}
    labels = {predictor.name: predictor.label for predictor in manifest.clinical}
    units = {predictor.name: predictor.unit for predictor in manifest.clinical}
    if "clinical" in manifest.modalities and not vector.lacking:
        values[Modality.CLINICAL] = vector.values
    for modality, wanted, given in (
        (Modality.RADIOMIC, manifest.radiomic, radiomic),
        (Modality.DEEP, manifest.deep, deep),
    ):
        if modality.value not in manifest.modalities or given is None:
            continue
        absent = [name for name in wanted if name not in given]
        if absent:
            raise NotScorable(Reason.FEATURES_FAILED, ", ".join(absent[:5]) + (", ..." if absent[5:] else ""))
        values[modality] = {name: given[name] for name in wanted}
        labels |= {name: label_of(name) for name in wanted}
        units |= {name: unit_of(name) for name in wanted}
    return Inputs(values, labels, units, frozenset(vector.imputed))


def _said(
    bundle: Bundle, endpoint: Endpoint, modality: Modality, values: Mapping[str, Value]
) -> list[tuple[Learner, Said]]:
    """What every learner of a modality says about an endpoint."""
    return [
        (learner, say(learner, rows, bundle.forests.get(learner.forest or ""), values, bundle.bootstrap.rows))
        for learner, rows in zip(bundle.model.learners, bundle.bootstrap.learners, strict=True)
        if (learner.modality, learner.endpoint) == (modality, endpoint)
    ]


def _far(bundle: Bundle, inputs: Inputs) -> dict[Modality, tuple[float, float]]:
    """Distance and limit of the modalities in which the patient lies far from the training cohort."""
    found = {}
    for known in bundle.model.outliers:
        modality = Modality(known.modality)
        if modality in inputs.values:
            away = outliers.distance(known, inputs.values[modality])
            if away > known.limit:
                found[modality] = (away, known.limit)
    return found


def _recalibration(
    bundle: Bundle, endpoint: Endpoint, modalities: Sequence[Modality]
) -> tuple[Recalibration, RecalibrationRows]:
    for found, rows in zip(bundle.model.recalibration, bundle.bootstrap.recalibration, strict=True):
        if (found.modalities, found.endpoint) == (tuple(modalities), endpoint):
            return found, rows
    raise AssertionError(f"a loaded bundle has {'+'.join(modalities)} {endpoint}")


def _horizons(manifest: Manifest, endpoint: Endpoint) -> tuple[int, ...]:
    return next(facts.horizons_months for facts in manifest.endpoints if facts.name == endpoint)


def _risk_scores(
    bundle: Bundle, endpoints: Mapping[Endpoint, EndpointScore], modalities: Sequence[Modality]
) -> tuple[RiskScore, ...]:
    """Scores by endpoint and horizon; a patient who has died has not survived without progression, so PFS >= OS."""
    level = bundle.manifest.interval_level
    scores = []
    for endpoint, result in endpoints.items():
        before, before_rows = 0.0, np.zeros(bundle.bootstrap.rows)
        for index, months in enumerate(_horizons(bundle.manifest, endpoint)):
            own = float(result.probability[index])
            floor, floor_rows = 0.0, np.zeros(bundle.bootstrap.rows)
            if endpoint == Endpoint.PFS and Endpoint.OS in endpoints:
                floor, floor_rows = _death_by(bundle, endpoints[Endpoint.OS], modalities, months)
            # Never falling in time, where OS holds it up at one horizon and says nothing of the next.
            before = max(own, floor, before)
            before_rows = np.maximum(np.maximum(result.probability_rows[:, index], floor_rows), before_rows)
            lower, upper = interval(before, before_rows, level)
            scores.append(
                RiskScore(
                    endpoint=endpoint,
                    horizon_months=months,
                    event_probability=before,
                    lower=lower,
                    upper=upper,
                    interval_level=level,
                    clipped=before > own,
                )
            )
    return tuple(scores)


def _curves(
    bundle: Bundle,
    endpoints: Mapping[Endpoint, EndpointScore],
    modalities: Sequence[Modality],
    scores: Sequence[RiskScore],
) -> tuple[Curve, ...]:
    patients = {
        endpoint: Patient(
            *_recalibration(bundle, endpoint, modalities),
            _horizons(bundle.manifest, endpoint),
            result.linear_predictor,
            result.linear_predictor_rows,
        )
        for endpoint, result in endpoints.items()
    }
    return curves(bundle.model, patients, scores, bundle.manifest.interval_level)


def _death_by(bundle: Bundle, death: EndpointScore, modalities: Sequence[Modality], months: int) -> tuple[float, Array]:
    """Risk of death by a month that need not be one of its horizons, by refit too; 0 beyond what the model knows."""
    known = _horizons(bundle.manifest, Endpoint.OS)
    if months in known:
        return float(death.probability[known.index(months)]), death.probability_rows[:, known.index(months)]
    hazard = _recalibration(bundle, Endpoint.OS, modalities)[0].cumulative_hazard
    if months >= len(hazard):
        return 0.0, np.zeros(bundle.bootstrap.rows)
    point = event_probability(np.float64(hazard[months]), np.float64(death.linear_predictor))
    return float(point), event_probability(np.float64(hazard[months]), death.linear_predictor_rows)


def _facts(manifest: Manifest, modalities: Sequence[Modality]) -> SubModelFacts:
    return next(facts for facts in manifest.sub_models if facts.modalities == tuple(modalities))


def _groups(
    manifest: Manifest, endpoints: Mapping[Endpoint, EndpointScore], modalities: Sequence[Modality]
) -> tuple[EndpointGroup, ...]:
    cutoffs = _facts(manifest, modalities).cutoffs
    groups = []
    for endpoint, result in endpoints.items():
        cutoff = cutoffs[endpoint.value]
        lower, upper = interval(result.linear_predictor, result.linear_predictor_rows, manifest.interval_level)
        group = RiskGroup.HIGH if lower > cutoff else RiskGroup.LOW if upper < cutoff else RiskGroup.UNCERTAIN
        groups.append(
            EndpointGroup(
                endpoint=endpoint,
                group=group,
                linear_predictor=result.linear_predictor,
                lower=lower,
                upper=upper,
                cutoff=cutoff,
            )
        )
    return tuple(groups)


def _sub_model(manifest: Manifest, modalities: Sequence[Modality]) -> SubModel:
    missing = tuple(Modality(name) for name in manifest.modalities if name not in modalities)
    performance = tuple(
        Performance(
            endpoint=Endpoint(facts.endpoint),
            horizon_months=facts.horizon_months,
            auc=facts.auc,
            auc_lower=facts.auc_lower,
            auc_upper=facts.auc_upper,
            observed_expected=facts.observed_expected,
            patients=facts.patients,
            events=facts.events,
        )
        for facts in _facts(manifest, modalities).performance
    )
    return SubModel(modalities=tuple(modalities), missing=missing, performance=performance)


def _contribution(
    manifest: Manifest, endpoint: Endpoint, inputs: Inputs, key: tuple[Modality, str], share: float
) -> Contribution:
    modality, name = key
    value = inputs.values[modality][name]
    range_ = manifest.distribution.get(name)
    boolean = any(predictor.name == name and predictor.type == "boolean" for predictor in manifest.clinical)
    return Contribution(
        endpoint=endpoint,
        modality=modality,
        name=name,
        label=inputs.labels[name],
        value=("yes" if value else "no") if boolean else value,
        unit=inputs.units[name],
        contribution=share,
        imputed=modality == Modality.CLINICAL and name in inputs.imputed,
        out_of_range=range_ is not None and isinstance(value, float) and not range_.p01 <= value <= range_.p99,
    )


def _lacking_text(vector: clinical.ClinicalVector) -> str:
    detail = f"no image features; clinical values lacking: {', '.join(vector.lacking)}"
    return detail if vector.lacking else "no image features"

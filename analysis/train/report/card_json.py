"""`model_card.json`: the model card for programs. Its shape is a type, so what is written is what was meant."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from analysis.train.report import report_text, shown
from analysis.train.report.shown import Found, Line
from models.manifest import Model, Sha256

SCHEMA_VERSION: Literal[1] = 1
NOT_STATED = "not stated"
_FAILURES = (
    "Contours that do not follow the lesion, or hold more than one, give features of something else.",
    "Metal, motion and incomplete slices spoil image features; checks before scoring catch only some of it.",
    "A hospital that differs a little in everything is not noticed by range and distance checks.",
    "The level of risk is that of the training cohort; under other treatment it is wrong though ranking may hold.",
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CohortPart(_Part):
    """Who the model was trained on, as counts."""

    name: str
    patients: int
    events: dict[str, int]
    median_follow_up_months: float
    seed: int


class Feature(_Part):
    """One input; `icc` and `selected_share` (of outer folds) where they were measured, by endpoint."""

    name: str
    label: str
    modality: Literal["clinical", "radiomic", "deep"]
    unit: str = ""
    icc: float | None = None
    selected_share: dict[str, float | None] = {}


class Estimate(_Part):
    """A figure with its 95 % interval; None where too few patients remain to say."""

    value: float | None
    lower: float | None = None
    upper: float | None = None


class HorizonPart(_Part):
    """One model at one horizon; `enough` is false where only the counts mean anything."""

    horizon_months: int
    enough: bool
    patients: int | None
    events: int | None
    event_free: int | None
    auc: Estimate
    ipa: Estimate
    observed_expected: Estimate


class ModelPart(_Part):
    """A combination of modalities, a baseline or the oracle."""

    name: str
    kind: Literal["model", "baseline", "oracle"]
    modalities: tuple[str, ...]
    endpoint: str
    concordance: float | None
    concordance_uno: Estimate
    calibration_slope: Estimate
    hazard_ratio: Estimate
    logrank_p: float | None
    horizons: tuple[HorizonPart, ...]


class SubgroupPart(_Part):
    """A part of the cohort."""

    subgroup: str
    endpoint: str
    horizon_months: int
    patients: int | None
    events: int | None
    auc: Estimate
    observed_expected: float | None


class NullPart(_Part):
    """The whole procedure on shuffled outcomes."""

    name: str
    endpoint: str
    concordance_mean: float | None
    concordance_95: float | None
    p: float | None


class Reach(_Part):
    """Beyond this Mahalanobis distance a patient is flagged; `nominal` is the share of left-out patients beyond it."""

    modality: str
    limit: float
    nominal: float


class Checksums(_Part):
    """SHA-256 of what the model comes from; those of the bundle's files are in `manifest.json`."""

    cohort: Sha256
    preprocessing: Sha256
    files: Literal["manifest.json"] = "manifest.json"


class ModelCard(_Part):
    """`model_card.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    version: str
    synthetic: bool
    warnings: tuple[str, ...]
    research_use_only: Literal[True] = True
    intended_use: str
    data_licence: str
    cohort: CohortPart
    endpoints: dict[str, tuple[int, ...]]
    modalities: tuple[str, ...]
    learners: dict[str, tuple[str, ...]]
    preprocessing: dict[str, Any]
    encoder: str | None
    features: tuple[Feature, ...]
    procedure: dict[str, Any]
    models: tuple[ModelPart, ...]
    subgroups: tuple[SubgroupPart, ...]
    permutations: int
    null: tuple[NullPart, ...]
    stability: dict[str, Any] | None
    out_of_distribution: tuple[Reach, ...]
    range_percentiles: tuple[int, int] = (1, 99)
    limits: tuple[str, ...]
    known_failures: tuple[str, ...] = _FAILURES
    checksums: Checksums


def model_card_json(facts: Mapping[str, Any], found: Mapping[str, Any], model: Model | None = None) -> dict[str, Any]:
    """The document for `model_card.json`.

    Parameters
    ----------
    facts, found : mapping
        As in the manifest and in `metrics.json`.
    model : Model, optional
        From which the limits of the out-of-distribution check are taken.
    """
    seen = shown.showable(found)
    null = seen.get("null") or {}
    procedure = dict(seen.get("procedure") or {})
    learners = procedure.pop("learners", None) or {modality: ["cox"] for modality in facts["modalities"]}
    cohort = facts["cohort"]
    card = ModelCard(
        name=facts["name"],
        version=facts["version"],
        synthetic=facts["synthetic"],
        warnings=tuple(shown.warnings_of({"synthetic": facts["synthetic"], "warning": facts["warning"]})),
        intended_use=facts["intended_use"],
        data_licence=(seen.get("cohort") or {}).get("licence") or NOT_STATED,
        cohort=CohortPart(**{key: cohort[key] for key in CohortPart.model_fields}),
        endpoints={item["name"]: tuple(item["horizons_months"]) for item in facts["endpoints"]},
        modalities=tuple(facts["modalities"]),
        learners={modality: tuple(kinds) for modality, kinds in learners.items()},
        preprocessing=dict(facts["extraction"]),
        encoder=facts.get("encoder"),
        features=tuple(_features(facts, seen)),
        procedure=procedure,
        models=tuple(_model(line) for line in seen.get("models", ())),
        subgroups=tuple(_subgroup(line) for line in seen["subgroups"]),
        permutations=null.get("permutations") or 0,
        null=tuple(
            NullPart(**{key: line.get(key) for key in NullPart.model_fields}) for line in null.get("models", ())
        ),
        stability=seen.get("stability"),
        out_of_distribution=tuple(
            Reach(modality=part.modality, limit=part.limit, nominal=part.nominal)
            for part in getattr(model, "outliers", ())
        ),
        limits=tuple(report_text.limits(seen)),
        checksums=Checksums(cohort=cohort["config_digest"], preprocessing=_digest(facts["extraction"])),
    )
    return card.model_dump(mode="json")


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _features(facts: Mapping[str, Any], found: Found) -> list[Feature]:
    """Every input of the bundle, with what is known of its stability and of how often it was chosen."""
    measured: dict[str, list[Line]] = {}
    for line in found.get("features") or ():
        measured.setdefault(line["name"], []).append(line)
    units = {predictor["name"]: predictor for predictor in facts["clinical"]}
    names = {"clinical": list(units), "radiomic": list(facts["radiomic"]), "deep": list(facts.get("deep") or ())}
    return [
        Feature(
            name=name,
            label=_label(units.get(name), measured.get(name, []), name),
            modality=modality,  # type: ignore[arg-type]
            unit=units[name]["unit"] if name in units else "",
            icc=next((line.get("icc") for line in measured.get(name, ())), None),
            selected_share={line["endpoint"]: line.get("selected_share") for line in measured.get(name, ())},
        )
        for modality, listed in names.items()
        for name in listed
    ]


def _label(predictor: Mapping[str, Any] | None, lines: list[Line], name: str) -> str:
    label = predictor["label"] if predictor else next((line.get("label") for line in lines), None)
    return str(label or name)


def _estimate(line: Found, key: str) -> Estimate:
    return Estimate(value=line.get(key), lower=line.get(f"{key}_lower"), upper=line.get(f"{key}_upper"))


def _model(model: Line) -> ModelPart:
    return ModelPart(
        name=model["name"],
        kind=model.get("kind", "model"),
        modalities=tuple(model.get("modalities") or ()),
        endpoint=model["endpoint"],
        concordance=model.get("concordance"),
        concordance_uno=_estimate(model, "concordance_uno"),
        calibration_slope=_estimate(model, "calibration_slope"),
        hazard_ratio=_estimate(model, "hazard_ratio"),
        logrank_p=model.get("logrank_p"),
        horizons=tuple(_horizon(line) for line in model.get("horizons", ())),
    )


def _horizon(line: Line) -> HorizonPart:
    return HorizonPart(
        horizon_months=line["horizon_months"],
        enough=line.get("enough", line.get("auc") is not None),
        patients=line.get("patients"),
        events=line.get("events"),
        event_free=line.get("event_free"),
        auc=_estimate(line, "auc"),
        ipa=_estimate(line, "ipa"),
        observed_expected=_estimate(line, "observed_expected"),
    )


def _subgroup(line: Line) -> SubgroupPart:
    return SubgroupPart(
        subgroup=f"{line['subgroup']}",
        endpoint=line["endpoint"],
        horizon_months=line["horizon_months"],
        patients=line.get("patients"),
        events=line.get("events"),
        auc=_estimate(line, "auc"),
        observed_expected=line.get("observed_expected"),
    )

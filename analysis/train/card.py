"""The model card and the summary: what was measured, in words and one table."""

from collections.abc import Mapping
from typing import Any

from models.manifest import Manifest

_CARD = """\
# {name} {version}

**{warning}**

{synthetic_note}

## Intended use

{intended_use} Research use only - not for diagnostic use. The score must not decide treatment.

## What it predicts

Probability of {endpoints}, each with a {level:.0%} interval, and a risk group per endpoint: high or low against the
median out-of-fold score of the training cohort, *uncertain* where the interval holds that cut-off.

## Cohort

{patients} patients ({cohort}); events: {events}; median follow-up {follow_up} months (reverse Kaplan-Meier).
Seed {seed}; digest of cohort file and table `{config_digest}`.

## Inputs

Clinical: {clinical}. Below the minimum set ({minimum}) the clinical sub-model does not speak. Other absent values are
filled with the training median or commonest value, and the report says so.

Radiomic: {radiomic} features of the contoured lesion, extracted with the settings in `manifest.json`.

## Method

For each modality a ridge-penalised Cox model; penalty by cross-validated partial likelihood. Features: constant ones
dropped, volume always kept, then by univariate score test, none that correlates (Spearman) above {correlation:g} with
one already in, one per {per_variable} events. Each linear predictor is standardised by its out-of-fold mean and SD; the
score is the equal-weight mean of the modalities at hand; one slope and one Breslow baseline for every combination of
modalities. All of it inside the training part of each fold. Intervals: {bootstrap} bootstrap refits of the
coefficients of the chosen features, and of slope and baseline on the resampled out-of-fold scores.

## Validation

Nested cross-validation, {folds} outer folds, {repeats} repeats. AUC: cumulative/dynamic, weighted for censoring, mean
of within-fold values, with the 95 % interval from resampling patients. O/E: Kaplan-Meier risk over mean predicted risk.
Slope: Cox slope of the outcome on the out-of-fold linear predictor. A horizon with fewer than 8 patients with the
event by then, or 8 known to be free of it, prints no figure.

{table}

{separation}

{oracle_note}

## Limits

Not validated outside its training cohort. Features depend on scanner, reconstruction and contour; a value outside the
1st to 99th percentile of the training cohort is flagged. Prognostic only: it says nothing about benefit from a
treatment.
"""
_SYNTHETIC = (
    "Every patient of the training cohort is synthetic: drawn images, invented outcomes with a planted effect. The "
    "figures below show that the method recovers what was planted. They say nothing about real patients."
)
_REAL = "Trained on the cohort described below."
_VOLUME = "*volume alone* is the ranking by lesion volume."
_ORACLE = """\
*oracle* is the true risk that the generator used: no model can be expected to do better. The interval of a training
patient's risk holds the true one this often: {shares}. It tells how far the fitted model may be off, not how far a
person may differ from others with the same values."""


def model_card(facts: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Markdown for `model_card.md`."""
    cohort, procedure = facts["cohort"], found["procedure"]
    horizons = " and ".join(f"{months}" for months in facts["endpoints"][0]["horizons_months"])
    endpoints = " and of ".join(f"{item['meaning']} ({item['name']})" for item in facts["endpoints"])
    return _CARD.format(
        name=facts["name"],
        version=facts["version"],
        warning=facts["warning"],
        synthetic_note=_SYNTHETIC if facts["synthetic"] else _REAL,
        intended_use=facts["intended_use"],
        endpoints=f"{endpoints} by {horizons} months",
        level=facts["interval_level"],
        patients=cohort["patients"],
        cohort=cohort["name"],
        events=", ".join(f"{name} {count}" for name, count in cohort["events"].items()),
        follow_up=cohort["median_follow_up_months"],
        seed=cohort["seed"],
        config_digest=cohort["config_digest"],
        clinical=", ".join(p["label"] for p in facts["clinical"]) or "none",
        minimum=", ".join(facts["minimum_clinical"]) or "none",
        radiomic=len(facts["radiomic"]),
        correlation=procedure["largest_correlation"],
        per_variable=procedure["events_per_variable"],
        bootstrap=procedure["bootstrap"],
        folds=procedure["outer_folds"],
        repeats=procedure["repeats"],
        table=table(found),
        separation=separation(found),
        oracle_note=_oracle_note(found),
    )


def _oracle_note(found: Mapping[str, Any]) -> str:
    if "interval_holds_oracle" not in found:
        return _VOLUME
    shares = ", ".join(
        f"{line['endpoint']} {line['horizon_months']} months {line['share']:.0%}"
        for line in found["interval_holds_oracle"]
    )
    return _VOLUME + " " + _ORACLE.format(shares=shares)


def table(found: Mapping[str, Any]) -> str:
    """Every combination, and the baselines, at every endpoint and horizon, as a Markdown table."""
    head = ("model", "endpoint", "months", "AUC (95 %)", "IPA", "O/E", "slope", "patients", "events")
    rows = [
        (
            " + ".join(model["modalities"]),
            model["endpoint"],
            line["horizon_months"],
            _auc(line),
            _signed(line["ipa"]),
            _plain(line["observed_expected"]),
            _plain(line["calibration_slope"]),
            line["patients"],
            line["events"],
        )
        for model in found["sub_models"]
        for line in model["horizons"]
    ]
    rows += [
        (line["name"], line["endpoint"], line["horizon_months"], _auc(line), "", "", "", "", "")
        for line in found["baselines"]
    ]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [head, ("---",) * len(head), *rows])


def separation(found: Mapping[str, Any]) -> str:
    """Concordance and hazard ratio of every combination."""
    head = ("model", "endpoint", "C (within fold)", "HR high v low (95 %)")
    rows = [
        (" + ".join(model["modalities"]), model["endpoint"], _plain(model["concordance"]), _ratio(model))
        for model in found["sub_models"]
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ("---",) * len(head), *rows])


def summary(manifest: Manifest, found: Mapping[str, Any]) -> str:
    """What `train` prints at its end."""
    events = ", ".join(f"{name} {count} events" for name, count in manifest.cohort.events.items())
    head = f"bundle {manifest.name} {manifest.version}: {manifest.cohort.patients} patients, {events}"
    return "\n".join([head, manifest.warning, "", table(found), "", separation(found)])


def _auc(line: Mapping[str, Any]) -> str:
    if line["auc"] is None:
        return "too few patients"
    return f"{line['auc']:.3f} ({line['auc_lower']:.2f}-{line['auc_upper']:.2f})"


def _ratio(model: Mapping[str, Any]) -> str:
    if model["hazard_ratio"] is None:
        return "not to be had"
    return f"{model['hazard_ratio']:.2f} ({model['hazard_ratio_lower']:.2f}-{model['hazard_ratio_upper']:.2f})"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"

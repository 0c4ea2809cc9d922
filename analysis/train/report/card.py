"""The model card: what was measured, in words and tables: `model_card.md` for people, `.json` for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.train.report import report_text, shown
from analysis.train.report.card_json import model_card_json
from analysis.train.report.card_terminal import summary
from analysis.train.report.shown import Found, Line, interval, number

__all__ = ["model_card", "model_card_json", "separation", "summary", "table"]

_CARD = """\
# {name} {version}

{warnings}

{synthetic_note}

## Intended use

{intended_use} Research use only - not for diagnostic use. The score must not decide treatment.

## What it predicts

Probability of {endpoints}, each with a {level} interval, and a risk group per endpoint: high or low against the
median out-of-fold score of the training cohort, *uncertain* where the interval holds that cut-off.

## Cohort

{patients} patients ({cohort}); events: {events}; median follow-up {follow_up} months (reverse Kaplan-Meier).
Seed {seed}; digest of cohort file and table `{config_digest}`. Licence of the data: {licence}.

## Inputs

Clinical: {clinical}. Below the minimum set ({minimum}) the clinical sub-model does not speak. Other absent values are
filled with the training median or commonest value, and the report says so.

Radiomic: {radiomic}

Deep: {deep}

A patient without one of these is scored by the combination of those that are there, and the report says which one.

## Method

For each modality: {learners}. Features: constant ones dropped, {stability}, volume always kept, then by univariate
score test, none that correlates (Spearman) above {correlation} with one already in, one per {per_variable} events. Each
score is standardised by its out-of-fold mean and SD; the ensemble is the equal-weight mean of the modalities at hand;
one slope and one Breslow baseline for every combination of modalities. All of it inside the training part of each fold.
Intervals of a person's risk: {bootstrap} bootstrap refits of the coefficients of the chosen features, and of slope and
baseline on the resampled out-of-fold scores.

## Validation

Nested cross-validation, {folds} outer folds, {repeats} repeats. AUC: cumulative/dynamic, weighted for censoring, mean
of within-fold values. O/E: Kaplan-Meier risk over mean predicted risk. Slope: Cox slope of the outcome on the
out-of-fold linear predictor. In brackets 95 % intervals; they do not refit the model. A horizon with fewer than 8
patients with the event by then, or 8 known to be free of it, prints no figure.

{table}

{separation}

{baselines}

{null}

## Subgroups

{subgroups}

## Limits

{limits}
"""
_SYNTHETIC = (
    "Every patient of the training cohort is synthetic: drawn images, invented outcomes with a planted effect. The "
    "figures below show that the method recovers what was planted. They say nothing about real patients."
)
_REAL = "Trained on the cohort described below."
_BASELINES = (
    "Baselines: *tumour size alone* ranks by size and nothing else; *random encoder alone* uses deep features of a "
    "network that was never trained. A model that does not beat them has earned nothing."
)
_ORACLE = """\
*oracle* is the true risk that the generator used: no model can be expected to do better. The interval of a training
patient's risk holds the true one this often: {shares}. It tells how far the fitted model may be off, not how far a
person may differ from others with the same values."""
_OUT_OF_DISTRIBUTION = (
    "A patient far from the training cohort in a modality (Mahalanobis distance beyond what left-out training patients "
    "show) is flagged, and so is a value outside the 1st to 99th percentile of the training cohort. Such flags catch "
    "blunders such as wrong units; they do not reliably notice another scanner or another hospital."
)


def model_card(facts: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Markdown for `model_card.md`: `facts` as in the manifest, `found` as in `metrics.json`."""
    seen = shown.showable(found)
    cohort, procedure = facts["cohort"], seen["procedure"]
    return _CARD.format(
        name=facts["name"],
        version=facts["version"],
        warnings="\n\n".join(f"**{text}**" for text in _warnings(facts)),
        synthetic_note=_SYNTHETIC if facts["synthetic"] else _REAL,
        intended_use=facts["intended_use"],
        endpoints=_endpoints(facts),
        level=shown.percent(facts["interval_level"]),
        patients=cohort["patients"],
        cohort=cohort["name"],
        events=", ".join(f"{name} {count}" for name, count in cohort["events"].items()),
        follow_up=cohort["median_follow_up_months"],
        seed=cohort["seed"],
        config_digest=cohort["config_digest"],
        licence=(seen.get("cohort") or {}).get("licence") or "not stated",
        clinical=", ".join(p["label"] for p in facts["clinical"]) or "none",
        minimum=", ".join(facts["minimum_clinical"]) or "none",
        radiomic=_radiomic(facts),
        deep=_deep(facts),
        learners=_learners(procedure),
        stability=_stability(seen),
        correlation=procedure.get("largest_correlation", shown.NOT_MADE),
        per_variable=procedure.get("events_per_variable", shown.NOT_MADE),
        bootstrap=procedure.get("bootstrap", shown.NOT_MADE),
        folds=procedure.get("outer_folds", shown.NOT_MADE),
        repeats=procedure.get("repeats", shown.NOT_MADE),
        table=table(seen),
        separation=separation(seen),
        baselines=_beside(seen),
        null=_null(seen),
        subgroups=_subgroups(seen),
        limits="\n".join(f"- {line}" for line in [*report_text.limits(seen), _OUT_OF_DISTRIBUTION]),
    )


def _warnings(facts: Mapping[str, Any]) -> list[str]:
    return shown.warnings_of({"synthetic": facts["synthetic"], "warning": facts["warning"]})


def _endpoints(facts: Mapping[str, Any]) -> str:
    said = []
    for item in facts["endpoints"]:
        months = report_text.listed([f"{value}" for value in item["horizons_months"]])
        said.append(f"{item['meaning']} ({item['name']}) by {months} months")
    return report_text.listed(said)


def _radiomic(facts: Mapping[str, Any]) -> str:
    if not facts["radiomic"]:
        return "none."
    how = (
        "extracted with the settings in `manifest.json`" if facts["extraction"] else "as columns of the cohort's table"
    )
    return f"{len(facts['radiomic'])} features of the contoured lesion, {how}."


def _deep(facts: Mapping[str, Any]) -> str:
    names = facts.get("deep") or ()
    if not names:
        return "none."
    encoder = facts.get("encoder")
    source = f"from the encoder `{encoder}` in the bundle" if encoder else "as columns of the cohort's table"
    return f"{len(names)} features of the contoured lesion, {source}: mean and SD inside the contour at several levels."


def _learners(procedure: Mapping[str, Any]) -> str:
    kinds = sorted({kind for kinds in procedure.get("learners", {}).values() for kind in kinds})
    names = {"cox": "a ridge-penalised Cox model (penalty by cross-validated partial likelihood)"}
    return report_text.listed([names.get(kind, kind) for kind in kinds or ["cox"]])


def _stability(found: Found) -> str:
    facts = found.get("stability")
    if not facts:
        return "no test of stability made"
    return (
        f"those left out that repeat badly when contours are moved and noise is added ({facts.get('kept')} of "
        f"{facts.get('features')} kept, ICC at least {facts.get('threshold')}, {facts.get('patients')} patients)"
    )


def table(found: Mapping[str, Any]) -> str:
    """Every combination, and the baselines, at every endpoint and horizon, as a Markdown table."""
    seen = shown.showable(found)
    head = ("model", "endpoint", "months", "AUC (95 %)", "IPA (95 %)", "O/E (95 %)", "patients", "events")
    rows = [
        (shown.name_of(model), endpoint, f"{line['horizon_months']}", *_figures(line), *_counts(line))
        for endpoint in shown.endpoints(seen)
        for model in shown.models_of(seen, endpoint)
        for line in model["horizons"]
    ]
    return _markdown(head, rows)


def _figures(line: Line) -> tuple[str, str, str]:
    if line.get("auc") is None:
        return shown.TOO_FEW, "", ""
    return interval(line, "auc"), interval(line, "ipa", signed=True), interval(line, "observed_expected")


def _counts(line: Line) -> tuple[str, str]:
    return f"{line.get('patients', '')}", f"{line.get('events', '')}"


def separation(found: Mapping[str, Any]) -> str:
    """Concordance, slope and hazard ratio of every combination, over the whole follow-up, as a Markdown table."""
    seen = shown.showable(found)
    head = (
        "model",
        "endpoint",
        "C (within fold)",
        "Uno's C (95 %)",
        "slope (95 %)",
        "HR high v low (95 %)",
        "log-rank",
    )
    rows = [
        (
            shown.name_of(model),
            endpoint,
            number(model.get("concordance")),
            *(interval(model, key) for key in ("concordance_uno", "calibration_slope", "hazard_ratio")),
            shown.p_value(model.get("logrank_p")),
        )
        for endpoint in shown.endpoints(seen)
        for model in shown.models_of(seen, endpoint)
    ]
    return _markdown(head, rows)


def _beside(found: Found) -> str:
    kinds = {model.get("kind") for model in found.get("models", ())}
    said = [_BASELINES] if "baseline" in kinds else []
    holds = found.get("interval_holds_oracle") or ()
    if holds:
        shares = ", ".join(
            f"{line['endpoint']} {line['horizon_months']} months {shown.percent(line.get('share'))}" for line in holds
        )
        said.append(_ORACLE.format(shares=shares))
    return "\n\n".join(said) or "No baseline was judged beside the model."


def _null(found: Found) -> str:
    null = found.get("null") or {}
    if not null.get("models"):
        return "The whole procedure was not run on shuffled outcomes."
    rows = [
        (
            shown.name_of(line),
            line["endpoint"],
            number(line.get("concordance_mean")),
            number(line.get("concordance_95")),
            shown.p_value(line.get("p")),
        )
        for line in null["models"]
    ]
    text = f"The whole procedure on shuffled outcomes, {null.get('permutations')} times:"
    return f"{text}\n\n{_markdown(('model', 'endpoint', 'mean C', '95th percentile', 'p'), rows)}"


def _subgroups(found: Found) -> str:
    rows = [
        (
            f"{line['subgroup']}",
            line["endpoint"],
            f"{line['horizon_months']}",
            f"{line.get('patients', '')}",
            f"{line.get('events', '')}",
            shown.TOO_FEW if line.get("auc") is None else interval(line, "auc"),
            "" if line.get("auc") is None else number(line.get("observed_expected")),
        )
        for line in found["subgroups"]
    ]
    head = ("subgroup", "endpoint", "months", "patients", "events", "AUC (95 %)", "O/E")
    return _markdown(head, rows) if rows else "None were given."


def _markdown(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

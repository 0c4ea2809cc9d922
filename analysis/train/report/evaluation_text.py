"""What an external validation says in text: a line per patient as CSV, and the summary at the command's end."""

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.train.data.cohort import Cohort, Outcome
from analysis.train.judging.external import Scored
from analysis.train.judging.figures import AS_USED
from analysis.train.report.report_text import has_uncertain
from models.manifest import EndpointName

Array = NDArray[np.float64]
LEAST_P = 0.001


def predictions_csv(loaded: Cohort, outcomes: Mapping[EndpointName, Outcome], scored: Scored) -> str:
    """A line per patient without any identifier: the row of the table, what was predicted, what was observed."""
    head = ["row", "sub_model", "not_scored"]
    for endpoint, outcome in outcomes.items():
        head += [f"{endpoint}_risk_{months}" for months in outcome.horizons]
        head += [f"{endpoint}_group", f"{endpoint}_time_months", f"{endpoint}_event"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for row, number in enumerate(loaded.row_numbers):
        result = scored.results[row]
        line: list[Any] = [number, "+".join(result.sub_model.modalities) if result else "", scored.reasons[row]]
        for endpoint, outcome in outcomes.items():
            line += _cells(scored.predictions.probability[AS_USED, endpoint][row])
            line += [scored.groups[endpoint][row], f"{outcome.time[row]:.4f}", int(outcome.event[row])]
        writer.writerow(line)
    return text.getvalue()


def _cells(values: Array) -> list[str]:
    return [f"{value:.6f}" if np.isfinite(value) else "" for value in values]


def summary(found: Mapping[str, Any]) -> str:
    """What `evaluate` prints at its end."""
    cohort_, bundle = found["cohort"], found["bundle"]
    events = ", ".join(f"{name} {count} events" for name, count in cohort_["events"].items())
    scored = f"{cohort_['scored']} of {cohort_['patients']} patients scored, {events}"
    lines = [f"bundle {bundle['name']} {bundle['version']} on {cohort_['name']}: {scored}", found["warning"]]
    lines += [f"not scored: {line['patients']} x {line['sentence']}" for line in found["not_scored"]]
    lines += ["", *(_line(model, horizon) for model in found["models"] for horizon in model["horizons"])]
    lines += ["", *(_separation(line) for line in found["kaplan_meier"])]
    return "\n".join(lines)


def _separation(line: Mapping[str, Any]) -> str:
    groups = ", ".join(f"{group['group']} {group['patients']}" for group in line["groups"])
    if line["hazard_ratio"] is None:
        return f"{line['endpoint']}: {groups}; no hazard ratio: a side of the cut-off has no event"
    limits = f"{line['hazard_ratio_lower']:.2f} to {line['hazard_ratio_upper']:.2f}"
    p = "p < 0.001" if line["logrank_p"] < LEAST_P else f"p = {line['logrank_p']:.3f}"
    ratio = f"hazard ratio high v low {line['hazard_ratio']:.2f} ({limits}), log-rank {p}"
    side = ", uncertain ones on their side of the cut-off" if has_uncertain(line) else ""
    return f"{line['endpoint']}: {groups}; {ratio}{side}"


def _line(model: Mapping[str, Any], horizon: Mapping[str, Any]) -> str:
    head = f"{model['name']:<28} {model['endpoint']:<4} {horizon['horizon_months']:>3} mo  n {horizon['patients']:>4}"
    if not horizon["enough"]:
        few = f"{horizon['events']} with the event, {horizon['event_free']} without: too few patients"
        return f"{head}  {few}"
    parts = [("AUC", "auc"), ("IPA", "ipa"), ("O/E", "observed_expected")]
    shown = [
        f"{label} {horizon[key]:.2f} ({horizon[f'{key}_lower']:.2f} to {horizon[f'{key}_upper']:.2f})"
        for label, key in parts
        if horizon[key] is not None
    ]
    return "  ".join([head, *shown])

"""Every figure of the cross-validation, with the baselines beside it: `metrics.json`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.contract import SYNTHETIC_WARNING
from analysis.train.data.cohort import Cohort, CohortError
from analysis.train.judging import judge, subgroups
from analysis.train.judging.figures import SIZE, Material, figures, name_of, score_line
from analysis.train.judging.metrics import survival_curve
from analysis.train.model import resample
from analysis.train.model.trained import Trained

REAL_WARNING = "Research use only - not for diagnostic use"
Scores = dict[str, dict[str, Any]]


def metrics_of(trained: Trained, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`metrics.json`; `extra` is merged in: mappings key by key, anything else in place of what stands there."""
    loaded, settings = trained.cohort, trained.cohort.file.training
    material = Material(trained.repeats, loaded.outcomes, trained.subsets[-1], subgroups.parts(loaded))
    scores = _scores(trained)
    found: dict[str, Any] = {
        "kind": "cross-validation",
        "warning": warning(loaded.file.cohort.synthetic),
        "synthetic": loaded.file.cohort.synthetic,
        "bundle": {"name": loaded.file.bundle.name or loaded.file.cohort.name, "version": loaded.file.bundle.version},
        "cohort": cohort_facts(loaded),
        "procedure": {
            "outer_folds": settings.folds,
            "repeats": settings.repeats,
            "bootstrap": settings.bootstrap,
            "events_per_variable": settings.events_per_variable,
            "largest_correlation": settings.largest_correlation,
        },
        **figures(material),
    }
    found["models"] += list(score_lines(material, scores))
    if "oracle" in scores:
        found["interval_holds_oracle"] = _oracle_coverage(trained, scores["oracle"])
    return merged(found, judge.rounded(dict(extra or {})))


def warning(synthetic: bool) -> str:
    """What stands above everything that shows a figure."""
    return SYNTHETIC_WARNING if synthetic else REAL_WARNING


def merged(found: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` laid over what was found: mappings key by key, anything else in place of what stands there.

    >>> merged({"procedure": {"repeats": 5}, "sites": []}, {"procedure": {"learners": "cox"}, "sites": [1]})
    {'procedure': {'repeats': 5, 'learners': 'cox'}, 'sites': [1]}
    """
    for key, value in extra.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), dict)
        found[key] = {**found[key], **value} if both else value
    return found


def score_lines(material: Material, scores: Scores) -> Iterator[dict[str, Any]]:
    """The lines of scores that need no fit, where they reach every horizon of an endpoint."""
    for name, by_key in scores.items():
        for endpoint, outcome in material.outcomes.items():
            keys = {months: f"{endpoint}_{months}" for months in outcome.horizons}
            if set(keys.values()) <= set(by_key):
                of = {months: by_key[key] for months, key in keys.items()}
                yield score_line(material, name, "oracle" if name == "oracle" else "baseline", endpoint, of)


def _oracle_coverage(trained: Trained, oracle: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How often the interval of a training patient's risk holds the true one; with every modality at hand."""
    settings, subset = trained.cohort.file.training, trained.subsets[-1]
    found = []
    for endpoint, outcome in trained.cohort.outcomes.items():
        limits = resample.intervals(trained.fitted, trained.refits, trained.blocks, subset, endpoint, settings)
        for column, months in enumerate(outcome.horizons):
            if f"{endpoint}_{months}" in oracle:
                low, high = limits[:, :, column]
                holds = (low <= oracle[f"{endpoint}_{months}"]) & (oracle[f"{endpoint}_{months}"] <= high)
                found.append(
                    {
                        "endpoint": endpoint,
                        "horizon_months": months,
                        "share": round(float(holds[np.isfinite(low)].mean()), 2),
                    }
                )
    return found


def _scores(trained: Trained) -> Scores:
    """Scores that need no fit: the size alone where no model of it was fitted, and the oracle."""
    found: Scores = {}
    if not any(subset == SIZE for subset, _ in trained.repeats[0].linear_predictor):
        found |= size_scores(trained.cohort)
    return found | oracle_scores(trained.cohort)


def size_scores(loaded: Cohort) -> Scores:
    """The ranking by the size of the tumour: what the cohort file says stands for it, or the lesion's volume."""
    keys = [f"{endpoint}_{months}" for endpoint, outcome in loaded.outcomes.items() for months in outcome.horizons]
    stated = loaded.file.training.size
    for name in loaded.file.radiomic.always_keep if stated is None else (stated,):
        size = subgroups.numbers(loaded, name)
        if np.isfinite(size).any():
            return {name_of(SIZE): dict.fromkeys(keys, size)}
    return {}


def oracle_scores(loaded: Cohort) -> Scores:
    """The true risks of a synthetic cohort, from its truth.json; nothing for any other."""
    if loaded.file.cohort.truth is None:
        return {}
    truth = _truth(loaded, loaded.folder / loaded.file.cohort.truth)
    keys = [f"{endpoint}_{months}" for endpoint, outcome in loaded.outcomes.items() for months in outcome.horizons]
    known = [key for key in keys if key in truth[loaded.patient_ids[0]]["risk"]]
    return {"oracle": {key: np.array([truth[name]["risk"][key] for name in loaded.patient_ids]) for key in known}}


def _truth(loaded: Cohort, path: Path) -> Mapping[str, Any]:
    """The true risks by patient. Raises CohortError where the file does not hold every patient."""
    try:
        truth: Mapping[str, Any] = json.loads(path.read_bytes())["patients"]
        absent = [
            number
            for number, name in zip(loaded.row_numbers, loaded.patient_ids, strict=True)
            if "risk" not in truth.get(name, {})
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CohortError(
            f"cohort.truth: {path.name} holds no true risks; take the key out, or make it again"
        ) from None
    if absent:
        raise CohortError(f"cohort.truth: {path.name} lacks the patient of row {absent[0]}; take the key out")
    return truth


def cohort_facts(loaded: Cohort) -> dict[str, Any]:
    """Counts; the follow-up is the reverse Kaplan-Meier median of the first endpoint."""
    first = next(iter(loaded.outcomes.values()))
    months = np.arange(0, int(first.time.max()) + 2, dtype=float)
    beyond = survival_curve(first.time, ~first.event, months)
    median = float(months[int(np.argmax(beyond <= 0.5))]) if (beyond <= 0.5).any() else float(first.time.max())
    return {
        "name": loaded.file.cohort.name,
        "patients": len(loaded),
        "events": {name: int(outcome.event.sum()) for name, outcome in loaded.outcomes.items()},
        "median_follow_up_months": round(median, 1),
        "seed": loaded.file.cohort.seed,
        "config_digest": loaded.digest,
    }

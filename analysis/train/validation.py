"""Every figure of the validation, with the baselines beside it: `metrics.json`."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from analysis.train import judge, resample
from analysis.train.cohort import Cohort
from analysis.train.metrics import survival_curve
from analysis.train.trained import Trained
from models.manifest import EndpointName


def metrics_of(trained: Trained) -> dict[str, Any]:
    """`metrics.json`: every figure of the validation, with the baselines beside it."""
    settings = trained.cohort.file.training
    scores = _baselines(trained)
    found: dict[str, Any] = {
        "cohort": cohort_facts(trained.cohort),
        "procedure": {
            "outer_folds": settings.folds,
            "repeats": settings.repeats,
            "bootstrap": settings.bootstrap,
            "events_per_variable": settings.events_per_variable,
            "largest_correlation": settings.largest_correlation,
        },
        "sub_models": [
            _sub_model(trained, subset, endpoint) for subset in trained.subsets for endpoint in trained.cohort.outcomes
        ],
        "baselines": [line for name, by_key in scores.items() for line in _baseline(trained, name, by_key)],
    }
    if "oracle" in scores:
        found["interval_holds_oracle"] = _oracle_coverage(trained, scores["oracle"])
    return found


def _sub_model(trained: Trained, subset: tuple[Any, ...], endpoint: EndpointName) -> dict[str, Any]:
    outcome, repeats = trained.cohort.outcomes[endpoint], trained.repeats
    lines = judge.performance(repeats, subset, endpoint, outcome)
    horizons = [
        line.model_dump(mode="json")
        | judge.brier_and_ipa(repeats, subset, endpoint, outcome, column, line.horizon_months)
        for column, line in enumerate(lines)
    ]
    separation = vars(judge.separation(repeats, subset, endpoint, outcome))
    return {"modalities": list(subset), "endpoint": endpoint, "horizons": horizons, **separation}


def _baseline(trained: Trained, name: str, by_key: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for endpoint, outcome in trained.cohort.outcomes.items():
        for months in outcome.horizons:
            score = by_key.get(f"{endpoint}_{months}")
            if score is not None:
                found = judge.baseline_auc(trained.repeats, score, outcome, months)
                yield {"name": name, "endpoint": endpoint, "horizon_months": months} | found


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


def _baselines(trained: Trained) -> dict[str, dict[str, Any]]:
    """Scores that need no fit: the volume alone, and on a synthetic cohort the oracle."""
    loaded = trained.cohort
    keys = [f"{endpoint}_{months}" for endpoint, outcome in loaded.outcomes.items() for months in outcome.horizons]
    found: dict[str, dict[str, Any]] = {}
    for name in loaded.file.radiomic.always_keep:
        if name in loaded.radiomic_names:
            found["volume alone"] = dict.fromkeys(keys, loaded.radiomic[:, loaded.radiomic_names.index(name)])
    if loaded.file.cohort.truth is not None:
        truth = json.loads((loaded.folder / loaded.file.cohort.truth).read_text())["patients"]
        found["oracle"] = {
            key: np.array([truth[name]["risk"][key] for name in loaded.patient_ids])
            for key in keys
            if key in truth[loaded.patient_ids[0]]["risk"]
        }
    return found


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

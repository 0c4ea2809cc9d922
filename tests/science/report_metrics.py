"""A `metrics.json` as training writes it, computed from simulated patients: what the report's tests are fed."""

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from models.bundle import combinations_of

Array = NDArray[np.float64]
HORIZONS = (12, 36)
STRENGTH = {"clinical": 0.5, "radiomic": 0.55, "deep": 0.3}
LONG_NAMES = (
    ("original_shape_MeshVolume", "Volume of the lesion", "radiomic"),
    ("original_gldm_LargeDependenceHighGrayLevelEmphasis", "Large dependence, high grey level emphasis", "radiomic"),
    ("original_shape_Sphericity", "Sphericity", "radiomic"),
    ("original_glszm_SizeZoneNonUniformityNormalized", "original_glszm_SizeZoneNonUniformityNormalized", "radiomic"),
    ("ecog", "ECOG performance status", "clinical"),
    ("nlr", "Neutrophil-to-lymphocyte ratio", "clinical"),
    ("albumin", "Albumin", "clinical"),
    ("liver_metastases", "Liver metastases", "clinical"),
    ("deep_level2_sd_07", "Deep feature, level 2, SD 7", "deep"),
    ("deep_level3_mean_11", "Deep feature, level 3, mean 11", "deep"),
)


def built(*, count: int = 240, seed: int = 7, kind: str = "cross-validation", synthetic: bool = True) -> dict[str, Any]:
    """A fresh copy; the same arguments give the same document."""
    return deepcopy(_built(count, seed, kind, synthetic))


@cache
def _built(count: int, seed: int, kind: str, synthetic: bool) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    parts = {name: rng.normal(size=count) for name in STRENGTH}
    eta = np.sum([STRENGTH[name] * part for name, part in parts.items()], axis=0)
    death = 20 * (-np.log(rng.random(count)) * np.exp(-eta)) ** (1 / 1.1)
    progressed = 11 * (-np.log(rng.random(count)) * np.exp(-0.8 * eta)) ** (1 / 1.1)
    censored = np.minimum(rng.exponential(90, count), rng.uniform(20, 60, count))
    times = {"OS": death, "PFS": np.minimum(death, progressed)}
    outcomes = {name: (np.minimum(time, censored), time <= censored) for name, time in times.items()}
    scores = {" + ".join(names): _sum(parts, names) for names in combinations_of(tuple(STRENGTH))}
    scores["size"] = 0.35 * parts["radiomic"] + 0.35 * rng.normal(size=count)
    scores["random encoder"] = 0.2 * parts["deep"] + 0.35 * rng.normal(size=count)
    scores["oracle"] = eta
    names = list(scores)
    found: dict[str, Any] = {
        "kind": kind,
        "synthetic": synthetic,
        "warning": "SYNTHETIC - NOT FOR CLINICAL USE" if synthetic else "Research use only - not for diagnostic use",
        "bundle": {"name": "planted-demo", "version": "1.2.0", "digest": "ab" * 32},
        "cohort": {
            "name": f"synthetic-{count}",
            "patients": count,
            "events": {name: int(event.sum()) for name, (_, event) in outcomes.items()},
            "median_follow_up_months": 33.4,
            "seed": seed,
            "config_digest": "0123456789abcdef" * 4,
        },
        "procedure": {
            "learners": {"clinical": ["cox"], "radiomic": ["cox", "survival-forest"], "deep": ["cox"]},
            "least_icc": 0.75,
            "outer_folds": 5,
            "repeats": 5,
            "bootstrap": 200,
            "events_per_variable": 10,
            "largest_correlation": 0.9,
        },
        "models": [
            _model(name, scores[name], endpoint, *outcomes[endpoint]) for endpoint in outcomes for name in names
        ],
        "curves": [
            _curve(name, scores[name], endpoint, months, *outcomes[endpoint])
            for endpoint in outcomes
            for months in HORIZONS
            for name in (names[0], names[6], "size")
        ],
        "kaplan_meier": [
            _separation(scores[names[6]], endpoint, time, event) for endpoint, (time, event) in outcomes.items()
        ],
        "subgroups": _subgroups(rng, count),
        "sites": [{**line, "site": site} for site, line in zip("AB", _subgroups(rng, count), strict=False)],
        "features": [
            {
                "name": name,
                "label": label,
                "modality": modality,
                "endpoint": endpoint,
                "coefficient": round(float(rng.normal(0.1, 0.2)), 4),
                "importance": round(0.4 / (place + 1), 4),
                "selected_share": round(float(rng.uniform(0.2, 1)), 2),
                "icc": None if modality == "clinical" else round(float(rng.uniform(0.76, 0.99)), 3),
            }
            for endpoint in outcomes
            for place, (name, label, modality) in enumerate(LONG_NAMES)
        ],
        "null": {
            "permutations": 40,
            "models": [
                {"name": names[6], "endpoint": e, "concordance_mean": 0.501, "concordance_95": 0.553, "p": 0.0244}
                for e in outcomes
            ],
        },
        "learners": [
            {"modality": "radiomic", "endpoint": "OS", "learner": "cox", "concordance": 0.66},
            {"modality": "radiomic", "endpoint": "OS", "learner": "forest", "concordance": 0.64},
        ],
        "stability": {"patients": 40, "perturbations": 4, "threshold": 0.75, "features": 107, "kept": 71},
        "interval_holds_oracle": [{"endpoint": "OS", "horizon_months": 12, "share": 0.81}],
    }
    if kind == "external":
        for model in found["models"]:
            if model["name"] == names[6]:
                model |= {"name": "as used", "modalities": []}
        for line in (*found["curves"], *found["kaplan_meier"]):
            line["name"] = "as used" if line["name"] == names[6] else line["name"]
        for key in ("null", "learners", "stability", "interval_holds_oracle"):
            del found[key]
        found["sub_models_used"] = [
            {"modalities": ["clinical", "radiomic", "deep"], "patients": count - 30},
            {"modalities": ["clinical"], "patients": 30},
        ]
        sentence = "There are no clinical values and no contour."
        found["not_scored"] = [{"reason": "NOTHING", "sentence": sentence, "patients": 4}]
        found["predictors_absent"] = ["pdl1"]
        found["cohort"]["scored"] = count - 4
        found["range"] = {
            "patients_outside": 0.18,
            "features": [{"name": "nlr", "share": 0.07, "median": 4.0312, "training_median": 3.5}],
        }
        found["out_of_distribution"] = 0.09
    return found


def _sum(parts: dict[str, Array], names: Sequence[str]) -> Array:
    return np.asarray(np.sum([STRENGTH[name] * parts[name] for name in names], axis=0))


def _survival(time: Array, event: NDArray[np.bool_], at: Array) -> Array:
    steps, survival = kaplan_meier_estimator(event, time)
    return np.asarray(np.concatenate([[1.0], survival])[np.searchsorted(steps, at, side="right")])


def _ratio(high: NDArray[np.bool_], time: Array, event: NDArray[np.bool_]) -> list[float]:
    """Hazard ratio with rough limits: the standard error is that of two groups of a size."""
    fitted = CoxPHSurvivalAnalysis(alpha=1e-6).fit(high[:, None].astype(float), Surv.from_arrays(event, time))
    error = 2 / np.sqrt(event.sum())
    return [round(float(np.exp(fitted.coef_[0] + move * error)), 3) for move in (0, -1.96, 1.96)]


def _kind(name: str) -> str:
    if name == "oracle":
        return "oracle"
    return "baseline" if "size" in name or "random" in name else "model"


def _model(name: str, score: Array, endpoint: str, time: Array, event: NDArray[np.bool_]) -> dict[str, Any]:
    c = float(concordance_index_censored(event, time, score)[0])
    kind = _kind(name)
    fitted = kind == "model"
    limits = _ratio(score > np.median(score), time, event)
    return {
        "name": name,
        "kind": kind,
        "modalities": name.split(" + ") if fitted else [],
        "endpoint": endpoint,
        "patients": len(score),
        "events": int(event.sum()),
        "concordance": round(c, 4),
        "concordance_uno": round(c - 0.01, 4),
        "concordance_uno_lower": round(c - 0.05, 4),
        "concordance_uno_upper": round(c + 0.03, 4),
        "calibration_slope": 0.94 if fitted else None,
        "calibration_slope_lower": 0.71 if fitted else None,
        "calibration_slope_upper": 1.18 if fitted else None,
        "hazard_ratio": limits[0],
        "hazard_ratio_lower": limits[1],
        "hazard_ratio_upper": limits[2],
        "logrank_p": 0.00004,
        "horizons": [_horizon(score, months, time, event, fitted=fitted) for months in HORIZONS],
    }


def _horizon(score: Array, months: int, time: Array, event: NDArray[np.bool_], *, fitted: bool) -> dict[str, Any]:
    case = event & (time <= months)
    auc = float((score[case][:, None] > score[time > months][None, :]).mean())
    error = 0.55 / np.sqrt(min(case.sum(), (time > months).sum()))
    return {
        "horizon_months": months,
        "auc": round(auc, 4),
        "auc_lower": round(auc - 1.96 * error / 2, 4),
        "auc_upper": round(min(1.0, auc + 1.96 * error / 2), 4),
        "brier": 0.19,
        "ipa": round(2 * (auc - 0.5) ** 2, 4) if fitted else None,
        "ipa_lower": round(2 * (auc - 0.5) ** 2 - 0.06, 4) if fitted else None,
        "ipa_upper": round(2 * (auc - 0.5) ** 2 + 0.06, 4) if fitted else None,
        "observed_expected": 0.98 if fitted else None,
        "observed_expected_lower": 0.86 if fitted else None,
        "observed_expected_upper": 1.12 if fitted else None,
        "patients": len(score),
        "events": int(case.sum()),
        "event_free": int((time > months).sum()),
        "censored_before": int((~event & (time <= months)).sum()),
        "enough": bool(case.sum() >= 8 and (time > months).sum() >= 8),
    }


def _curve(
    name: str, score: Array, endpoint: str, months: int, time: Array, event: NDArray[np.bool_]
) -> dict[str, Any]:
    case = event & (time <= months)
    order = np.argsort(-score)
    true = np.concatenate([[0], np.cumsum(case[order]) / case.sum()])
    false = np.concatenate([[0], np.cumsum(~case[order]) / (~case).sum()])
    risk = 1 / (1 + np.exp(-(1.1 * score + np.log(case.mean() / (1 - case.mean())))))
    bins = np.array_split(np.argsort(risk), 5)
    at = np.array([float(months)])
    observed = [1 - float(_survival(time[b], event[b], at)[0]) for b in bins]
    thresholds = np.arange(0.05, 0.96, 0.05)
    odds = thresholds / (1 - thresholds)
    gain = [
        (case & (risk >= t)).mean() - (~case & (risk >= t)).mean() * o for t, o in zip(thresholds, odds, strict=True)
    ]
    return {
        "name": name,
        "endpoint": endpoint,
        "horizon_months": months,
        "roc": [*np.round(np.column_stack([false, true]), 4)[::4].tolist(), [1.0, 1.0]],
        "calibration": [
            {
                "predicted": round(float(risk[b].mean()), 4),
                "observed": round(o, 4),
                "lower": round(max(0.0, o - 0.12), 4),
                "upper": round(min(1.0, o + 0.12), 4),
                "patients": len(b),
            }
            for b, o in zip(bins, observed, strict=True)
        ],
        "decision": {
            "threshold": np.round(thresholds, 2).tolist(),
            "model": np.round(gain, 4).tolist(),
            "all": np.round(case.mean() - (1 - case.mean()) * odds, 4).tolist(),
            "none": 0,
        },
    }


def _separation(score: Array, endpoint: str, time: Array, event: NDArray[np.bool_]) -> dict[str, Any]:
    cut, band = np.median(score), np.abs(score - np.median(score)) < 0.12
    groups = {"LOW": (score < cut) & ~band, "UNCERTAIN": band, "HIGH": (score > cut) & ~band}
    limits = _ratio(groups["HIGH"], time, event)
    at = np.arange(0, 61, 1.0)
    listed = []
    for name, members in groups.items():
        survival = _survival(time[members], event[members], at)
        band_width = 1.96 * np.sqrt(np.maximum(survival * (1 - survival), 0) / max(members.sum(), 1))
        listed.append(
            {
                "group": name,
                "patients": int(members.sum()),
                "events": int(event[members].sum()),
                "times": at.tolist(),
                "survival": np.round(survival, 4).tolist(),
                "lower": np.round(np.clip(survival - band_width, 0, 1), 4).tolist(),
                "upper": np.round(np.clip(survival + band_width, 0, 1), 4).tolist(),
                "at_risk": [[month, int((time[members] >= month).sum())] for month in (0, 12, 24, 36, 48, 60)],
            }
        )
    return {
        "name": "clinical + radiomic + deep",
        "endpoint": endpoint,
        "hazard_ratio": limits[0],
        "hazard_ratio_lower": limits[1],
        "hazard_ratio_upper": limits[2],
        "logrank_p": 0.00004,
        "groups": listed,
    }


def _subgroups(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    labels = ("sex = F", "sex = M", "age under 65", "age 65 or over", "contrast = no")
    return [
        {
            "subgroup": label,
            "endpoint": "OS",
            "horizon_months": 12,
            "patients": count // 2 if enough else 9,
            "events": count // 5 if enough else 3,
            "auc": (auc := round(float(rng.uniform(0.68, 0.8)), 4)),
            "auc_lower": round(auc - 0.1, 4),
            "auc_upper": round(auc + 0.1, 4),
            "observed_expected": round(float(rng.uniform(0.85, 1.15)), 3),
            "enough": enough,
        }
        for label, enough in zip(labels, (True, True, True, True, False), strict=True)
    ]


def with_too_few(found: dict[str, Any], endpoint: str, months: int) -> dict[str, Any]:
    """The same document where that horizon is declared to have too few patients; the figures stay, to be held back."""
    for model in found["models"]:
        for line in model["horizons"]:
            if model["endpoint"] == endpoint and line["horizon_months"] == months:
                line["enough"] = False
    return found

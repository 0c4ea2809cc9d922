"""Training from cohort file to bundle: read, extract, judge in nested cross-validation, fit, resample, write."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.contract import SYNTHETIC_WARNING
from analysis.train import card, cohort, crossval, features, resample
from analysis.train.cohort import Cohort, CohortError
from analysis.train.design import Block, blocks
from analysis.train.fit import Fitted, fit, last_month
from analysis.train.metrics import survival_curve
from models.bundle import BundleError, combinations_of, load, write
from models.manifest import (
    Bootstrap,
    CoxModel,
    CoxRows,
    Distribution,
    EndpointName,
    Model,
    Recalibration,
    RecalibrationRows,
    SubModelFacts,
    significant,
)

Progress = Callable[[str, int], Callable[[int], None]]
MEANING: dict[EndpointName, str] = {"OS": "death of any cause", "PFS": "progression or death of any cause"}


@dataclass(frozen=True)
class Trained:
    """Everything that training found, before it is written."""

    cohort: Cohort
    blocks: tuple[Block, ...]
    fitted: Fitted
    refits: resample.Refits
    repeats: list[crossval.OutOfFold]


def train(
    path: Path,
    out: Path,
    *,
    cache: Path | None = None,
    replace: bool = False,
    workers: int = 2,
    progress: Progress | None = None,
) -> str:
    """Train on COHORT.toml and write the bundle to `out`; gives a summary for people.

    Raises
    ------
    CohortError
        The cohort cannot be trained on, or `out` is taken.
    FileNotFoundError
        The cohort file or its table is absent.
    """
    _check_out(out, replace)
    loaded = cohort.load(path)
    if loaded.file.images is not None:
        count = sum(paths is not None for paths in loaded.image_paths)
        loaded = features.extract(
            loaded,
            cache or loaded.folder / "features-cache",
            workers,
            progress("features", count) if progress else None,
        )
    trained = fit_all(loaded, progress)
    _replace(trained, out)
    return card.summary(load(out).manifest, metrics_of(trained))


def fit_all(loaded: Cohort, progress: Progress | None = None) -> Trained:
    """Judge, fit and resample; the cohort has its features already."""
    settings, seed = loaded.file.training, loaded.file.cohort.seed
    _check_follow_up(loaded)
    parts = blocks(loaded)
    _check_availability(parts)
    repeats = crossval.nested(
        parts,
        loaded.outcomes,
        settings,
        seed,
        progress("outer folds", settings.repeats * settings.folds) if progress else None,
    )
    fitted = fit(parts, loaded.outcomes, np.arange(len(loaded)), settings, seed)
    refits = resample.refit(
        fitted, parts, loaded.outcomes, settings, seed, progress("refits", settings.bootstrap) if progress else None
    )
    return Trained(loaded, parts, fitted, refits, repeats)


def _check_out(out: Path, replace: bool) -> None:
    if not out.exists() or not any(out.iterdir()):
        return
    if not replace:
        raise CohortError(f"{out}: not empty; give a new folder, or --replace to replace the bundle there")
    if not (out / "manifest.json").is_file():
        raise CohortError(f"{out}: holds no bundle, so it is not replaced; give another folder")


def _check_follow_up(loaded: Cohort) -> None:
    for endpoint, outcome in loaded.outcomes.items():
        last = float(outcome.time.max())
        if last < last_month(loaded.file.training):
            raise CohortError(
                f"{endpoint}: the longest follow-up is {last:.1f} months, so nothing can be said at "
                f"{last_month(loaded.file.training)}; set training.horizons_months to what the data bear"
            )


def _check_availability(parts: tuple[Block, ...]) -> None:
    for block in parts:
        count = int(block.available.sum())
        if count < cohort.MINIMUM_PATIENTS:
            raise CohortError(
                f"{block.modality}: {count} patients have it, at least {cohort.MINIMUM_PATIENTS} are needed; complete "
                "the data or leave this modality out"
            )


def _replace(trained: Trained, out: Path) -> None:
    """Write beside the target and move into place, so that a half-written bundle never stands there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bundle-") as scratch:
        draft = Path(scratch) / "bundle"
        try:
            write_bundle(trained, draft)
        except BundleError as error:
            raise AssertionError(f"training wrote a bundle that does not load: {error}") from error
        if out.exists():
            shutil.rmtree(out)
        draft.replace(out)


def write_bundle(trained: Trained, folder: Path) -> None:
    """Write everything into a new folder."""
    found = metrics_of(trained)
    facts = manifest_facts(trained)
    texts = {
        "metrics.json": json.dumps(found, indent=1, sort_keys=True) + "\n",
        "model_card.md": card.model_card(facts, found),
    }
    write(folder, facts, model_of(trained), bootstrap_of(trained), texts)


def model_of(trained: Trained) -> Model:
    """`model.json`."""
    return Model(
        cox=tuple(
            CoxModel(
                modality=block.modality,
                endpoint=endpoint,
                columns=cox.recipe.columns,
                coefficients=tuple(cox.beta.tolist()),
                offset=standard[0],
                scale=standard[1],
            )
            for block in trained.blocks
            for endpoint in trained.cohort.outcomes
            for cox, standard in [
                (trained.fitted.cox[block.modality, endpoint], trained.fitted.standard[block.modality, endpoint])
            ]
        ),
        recalibration=tuple(
            Recalibration(
                modalities=subset, endpoint=endpoint, slope=found.slope, cumulative_hazard=tuple(found.hazard.tolist())
            )
            for (subset, endpoint), found in _ordered(trained, trained.fitted.recalibration)
        ),
    )


def bootstrap_of(trained: Trained) -> Bootstrap:
    """`bootstrap.json`; five digits are plenty for a percentile."""
    refits = trained.refits
    return Bootstrap(
        rows=trained.cohort.file.training.bootstrap,
        cox=tuple(
            CoxRows(
                modality=block.modality,
                endpoint=endpoint,
                coefficients=tuple(_short(row) for row in refits.coefficients[block.modality, endpoint]),
                offset=_short([row[0] for row in refits.standard[block.modality, endpoint]]),
                scale=_short([row[1] for row in refits.standard[block.modality, endpoint]]),
            )
            for block in trained.blocks
            for endpoint in trained.cohort.outcomes
        ),
        recalibration=tuple(
            RecalibrationRows(
                modalities=subset,
                endpoint=endpoint,
                slope=_short([row[0] for row in rows]),
                cumulative_hazard=tuple(_short(row[1]) for row in rows),
            )
            for (subset, endpoint), rows in _ordered(trained, refits.recalibration)
        ),
    )


def _short(values: Any) -> tuple[float, ...]:
    return tuple(significant(float(value), 5) for value in values)


def _subsets(trained: Trained) -> list[tuple[Any, ...]]:
    return combinations_of(tuple(block.modality for block in trained.blocks))


def _ordered(trained: Trained, table: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    keys = [(subset, endpoint) for subset in _subsets(trained) for endpoint in trained.cohort.outcomes]
    return [(key, table[key]) for key in keys]


def manifest_facts(trained: Trained) -> dict[str, Any]:
    """The manifest without its file list."""
    file, outcomes = trained.cohort.file, trained.cohort.outcomes
    warning = SYNTHETIC_WARNING if file.cohort.synthetic else "Research use only - not for diagnostic use"
    used = sorted(
        {
            column.feature
            for (modality, _), found in trained.fitted.cox.items()
            if modality == "radiomic"
            for column in found.recipe.columns
        }
    )
    return {
        "name": file.bundle.name or file.cohort.name,
        "version": file.bundle.version,
        "synthetic": file.cohort.synthetic,
        "warning": warning,
        "intended_use": file.bundle.intended_use,
        "endpoints": [
            {"name": name, "meaning": MEANING[name], "horizons_months": file.training.horizons_months}
            for name in outcomes
        ],
        "modalities": [block.modality for block in trained.blocks],
        "clinical": _predictors(trained),
        "minimum_clinical": file.clinical.minimum,
        "radiomic": used,
        "extraction": features.settings_of(trained.cohort).to_json() if used else {},
        "interval_level": file.training.interval_level,
        "sub_models": [_sub_model(trained, subset) for subset in _subsets(trained)],
        "distribution": _distribution(trained, used),
        "cohort": cohort_facts(trained.cohort),
    }


def _predictors(trained: Trained) -> list[dict[str, Any]]:
    found = []
    for block in trained.blocks:
        for index, (name, section) in enumerate(block.predictors.items()):
            present = block.matrix[np.isfinite(block.matrix[:, index]), index]
            if section.type == "number":
                fill: float | str = significant(float(np.median(present)))
            else:
                code = int(np.bincount(present.astype(int)).argmax())
                fill = section.categories[code] if section.type == "category" else float(code)
            found.append(section.predictor(fill).model_dump() | {"name": name})
    return found


def _sub_model(trained: Trained, subset: tuple[Any, ...]) -> SubModelFacts:
    settings = trained.cohort.file.training
    return SubModelFacts(
        modalities=subset,
        cutoffs={
            endpoint: trained.fitted.recalibration[subset, endpoint].cutoff for endpoint in trained.cohort.outcomes
        },
        performance=tuple(
            line
            for endpoint, outcome in trained.cohort.outcomes.items()
            for line in crossval.performance(trained.repeats, subset, endpoint, outcome, settings)
        ),
    )


def _distribution(trained: Trained, used: list[str]) -> dict[str, Distribution]:
    found = {}
    for block in trained.blocks:
        for index, name in enumerate(block.names):
            if block.predictors and block.predictors[name].type != "number":
                continue
            if not block.predictors and name not in used:
                continue
            values = block.matrix[np.isfinite(block.matrix[:, index]), index]
            low, high = np.quantile(values, [0.01, 0.99])
            found[name] = Distribution(
                median=significant(float(np.median(values))),
                p01=significant(float(low)),
                p99=significant(float(high)),
                mean=significant(float(values.mean())),
                sd=significant(float(values.std())),
            )
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


def metrics_of(trained: Trained) -> dict[str, Any]:
    """`metrics.json`: every figure of the validation, with the baselines beside it."""
    settings, outcomes = trained.cohort.file.training, trained.cohort.outcomes
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
        "sub_models": [],
        "baselines": [],
    }
    for subset in _subsets(trained):
        for endpoint, outcome in outcomes.items():
            lines = crossval.performance(trained.repeats, subset, endpoint, outcome, settings)
            separation = crossval.separation(trained.repeats, subset, endpoint, outcome)
            horizons = [
                line.model_dump(mode="json")
                | crossval.brier_and_ipa(trained.repeats, subset, endpoint, outcome, column, line.horizon_months)
                for column, line in enumerate(lines)
            ]
            found["sub_models"].append(
                {"modalities": list(subset), "endpoint": endpoint, "horizons": horizons, **vars(separation)}
            )
    for name, by_key in scores.items():
        for endpoint, outcome in outcomes.items():
            for months in settings.horizons_months:
                score = by_key.get(f"{endpoint}_{months}")
                if score is not None:
                    found["baselines"].append(
                        {"name": name, "endpoint": endpoint, "horizon_months": months}
                        | crossval.baseline_auc(trained.repeats, score, outcome, months)
                    )
    if "oracle" in scores:
        found["interval_holds_oracle"] = _oracle_coverage(trained, scores["oracle"])
    return found


def _oracle_coverage(trained: Trained, oracle: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How often the interval of a training patient's risk holds the true one; with every modality at hand."""
    settings, subset = trained.cohort.file.training, _subsets(trained)[-1]
    found = []
    for endpoint in trained.cohort.outcomes:
        limits = resample.intervals(trained.fitted, trained.refits, trained.blocks, subset, endpoint, settings)
        for column, months in enumerate(settings.horizons_months):
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
    keys = [f"{endpoint}_{months}" for endpoint in loaded.outcomes for months in loaded.file.training.horizons_months]
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

"""External validation of an installed bundle on any cohort file: score, judge, write."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from analysis.contract import REASONS, Reason
from analysis.deep import Encoder, EncoderError
from analysis.settings import ExtractionSettings, ExtractionSettingsInvalid
from analysis.train import place
from analysis.train.data import cohort, features
from analysis.train.data.cohort import Cohort, CohortError, Outcome
from analysis.train.judging import judge, shift, subgroups
from analysis.train.judging.external import Scored, absent, check_units, outcomes_of, patients_of, score_cohort
from analysis.train.judging.figures import AS_USED, Material, figures
from analysis.train.judging.validation import cohort_facts, oracle_scores, score_lines, size_scores, warning
from analysis.train.report import report, tripod
from analysis.train.report.evaluation_text import predictions_csv, summary
from models.bundle import Bundle, BundleError, load
from models.manifest import EndpointName

Progress = Callable[[str, int], Callable[[int], None]]
METRICS, PREDICTIONS = "metrics.json", "predictions.csv"
FILES = (METRICS, PREDICTIONS, "report.html", "tripod_ai.md")
SAME = "These are the very patients that the bundle was trained on: this is no external validation."


def evaluate(
    bundle_folder: Path,
    path: Path,
    out: Path,
    *,
    cache: Path | None = None,
    replace: bool = False,
    workers: int = 2,
    progress: Progress | None = None,
) -> str:
    """Validate a bundle on COHORT.toml and write report and figures to `out`; gives a summary for people.

    Raises
    ------
    CohortError
        The cohort cannot be scored by this bundle.
    PlaceTaken
        `out` holds something else than an evaluation to be replaced.
    BundleError
        The folder is not a bundle that may be used.
    FileNotFoundError
        The cohort file or its table is absent.
    """
    place.check(out, replace, evaluation_files)
    found, predictions = validate(load(bundle_folder), path, cache, workers, progress)
    _write(out, found, predictions, replace)
    return summary(found)


def validate(
    bundle: Bundle, path: Path, cache: Path | None = None, workers: int = 1, progress: Progress | None = None
) -> tuple[dict[str, Any], str]:
    """Contents of `metrics.json` and of `predictions.csv`. Raises as `evaluate` does."""
    loaded = cohort.load(path, training=False)
    outcomes = outcomes_of(bundle, loaded)
    check_units(bundle, loaded)
    if loaded.file.images is not None:
        loaded = with_features(bundle, loaded, cache or loaded.folder / "features-cache", workers, progress)
    shown = progress("patients", len(loaded)) if progress else None
    scored = score_cohort(bundle, patients_of(bundle, loaded), outcomes, shown)
    if not any(scored.results):
        raise CohortError(f"no patient can be scored: {_why(scored)}; supply what the bundle needs")
    return metrics_of(bundle, loaded, outcomes, scored), predictions_csv(loaded, outcomes, scored)


def evaluation_files(folder: Path) -> set[str]:
    """What an evaluation that stands in a folder owns; empty where none does."""
    return set(FILES) if (folder / PREDICTIONS).is_file() else set()


def with_features(
    bundle: Bundle, loaded: Cohort, cache: Path, workers: int = 1, progress: Progress | None = None
) -> Cohort:
    """The cohort with the image features that the bundle uses, measured with the bundle's settings and encoder.

    What the table already has in ready columns is not measured again. Raises BundleError where the bundle's own
    settings or encoder cannot be used, CohortError for an image.
    """
    manifest = bundle.manifest
    radiomic = set(manifest.radiomic) - set(loaded.radiomic_names)
    deep = manifest.encoder is not None and set(manifest.deep) - set(loaded.deep_names)
    encoder = bundle.folder / manifest.encoder if deep and manifest.encoder is not None else None
    try:
        settings = ExtractionSettings.from_json(manifest.extraction) if radiomic and manifest.extraction else None
        if encoder is not None:
            Encoder.load(encoder)
    except (ExtractionSettingsInvalid, EncoderError) as error:
        raise BundleError(f"{error}; install the bundle again from its source") from None
    if settings is None and encoder is None:
        return loaded
    count = sum(paths is not None for paths in loaded.image_paths)
    what = features.Extraction(settings, encoder, refuse=False)
    return features.extract(loaded, what, cache, workers, progress("features", count) if progress else None)


def metrics_of(
    bundle: Bundle, loaded: Cohort, outcomes: Mapping[EndpointName, Outcome], scored: Scored
) -> dict[str, Any]:
    """`metrics.json` of an external validation."""
    manifest, same = bundle.manifest, loaded.digest == bundle.manifest.cohort.config_digest
    synthetic = manifest.synthetic or loaded.file.cohort.synthetic
    material = Material(
        [scored.predictions], outcomes, AS_USED, subgroups.parts(loaded), loaded.sites, groups=scored.groups
    )
    with_outcomes = _with(loaded, outcomes)
    used = Counter(result.sub_model.modalities for result in scored.results if result is not None)
    found: dict[str, Any] = {
        "kind": "external",
        "warning": f"{warning(synthetic)}. {SAME}" if same else warning(synthetic),
        "synthetic": synthetic,
        "same_cohort": same,
        "bundle": {"name": manifest.name, "version": manifest.version, "digest": bundle.digest},
        "cohort": cohort_facts(with_outcomes) | {"scored": sum(used.values())},
        "procedure": {
            "trained_on": manifest.cohort.name,
            "interval_level": manifest.interval_level,
            "horizons_months": {name: list(outcome.horizons) for name, outcome in outcomes.items()},
        },
        **figures(material),
        "sub_models_used": [
            {"modalities": [str(name) for name in modalities], "patients": count}
            for modalities, count in used.most_common()
        ],
        "not_scored": _not_scored(scored),
        "predictors_absent": absent(bundle, loaded),
        **judge.rounded(shift.shift(bundle, loaded, scored)),
    }
    found["models"] += list(score_lines(material, size_scores(with_outcomes) | oracle_scores(with_outcomes)))
    return found


def _with(loaded: Cohort, outcomes: Mapping[EndpointName, Outcome]) -> Cohort:
    return dataclasses.replace(loaded, outcomes=outcomes)


def _not_scored(scored: Scored) -> list[dict[str, Any]]:
    reasons = Counter(reason for reason in scored.reasons if reason)
    return [
        {"reason": reason, "sentence": REASONS[Reason(reason)].sentence, "patients": count}
        for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    ]


def _why(scored: Scored) -> str:
    return "; ".join(f"{line['patients']} x {line['sentence']}" for line in _not_scored(scored))


def _write(out: Path, found: Mapping[str, Any], predictions: str, replace: bool) -> None:
    with place.place(out, replace, evaluation_files) as draft:
        draft.mkdir()
        text = json.dumps(found, indent=1, sort_keys=True, allow_nan=False) + "\n"
        (draft / METRICS).write_text(text, encoding="utf-8")
        (draft / PREDICTIONS).write_text(predictions, encoding="utf-8")
        report.write(draft, found)
        tripod.write(draft, found)

"""Training from cohort file to bundle: read, extract, judge in nested cross-validation, fit, resample, write."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from analysis.train import card, cohort, crossval, features, resample
from analysis.train.assemble import bootstrap_of, manifest_facts, model_of
from analysis.train.cohort import Cohort, CohortError
from analysis.train.design import Block, blocks
from analysis.train.fit import fit
from analysis.train.trained import Trained
from analysis.train.validation import metrics_of
from models.bundle import BundleError, load, write

Progress = Callable[[str, int], Callable[[int], None]]


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
        if last < max(outcome.horizons):
            raise CohortError(
                f"{endpoint}: the longest follow-up is {last:.1f} months, so nothing can be said at "
                f"{max(outcome.horizons)}; set training.horizons_months to what the data bear"
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

"""Training from cohort file to bundle: read, extract, judge in nested cross-validation, fit, resample, write."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from analysis import golden
from analysis.train import place
from analysis.train.data import cohort, features, suspicion
from analysis.train.data.cohort import Cohort, CohortError
from analysis.train.judging.validation import metrics_of, oracle_scores
from analysis.train.model import crossval, design, null, reach, resample
from analysis.train.model.assemble import bootstrap_of, forests_of, manifest_facts, model_of
from analysis.train.model.design import Block
from analysis.train.model.findings import findings
from analysis.train.model.fit import fit
from analysis.train.model.predictions import OutOfFold, Rows
from analysis.train.model.trained import Trained
from analysis.train.report import card, report, tripod
from models.bundle import ENCODER, MANIFEST, BundleError, combinations_of, load, write

LEAST_TOGETHER, LEAST_EVENTS_TOGETHER = 25, 10
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
        The cohort cannot be trained on.
    PlaceTaken
        `out` holds something else than a bundle to be replaced.
    FileNotFoundError
        The cohort file or its table is absent.
    """
    place.check(out, replace, bundle_files)
    loaded = cohort.load(path)
    features.encoder_of(loaded)
    oracle_scores(loaded)
    suspicion.check(loaded, design.blocks(loaded))
    if loaded.file.images is not None:
        loaded = with_features(loaded, cache or loaded.folder / "features-cache", workers, progress)
    trained = fit_all(loaded, progress, workers)
    metrics = metrics_of(trained, findings(trained))
    _replace(trained, metrics, out, replace)
    return card.summary(load(out).manifest, metrics)


def with_features(loaded: Cohort, cache: Path, workers: int = 1, progress: Progress | None = None) -> Cohort:
    """The cohort with the image features that its file asks for, those of the control encoder among them."""
    count = sum(paths is not None for paths in loaded.image_paths)
    with _control(loaded) as control:
        what = features.of_cohort_file(loaded, control)
        return features.extract(loaded, what, cache, workers, progress("features", count) if progress else None)


@contextmanager
def _control(loaded: Cohort) -> Iterator[Path | None]:
    """An encoder that has learned nothing, for as long as features are extracted."""
    encoder = features.encoder_of(loaded)
    if encoder is None or not loaded.file.deep.random_control:
        yield None
        return
    try:
        from analysis.train.encoder.encoder import write_random_encoder  # noqa: PLC0415 (torch, and only here)
    except ModuleNotFoundError:
        raise CohortError(
            "deep.random_control needs torch, which is not installed: install the extra `train`, or set it to false "
            "and do without the control"
        ) from None
    with tempfile.TemporaryDirectory(prefix="prognode-") as folder:
        control = Path(folder) / "control.onnx"
        write_random_encoder(encoder, control, loaded.file.cohort.seed)
        yield control


def fit_all(loaded: Cohort, progress: Progress | None = None, workers: int = 1) -> Trained:
    """Judge, fit and resample; the cohort has its features already."""
    settings, seed = loaded.file.training, loaded.file.cohort.seed
    _check_follow_up(loaded)
    parts = design.blocks(loaded)
    _check_availability(parts)
    _check_combinations(parts, loaded, np.arange(len(loaded)))
    suspicion.check(loaded, parts)
    beside = design.baselines(loaded, parts)
    everything = (*parts, *beside)

    def counted(what: str, total: int) -> Callable[[int], None] | None:
        return progress(what, total) if progress and total else None

    judged = crossval.nested(
        everything, loaded.outcomes, settings, seed, counted("outer folds", settings.repeats * settings.folds), workers
    )
    chance = null.permuted(
        everything, loaded.outcomes, settings, seed, counted("permutations", settings.permutations), workers
    )
    fitted = fit(parts, loaded.outcomes, np.arange(len(loaded)), settings, seed)
    return Trained(
        cohort=loaded,
        blocks=parts,
        baselines=beside,
        fitted=fitted,
        refits=resample.refit(fitted, parts, loaded.outcomes, settings, seed, counted("refits", settings.bootstrap)),
        nested=judged,
        null=chance,
        outliers=reach.outliers_of(fitted, parts, tuple(loaded.outcomes), seed),
        sites=_leave_site_out(loaded, parts),
        encoder=features.encoder_of(loaded),
    )


def _leave_site_out(loaded: Cohort, parts: tuple[Block, ...]) -> dict[str, OutOfFold]:
    """For each hospital, predictions by a model of all the others; one that cannot be left out is passed over."""
    found = {}
    sites = np.array(loaded.sites)
    for site in sorted(set(loaded.sites) - {""}):
        inside = np.flatnonzero(sites == site)
        others = np.flatnonzero(sites != site)
        events = min((int(outcome.event[others].sum()) for outcome in loaded.outcomes.values()), default=0)
        if len(others) >= cohort.MINIMUM_PATIENTS and events >= cohort.MINIMUM_EVENTS:
            try:
                _check_combinations(parts, loaded, others)
            except CohortError:
                continue  # the others lack a modality that this hospital alone has
            fitted = fit(parts, loaded.outcomes, others, loaded.file.training, loaded.file.cohort.seed)
            found[site] = crossval.predict(parts, loaded.outcomes, fitted, inside)
    return found


def bundle_files(folder: Path) -> set[str]:
    """What a bundle of any version that stands in a folder owns; empty where none does."""
    try:
        listed = json.loads((folder / MANIFEST).read_bytes())["files"]
        return {MANIFEST, *listed}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


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


def _check_combinations(parts: tuple[Block, ...], loaded: Cohort, rows: Rows) -> None:
    """Every combination needs patients who have all of it, and events among them, to be calibrated on."""
    for subset in combinations_of(tuple(block.modality for block in parts)):
        there = rows[np.all([block.available[rows] for block in parts if block.modality in subset], axis=0)]
        events = min(int(outcome.event[there].sum()) for outcome in loaded.outcomes.values())
        if len(there) < LEAST_TOGETHER or events < LEAST_EVENTS_TOGETHER:
            raise CohortError(
                f"{' + '.join(subset)}: only {len(there)} patients with {events} events have all of it, at least "
                f"{LEAST_TOGETHER} with {LEAST_EVENTS_TOGETHER} are needed; complete the data or leave a modality out"
            )


def _replace(trained: Trained, metrics: Mapping[str, Any], out: Path, replace: bool) -> None:
    with place.place(out, replace, bundle_files) as draft:
        try:
            write_bundle(trained, draft, metrics)
        except BundleError as error:
            raise AssertionError(f"training wrote a bundle that does not load: {error}") from error


def write_bundle(trained: Trained, folder: Path, metrics: Mapping[str, Any] | None = None) -> None:
    """Write everything into a new folder: once to run the golden case on it, then again with what came out."""
    found = metrics_of(trained, findings(trained)) if metrics is None else metrics
    facts = manifest_facts(trained)
    parts = model_of(trained), bootstrap_of(trained)
    files: dict[str, str | bytes] = {
        "metrics.json": json.dumps(found, indent=1, sort_keys=True) + "\n",
        "model_card.md": card.model_card(facts, found),
        "model_card.json": json.dumps(card.model_card_json(facts, found, parts[0]), indent=1, sort_keys=True) + "\n",
        "report.html": report.render(found),
        "tripod_ai.md": tripod.table(found),
    }
    if trained.encoder is not None:
        files[ENCODER] = trained.encoder.read_bytes()
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".draft-") as scratch:
        draft = write(Path(scratch) / "bundle", facts, *parts, files, forests_of(trained))
        case = golden.make(draft)
    write(folder, facts, *parts, files | case, forests_of(trained))

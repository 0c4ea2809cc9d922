"""What was planted is found, what was not is not: the long form, on one synthetic cohort with images.

    python -m benchmarks.synthetic [--draws N] [--short] [--encoder FILE] [--folder DIR] [--workers N]

The images are made and measured once (half an hour on two cores; kept in DIR), then outcomes are drawn again and
again for the same patients, and each draw goes through nested cross-validation. Deep features are among them where
an encoder is given. Every line states a target; the exit code is 1 where one is missed.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from analysis.train import pipeline
from analysis.train.data import cohort, suspicion
from analysis.train.data.cohort import Cohort, CohortError, Outcome, TrainingSection
from analysis.train.judging import judge
from analysis.train.judging.predicted import predicted
from analysis.train.judging.ranking import within_folds
from analysis.train.model import crossval, design, null
from analysis.train.model.design import SIZE, Block
from analysis.train.model.predictions import Subset
from analysis.train.synth import outcomes
from analysis.train.synth.outcomes import Mode, Patients
from analysis.train.synth.synth import SynthConfig, make_cohort
from models.manifest import EndpointName

ROOT = Path(__file__).resolve().parents[1]
COUNT, SEED = 240, SynthConfig.seed
HORIZONS = (12, 36)
Row = dict[str, float]


@dataclass(frozen=True)
class Check:
    """One line of the table: what was measured, what it must hold to, and whether it does."""

    what: str
    target: str
    figure: str
    held: bool

    def __str__(self) -> str:
        return f"{self.what:<52}{self.target:>16}{self.figure:>44}  {'ok' if self.held else 'FAIL'}"


@dataclass(frozen=True)
class Setting:
    """The measured cohort, and how often to draw."""

    blocks: tuple[Block, ...]
    patients: Patients
    training: TrainingSection
    draws: int
    null_draws: int
    permutations: int
    workers: int

    @property
    def modalities(self) -> Subset:
        return tuple(block.modality for block in self.blocks if not block.baseline)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=12, help="outcome draws where something is planted (default: 12)")
    parser.add_argument("--short", action="store_true", help="3 draws, 5 of the null, 5 permutations: a smoke test")
    parser.add_argument("--encoder", type=Path, default=ROOT / "models" / "demo" / "encoder.onnx")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "science", help="where images are kept")
    parser.add_argument("--count", type=int, default=COUNT, help="patients (default: 240)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    options = parser.parse_args()
    setting = measured(options)
    print(f"{len(setting.patients)} patients, modalities {', '.join(setting.modalities)}\n", flush=True)
    missed = 0
    for checks in (planted, volume_only, nothing, chance, refusals, site_shift):
        for check in checks(setting):
            print(check, flush=True)
            missed += not check.held
    return 1 if missed else 0


def measured(options: argparse.Namespace) -> Setting:
    """The cohort with its features: made and measured on the first run."""
    folder = options.folder / f"cohort-{options.count}"
    if not (folder / "cohort.toml").is_file():
        print("making images ...", flush=True)
        make_cohort(SynthConfig(options.count, seed=SEED), folder, options.workers)
    loaded = cohort.load(folder / "cohort.toml")
    if options.encoder.is_file():
        deep = loaded.file.deep.model_copy(update={"encoder": options.encoder.resolve()})
        loaded = replace(loaded, file=loaded.file.model_copy(update={"deep": deep}))
    print("measuring ...", flush=True)
    loaded = pipeline.with_features(loaded, options.folder / "features", options.workers)
    parts = design.blocks(loaded)
    return Setting(
        blocks=(*parts, *(block for block in design.baselines(loaded, parts) if block.modality == SIZE)),
        patients=outcomes.draw(options.count, SEED),
        training=loaded.file.training.model_copy(update={"repeats": 1}),
        draws=3 if options.short else options.draws,
        null_draws=5 if options.short else max(20, options.draws),
        permutations=5 if options.short else 19,
        workers=options.workers,
    )


def each(setting: Setting, one: Callable[[int], Row], count: int) -> list[Row]:
    """Figures of every draw, the draws over the processes."""
    with ProcessPoolExecutor(setting.workers) as pool:
        return list(pool.map(one, range(count)))


def mean(rows: Sequence[Row], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def shown(rows: Sequence[Row], name: str) -> str:
    return f"{mean(rows, name):.3f} (SD {np.std([row[name] for row in rows], ddof=1):.3f})"


def outcomes_of(patients: Patients) -> dict[EndpointName, Outcome]:
    return {
        "OS": Outcome(patients.os_time, patients.os_event, HORIZONS),
        "PFS": Outcome(patients.pfs_time, patients.pfs_event, HORIZONS),
    }


# Something is planted -----------------------------------------------------------------------------------------


def planted(setting: Setting) -> Iterator[Check]:
    """All modalities together against an oracle that knows every patient's true risk."""
    rows = each(setting, partial(draw, setting, "planted"), setting.draws)
    for months, target in zip(HORIZONS, (0.06, 0.08), strict=True):
        gap = mean(rows, f"gap_{months}")
        figure = f"{gap:.3f} = {mean(rows, f'oracle_{months}'):.3f} - {shown(rows, f'auc_{months}')}"
        yield Check(f"planted: OS {months}, oracle AUC less ours", f"<= {target}", figure, gap <= target)
    bounds = (("slope", 0.7, 1.4), ("observed_expected", 0.9, 1.1), ("hazard_ratio", 1.7, np.inf))
    for name, low, high in bounds:
        target = f">= {low}" if np.isinf(high) else f"{low} to {high}"
        held = low <= mean(rows, name) <= high
        yield Check(f"planted: OS {name.replace('_', ' ')}", target, shown(rows, name), held)


def draw(setting: Setting, mode: Mode, seed: int) -> Row:
    """Figures of one draw of OS: all modalities, the oracle, and radiomics beside the size alone."""
    patients = outcomes.outcomes(setting.patients, seed, mode)
    outcome = outcomes_of(patients)["OS"]
    repeats = crossval.nested(setting.blocks, {"OS": outcome}, setting.training, seed).repeats
    figures = judge.model_figures(predicted(repeats, setting.modalities, "OS", outcome))
    row = {"slope": figures["calibration_slope"], "hazard_ratio": figures["hazard_ratio"]}
    row["observed_expected"] = figures["horizons"][0]["observed_expected"]
    for column, months in enumerate(HORIZONS):
        truth = judge.baseline_auc(repeats, outcomes.oracle_risk(patients, months)["OS"], outcome, months)["auc"]
        assert truth is not None
        row |= {f"oracle_{months}": truth, f"auc_{months}": figures["horizons"][column]["auc"]}
        row[f"gap_{months}"] = truth - row[f"auc_{months}"]
    for name in ("radiomic", SIZE):
        row[name] = within_folds(repeats, (name,), "OS", outcome)
    return row


def volume_only(setting: Setting) -> Iterator[Check]:
    """Where the volume alone bears on the outcome, texture must not seem to add to it."""
    rows = each(setting, partial(draw, setting, "volume-only"), setting.draws)
    gain = mean(rows, "radiomic") - mean(rows, SIZE)
    figure = f"{gain:+.3f} = {mean(rows, 'radiomic'):.3f} - {mean(rows, SIZE):.3f}"
    yield Check("volume-only: C of radiomics less C of size alone", "<= 0.01", figure, gain <= 0.01)


# Nothing is there ---------------------------------------------------------------------------------------------


def nothing(setting: Setting) -> Iterator[Check]:
    """The whole procedure where nothing bears on the outcome."""
    rows = each(setting, partial(draw_null, setting), setting.null_draws)
    for endpoint in ("OS", "PFS"):
        held = abs(mean(rows, endpoint) - 0.5) <= 0.04
        yield Check(f"null: within-fold C of {endpoint}", "0.5 +- 0.04", shown(rows, endpoint), held)


def draw_null(setting: Setting, seed: int) -> Row:
    found = outcomes_of(outcomes.outcomes(setting.patients, seed, "null"))
    repeats = crossval.nested(setting.blocks, found, setting.training, seed).repeats
    return {endpoint: within_folds(repeats, setting.modalities, endpoint, found[endpoint]) for endpoint in found}


def chance(setting: Setting) -> Iterator[Check]:
    """Permutation p where nothing is there: each value as often as any other. By the clinical modality alone."""
    values = np.sort([row["p"] for row in each(setting, partial(draw_p, setting), setting.null_draws)])
    # p is 1/n, 2/n ... 1 with n runs in all; the mean of 20 such values has a standard error of 0.065.
    expected = (setting.permutations + 2) / (2 * (setting.permutations + 1))
    bound = 2.5 / np.sqrt(12 * len(values))
    quarters = np.histogram(values, [0, 0.2501, 0.5001, 0.7501, 1.0001])[0]
    figure = f"{values.mean():.2f}, by quarter {' '.join(map(str, quarters))}, least {values[0]:.2f}"
    held = bool(abs(values.mean() - expected) <= bound)
    yield Check("null: mean of permutation p", f"{expected:.2f} +- {bound:.2f}", figure, held)


def draw_p(setting: Setting, seed: int) -> Row:
    found = {"OS": outcomes_of(outcomes.outcomes(setting.patients, 500 + seed, "null"))["OS"]}
    blocks = setting.blocks[:1]
    training = setting.training.model_copy(update={"permutations": setting.permutations})
    observed = within_folds(crossval.nested(blocks, found, training, seed).repeats, ("clinical",), "OS", found["OS"])
    return {"p": null.permuted(blocks, found, training, seed).p_value((("clinical",), "OS"), observed)}


# Traps --------------------------------------------------------------------------------------------------------


def refusals(setting: Setting) -> Iterator[Check]:
    """Cohorts that would flatter a model, and what training says of them."""
    for mode, naming in (("leak", "cycles_received"), ("duplicates", "rows ")):
        with tempfile.TemporaryDirectory(prefix="prognode-") as scratch:
            said = refused(len(setting.patients), mode, Path(scratch) / "cohort")  # type: ignore[arg-type]
        yield Check(f"{mode}: refused, naming {naming.strip()}", "refused", said[:42], naming in said)


def refused(count: int, mode: Mode, folder: Path) -> str:
    """The message; empty where the cohort is accepted."""
    with suppress(CohortError):
        loaded = table(count, mode, folder)
        try:
            suspicion.check(loaded, design.blocks(loaded))
        except CohortError as error:
            return str(error)
    return ""


def table(count: int, mode: Mode, folder: Path) -> Cohort:
    make_cohort(SynthConfig(count, seed=SEED, mode=mode, images=False), folder)
    return cohort.load(folder / "cohort.toml")


def site_shift(setting: Setting) -> Iterator[Check]:
    """A model of one hospital at another whose patients are sicker: calibration must be seen to break."""
    with tempfile.TemporaryDirectory(prefix="prognode-") as scratch:
        loaded = table(2 * len(setting.patients), "site-shift", Path(scratch) / "cohort")
        found = pipeline._leave_site_out(loaded, design.blocks(loaded))
    outcome = loaded.outcomes["OS"]
    ratios = {}
    for site, prediction in found.items():
        given = predicted([prediction], ("clinical",), "OS", outcome)
        ratios[site] = judge.observed_expected(given, 0)["observed_expected"]
    figure = ", ".join(f"{site} {ratio:.2f}" for site, ratio in ratios.items())
    broken = bool(ratios) and all(ratio is not None and abs(ratio - 1) > 0.1 for ratio in ratios.values())
    yield Check("site-shift: O/E at 12 months, hospital left out", "off by > 0.1", figure, broken)


if __name__ == "__main__":
    sys.exit(main())

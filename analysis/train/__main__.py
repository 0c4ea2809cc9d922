"""`python -m analysis.train synth | train | pretrain | evaluate`: behind the commands of `prognode` of that name."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from analysis.train.place import PlaceTaken
from analysis.train.synth.synth import SynthConfig, SynthError, make_cohort
from analysis.train.synth.synth_options import SYNTH_DESCRIPTION, SYNTH_EXAMPLES, add_synth_arguments

COHORT = """\
  COHORT.toml    names a table (CSV in UTF-8, one row per patient) and its
                 columns: patient identifier; time and event of OS and PFS
                 (1 event, 0 censored); clinical predictors; folder of the CT
                 and file of the contour (RTSTRUCT or SEG), or features that
                 are measured already. Every key: docs/science.md, The cohort
                 file. `prognode cohort synth` makes one to look at."""
TRAIN = f"""\
Train a model bundle on a cohort: nested cross-validation, calibration, and what it
is held against. Needs 40 patients and 20 events.

in:
{COHORT}

out, a new folder:
  report.html    how good it is, for people: read it before anything else
  metrics.json   every figure of it; model_card.md, tripod_ai.md: to be completed
  manifest.json  and the model: the folder as a whole is what a node installs

The way from a cohort to a node: docs/bundles.md.
"""
EVALUATE = f"""\
Validate a bundle on patients that it was not trained on: each is scored as a node
would, and held against what happened. Trains and changes nothing.

in:
  bundle         folder that `prognode train` wrote
{COHORT}
                 Units and categories as the bundle's cohort had them.

out, a new folder:
  report.html    how good it is here, who could not be scored, how far these
                 patients lie from those it was trained on
  metrics.json   every figure of it; tripod_ai.md
  predictions.csv  a row per patient, by its row in the table
"""
PRETRAIN = """\
Pretrain the encoder of the deep features on images; outcomes are not looked at.
Takes hours.

in, one or several:
  COHORT.toml    its table's columns with CT and contour, as `prognode train` has it
  folder         each folder `ct` of DICOM files in it, at any depth, with one
                 contour file (*.dcm, RTSTRUCT or SEG) beside it

out:
  an ONNX file, for `[deep] encoder` of the cohort file (docs/science.md, Deep
  features); facts of the training on standard output
"""
EXTRA = ("scipy", "sklearn", "sksurv", "onnx")  # of `train`; a node comes without
CACHE = "folder of extracted features (default: features-cache beside the cohort file)"
WORKERS = "processes that measure images (default: %(default)s)"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; gives the exit status (sysexits.h)."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        text = f'training needs the extra `train` ({error.name} is missing); install it: pip install "prognode[train]"'
        return _refuse(Exception(text), os.EX_UNAVAILABLE)


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 256:
        raise argparse.ArgumentTypeError("must lie between 1 and 256")
    return number


def _words(description: str, example: str) -> dict[str, Any]:
    """What a parser says before and after its options, as it stands."""
    return {
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "description": description,
        "epilog": example,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis.train", description=__doc__)
    commands = parser.add_subparsers(required=True)
    add_synth_arguments(
        commands.add_parser(
            "synth",
            prog="prognode cohort synth",
            help="make a synthetic cohort whose truth is known",
            **_words(SYNTH_DESCRIPTION, SYNTH_EXAMPLES),
        )
    ).set_defaults(command=_synth)
    train = commands.add_parser(
        "train",
        prog="prognode train",
        help="train a bundle on a cohort",
        **_words(TRAIN, "Example: prognode train cohort.toml --out bundle/"),
    )
    train.add_argument("cohort", type=Path, help="COHORT.toml")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder of the bundle")
    train.add_argument("--cache", type=Path, metavar="DIR", help=CACHE)
    train.add_argument("--replace", action="store_true", help="replace the bundle that stands at --out")
    train.add_argument("--workers", type=_count, default=2, help=WORKERS)
    train.set_defaults(command=_train)
    _add_pretrain(commands)
    _add_evaluate(commands)
    return parser


def _add_pretrain(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    pretrain = commands.add_parser(
        "pretrain",
        prog="prognode pretrain",
        help="pretrain the encoder of deep features",
        **_words(PRETRAIN, "Example: prognode pretrain cohort/ --out encoder.onnx --checkpoint pretraining/"),
    )
    pretrain.add_argument(
        "images", type=Path, nargs="+", help="COHORT.toml, or a folder: each `ct` in it with one contour file beside it"
    )
    pretrain.add_argument("--out", type=Path, required=True, metavar="FILE", help="the encoder, an ONNX file")
    add = pretrain.add_argument
    add("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    add("--steps", type=int, default=1500, help="of the training (default: %(default)s)")
    add("--checkpoint", type=Path, metavar="DIR", help="folder: an interrupted run goes on from there")
    add("--cache", type=Path, metavar="DIR", help="folder of cut patches (default: patch-cache beside --out)")
    add("--workers", type=_count, default=2, help="processes that cut patches (default: %(default)s)")
    add(
        "--threads", type=int, default=1, help="of the training; another number, other last bits (default: %(default)s)"
    )
    pretrain.set_defaults(command=_pretrain)


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    evaluate = commands.add_parser(
        "evaluate",
        prog="prognode evaluate",
        help="validate a bundle on a cohort of elsewhere",
        **_words(EVALUATE, "Example: prognode evaluate bundle/ cohort.toml --out evaluation/"),
    )
    evaluate.add_argument("bundle", type=Path, help="folder of the bundle")
    evaluate.add_argument("cohort", type=Path, help="COHORT.toml")
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder of figures and report")
    evaluate.add_argument("--cache", type=Path, metavar="DIR", help=CACHE)
    evaluate.add_argument("--replace", action="store_true", help="replace the evaluation that stands at --out")
    evaluate.add_argument("--workers", type=_count, default=2, help=WORKERS)
    evaluate.set_defaults(command=_evaluate)


def _synth(options: argparse.Namespace) -> int:
    config = SynthConfig(
        count=options.count,
        seed=options.seed,
        mode=options.mode,
        matrix=options.matrix,
        slices=options.slices,
        slice_mm=options.slice_mm,
        images=not options.no_images,
        roi=options.roi,
        background=options.background,
        missing_images=options.missing_images,
    )

    def run() -> str:
        make_cohort(config, options.out, options.workers, progress("patients", sum(config.with_images())))
        return ""

    return _carried_out(run, {SynthError: os.EX_USAGE})


def _train(options: argparse.Namespace) -> int:
    if (refused := _no_cohort(options.cohort)) is not None:
        return refused
    # Here and not above: a synthetic cohort needs none of the engines that training loads.
    from analysis.train.data.cohort import CohortError  # noqa: PLC0415
    from analysis.train.pipeline import train  # noqa: PLC0415

    return _carried_out(
        lambda: train(options.cohort, options.out, **_common(options)),
        {CohortError: os.EX_DATAERR, FileNotFoundError: os.EX_NOINPUT},
    )


def _pretrain(options: argparse.Namespace) -> int:
    # Here and not above: torch takes seconds to load, and is absent where nothing is trained.
    try:
        from analysis.train.encoder.pretrain import PretrainConfig, pretrain  # noqa: PLC0415
    except ImportError as error:
        return _refuse(Exception(f"pretraining needs the extra `train`: {error}"), os.EX_UNAVAILABLE)
    from analysis.train.encoder.patches import PretrainError, find_cases, load_patches  # noqa: PLC0415

    def run() -> str:
        config = PretrainConfig(seed=options.seed, steps=options.steps, threads=options.threads)
        try:
            cases = find_cases(options.images)
        except UnicodeDecodeError:
            raise PretrainError("the cohort's table is not in UTF-8; save it as UTF-8") from None
        cache = options.cache or options.out.parent / "patch-cache"
        shown = progress("patches", len(cases))
        patches = load_patches(cases, config.training_patch(), cache, options.workers, shown)
        steps = progress("steps", options.steps)
        facts = pretrain(patches, config, options.out, options.checkpoint, steps)
        return "".join(f"{name}: {value}\n" for name, value in facts.items())

    return _carried_out(run, {PretrainError: os.EX_DATAERR, FileNotFoundError: os.EX_NOINPUT})


def _evaluate(options: argparse.Namespace) -> int:
    if (refused := _no_cohort(options.cohort)) is not None:
        return refused
    # Here and not above, as for `_train`.
    from analysis.train.data.cohort import CohortError  # noqa: PLC0415
    from analysis.train.evaluate import evaluate  # noqa: PLC0415
    from models.bundle import BundleError  # noqa: PLC0415

    return _carried_out(
        lambda: evaluate(options.bundle, options.cohort, options.out, **_common(options)),
        {CohortError: os.EX_DATAERR, BundleError: os.EX_CONFIG, FileNotFoundError: os.EX_NOINPUT},
    )


def _common(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("cache", "replace", "workers")} | {"progress": progress}


def _carried_out(run: Callable[[], str], refusals: Mapping[type[Exception], int]) -> int:
    """Print what `run` says. An error of a kind in `refusals`, or of writing, is told, and decides the exit status."""
    known: dict[type[Exception], int] = {**refusals, PlaceTaken: os.EX_CANTCREAT, OSError: os.EX_CANTCREAT}
    try:
        said = run()
    except tuple(known) as error:
        return _refuse(error, next(status for kind, status in known.items() if isinstance(error, kind)))
    sys.stdout.write(said if not said or said.endswith("\n") else said + "\n")
    return os.EX_OK


def _refuse(error: Exception, status: int) -> int:
    named = isinstance(error, OSError) and error.filename is not None
    sys.stderr.write(f"{error.filename}: {error.strerror}\n" if named else f"{error}\n")  # type: ignore[attr-defined]
    return status


def _no_cohort(path: Path) -> int | None:
    """Exit status where there is no such file; said before the engines of training are loaded."""
    if path.is_file():
        return None
    text = f"{path}: no such file; give the COHORT.toml that names the cohort's table and images (docs/science.md)"
    return _refuse(Exception(text), os.EX_NOINPUT)


def progress(what: str, total: int) -> Callable[[int], None]:
    """A counter on standard error: in place on a terminal, a line per tenth elsewhere."""
    started = time.monotonic()
    terminal = sys.stderr.isatty()

    def show(done: int) -> None:
        if terminal or done == total or done % max(1, total // 10) == 0:
            seconds = time.monotonic() - started
            end = "\r" if terminal and done < total else "\n"
            sys.stderr.write(f"{what}: {done} of {total}, {seconds:.0f} s{end}")
            sys.stderr.flush()

    return show


if __name__ == "__main__":
    raise SystemExit(main())

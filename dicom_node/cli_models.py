"""Commands about models and cohorts: `prognode bundle`, `train`, `evaluate`, `pretrain`, `cohort`; part of `cli`.

Training is a tool of the analysis package and runs as a child: the node itself never loads what it needs.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from config.settings import Settings
from dicom_node.cli_common import Config, Whole, counted, settings_of, stop

if TYPE_CHECKING:
    from models.manifest import Manifest, Predictor

bundle_app = typer.Typer(cls=Whole, no_args_is_help=True, help="Print what a model bundle is; verify it.")
cohort_app = typer.Typer(cls=Whole, no_args_is_help=True, help="Make a cohort to try things on.")
# The tool behind the command knows the options, and `--help` too.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": list[str]()}


def add_to(app: typer.Typer) -> None:
    """Hang these commands on the program."""
    app.add_typer(bundle_app, name="bundle")
    app.add_typer(cohort_app, name="cohort")
    for command in (train, evaluate, pretrain):
        app.command(context_settings=PASS_ON)(command)


def bundle_of(settings: Settings):  # type: ignore[no-untyped-def]  # models is imported only by commands that need it
    """The settings' bundle, or the demo's; ends the program where it cannot be used."""
    from models.bundle import DEMO, BundleError
    from models.bundle import load as load_bundle

    try:
        return load_bundle(settings.bundle or DEMO)
    except BundleError as error:
        stop(f"bundle: {error}", os.EX_CONFIG)


def bundles_of(settings: Settings):  # type: ignore[no-untyped-def]
    """The settings' bundle and those of its rules; ends the program where one cannot be used."""
    from dicom_node.bundles import Bundles
    from models.bundle import BundleError

    try:
        return Bundles.load(settings)
    except BundleError as error:
        stop(f"bundle: {error}", os.EX_CONFIG)


Folder = Annotated[
    Path | None, typer.Argument(help="Bundle folder; default: that of the settings, or the demo bundle.")
]


@bundle_app.command("show")
def bundle_show(
    folder: Folder = None,
    full: Annotated[bool, typer.Option("--full", help="The whole model card.")] = False,
    config: Config = None,
) -> None:
    """Print which bundle it is, on whom it was trained, and how good it is.

    Example: prognode bundle show --full --config /etc/prognode/prognode.toml
    """
    from models.bundle import CARD

    bundle = bundle_of(Settings(bundle=folder) if folder else settings_of(config))
    name, version, digest, synthetic = bundle.identity
    print(f"{name} {version}\nsha256 {digest}{chr(10) + 'SYNTHETIC - NOT FOR CLINICAL USE' if synthetic else ''}")
    if full:
        print("\n" + (bundle.folder / CARD).read_text(encoding="utf-8"))
    else:
        print("\n".join(_summary(bundle.manifest)))
        which = f"{folder} " if folder else ""
        print(f"all of it: prognode bundle show {which}--full, {bundle.folder / 'report.html'}")


def _summary(manifest: "Manifest") -> Iterator[str]:
    """What a bundle needs and how good it is with everything at hand: nested cross-validation on its cohort."""
    needed = ", ".join(manifest.minimum_clinical)
    yield f"clinical values: {', '.join(map(_predictor, manifest.clinical))}{'; at least ' + needed if needed else ''}"
    best = max(manifest.sub_models, key=lambda one: len(one.modalities))
    cohort = manifest.cohort
    events = ", ".join(f"{name} {count}" for name, count in cohort.events.items())
    followed = f"median follow-up {cohort.median_follow_up_months:.0f} months"
    yield f"cohort {cohort.name}: {counted(cohort.patients, 'patient')}; events: {events}; {followed}"
    yield f"nested cross-validation of {' + '.join(best.modalities)}:"
    yield f"  {'endpoint':<10}{'horizon':<11}{'AUC (95 %)':<22}{'observed/expected':<19}{'slope':<7}events"
    for one in best.performance:
        auc = _figure(one.auc)
        if one.auc_lower is not None and one.auc_upper is not None:
            auc += f" ({one.auc_lower:.2f} to {one.auc_upper:.2f})"
        yield (
            f"  {one.endpoint:<10}{one.horizon_months:>2} months  {auc:<22}{_figure(one.observed_expected):<19}"
            f"{_figure(one.calibration_slope):<7}{one.events}"
        )


def _predictor(one: "Predictor") -> str:
    if one.minimum is not None and one.maximum is not None:
        return f"{one.name} {one.minimum:g} to {one.maximum:g} {one.unit}".rstrip()
    return f"{one.name} {' or '.join(one.categories)}".rstrip()


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


@bundle_app.command("verify")
def bundle_verify(folder: Folder = None, config: Config = None) -> None:
    """Check every digest and number of a bundle, and run its golden case.

    Without a folder: of the settings' bundle, and of those that their rules name.

    Example: prognode bundle verify --config /etc/prognode/prognode.toml
    """
    from dicom_node.job import executor_of, verify_golden
    from dicom_node.workitem import StageError

    settings = Settings(bundle=folder) if folder else settings_of(config)
    spool = settings.node.spool
    for bundle in bundles_of(settings):
        manifest = bundle.manifest
        try:
            said = verify_golden(bundle, executor_of(settings.job, spool if not folder and spool.is_dir() else None))
        except StageError as error:
            stop(f"{bundle.folder}: {error}; {error.hint}", os.EX_CONFIG)
        files = counted(len(manifest.files), "file")
        print(f"ok {manifest.name} {manifest.version} sha256 {bundle.digest}, {files} in {bundle.folder}; {said}")


def train(context: typer.Context) -> None:
    """Train a bundle on a cohort: a folder with the model, its report and its model card.

    Example: prognode train cohort.toml --out bundle/
    """
    _tool(["train", *context.args])


def evaluate(context: typer.Context) -> None:
    """Validate a bundle on a cohort of elsewhere: a folder with a report and a prediction for each patient.

    Example: prognode evaluate bundle/ cohort.toml --out evaluation/
    """
    _tool(["evaluate", *context.args])


def pretrain(context: typer.Context) -> None:
    """Pretrain the encoder of the deep features on images of a cohort: an ONNX file.

    Example: prognode pretrain cohort/ --out encoder.onnx --checkpoint pretraining/
    """
    _tool(["pretrain", *context.args])


@cohort_app.command("synth", context_settings=PASS_ON)
def cohort_synth(context: typer.Context) -> None:
    """Make a synthetic cohort with a known planted effect.

    Example: prognode cohort synth 240 --out cohort/ --seed 1
    """
    _tool(["synth", *context.args])


def _tool(arguments: list[str]) -> NoReturn:
    from dicom_node.job import run_tool

    code = run_tool("analysis.train", arguments)
    raise typer.Exit(os.EX_USAGE if code == 2 else code)

"""prognode: builds settings, store and logging, and hands them to the stages. Exit codes are sysexits."""

import errno
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from config.settings import Settings
from dicom_node import (
    cli_clinical,
    cli_config,
    cli_conformance,
    cli_fsck,
    cli_items,
    cli_keep,
    cli_models,
    cli_run,
    cli_web,
)
from dicom_node.cli_common import Config, InSections, log, settings_file, settings_of, stop, store_of
from dicom_node.cli_models import bundle_of

LOGGER = logging.getLogger(__name__)
MARKS = {"ok": "ok  ", "note": "note", "failed": "FAIL"}

app = typer.Typer(
    cls=InSections,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="A DICOM node that scores a CT and its tumour contour. Research use only.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from config.identity import VERSION

        print(f"prognode {VERSION}")
        raise typer.Exit


@app.callback()
def _prognode(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="Folder with CT and RTSTRUCT or SEG, in any structure.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    config: Config = None,
) -> None:
    """Score a folder of DICOM files with no network: a sub-folder per work item, and summary.json.

    Clinical values are age and sex of the CT's header and, with --config, the patient's line of the [clinical] table.

    Example: prognode score patient42/ --out results/
    """
    from dicom_node.score import SUMMARY, NoInput
    from dicom_node.score import score as run
    from dicom_node.workitem import StageError

    settings = settings_of(config)
    log(logging.WARNING)
    bundle = bundle_of(settings)
    try:
        summary = run(folder, out, settings, bundle)
    except NoInput as error:
        stop(str(error), os.EX_NOINPUT)
    except StageError as error:
        stop(f"{error}; {error.hint}", os.EX_CONFIG)
    except OSError as error:
        stop(f"{error.filename or out}: {error.strerror}; give another --out", os.EX_CANTCREAT)
    if bundle.manifest.synthetic:
        print(f"bundle {bundle.manifest.name}: SYNTHETIC - NOT FOR CLINICAL USE")
    _print_scored(summary, out)
    if not summary["work_items"]:
        stop(f"{folder}: no CT and no contour object that can be read; see {out / SUMMARY}", os.EX_DATAERR)
    if any(entry["outcome"] == "FAILED" for entry in summary["work_items"]):
        raise typer.Exit(os.EX_SOFTWARE)


def _print_scored(summary: dict[str, Any], out: Path) -> None:
    """A line for each work item and, where there is an answer, the table that the demo prints."""
    from analysis.contract import RESULT_FILE, JobResult
    from dicom_node.demo import table
    from dicom_node.score import SUMMARY

    for entry in summary["work_items"]:
        where = out / entry["folder"] if entry["folder"] else entry["error"]
        print(f"{entry['outcome']:<10} {entry['reason'] or '':<28} {where}")
        if entry["folder"]:
            print(table(JobResult.model_validate_json((where / RESULT_FILE).read_bytes())) + "\n")
    for ignored in summary["ignored"][:20]:
        print(f"ignored    {ignored['file']}: {ignored['why']}")
    if len(summary["ignored"]) > 20:
        print(f"ignored    {len(summary['ignored']) - 20} more, see {out / SUMMARY}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where to work; emptied first.")] = Path("build/demo"),
    source: Annotated[
        Path | None, typer.Option("--input", help="Folder of real DICOM instead of a synthetic patient.")
    ] = None,
) -> None:
    """Run the whole road once: a node, a test PACS, one patient, and the result as a table and a picture.

    Example: prognode demo --input patient42/
    """
    from dicom_node.demo import DemoError
    from dicom_node.demo import demo as run

    log(logging.WARNING)
    try:
        run(folder, source, bundle_of(Settings()))
    except DemoError as error:
        stop(str(error), error.code)


@app.command()
def status(
    study: Annotated[str | None, typer.Option("--study", help="Study Instance UID.")] = None, config: Config = None
) -> None:
    """Show the node's work items, or one study's way through the ten stops.

    Example: prognode status --study 1.2.840.113619.2.55.3
    """
    from dicom_node import status as shown
    from dicom_node.spool import Spool

    settings = settings_of(config)
    store, spool = store_of(settings), Spool(settings.node.spool)
    if study is None:
        print(shown.overview(store, bundle_of(settings).manifest.synthetic))
        return
    text = shown.of_study(store, spool, study)
    if text is None:
        stop("this study is not known here: nothing of it has been received", os.EX_DATAERR)
    print(text)


@app.command()
def check(
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="For monitoring: findings with ids that stay.")] = False,
    store_test: Annotated[
        bool, typer.Option("--store-test", help="Also send a test object to each PACS; it stays there.")
    ] = False,
) -> None:
    """Walk through everything the node stands on; say what is wrong and what to do.

    Example: prognode check --config /etc/prognode/prognode.toml
    """
    from itertools import chain

    from dicom_node.check import check as run
    from dicom_node.check import settings_in_force
    from dicom_node.web.checking import check as page

    findings, settings = [], settings_of(config)
    for finding in chain(
        [settings_in_force(*settings_file(config))], run(settings, store_test=store_test), page(settings)
    ):
        findings.append(finding)
        if not as_json:
            print(f"{MARKS[finding.level]} {finding.name}: {finding.text}")
            if finding.remedy:
                print(f"     to do: {finding.remedy}")
    if as_json:
        print(json.dumps([finding.as_json() for finding in findings], indent=1))
    if not all(finding.well for finding in findings):
        raise typer.Exit(os.EX_CONFIG)


cli_run.add_to(app)
cli_models.add_to(app)
cli_clinical.add_to(app)
cli_config.add_to(app)
cli_conformance.add_to(app)
cli_items.add_to(app)
cli_web.add_to(app)
cli_keep.add_to(app)
cli_fsck.add_to(app)


def _run_and_flush() -> None:
    """Whatever was printed must have arrived before the exit status says so."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO) or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of it would fail once more
        print(f"prognode: what was to be printed cannot be written: {error.strerror}", file=sys.stderr)
        raise SystemExit(os.EX_IOERR) from None


def main() -> None:
    from config.settings import SettingsError
    from dicom_node.workitem import ConfigError, StoreBusy

    try:
        _run_and_flush()
    except StoreBusy as error:
        print(f"prognode: {error}; {error.hint}", file=sys.stderr)
        raise SystemExit(os.EX_TEMPFAIL) from None
    except (ConfigError, SettingsError) as error:
        print(f"prognode: {error}", file=sys.stderr)
        raise SystemExit(os.EX_CONFIG) from None
    except PermissionError as error:
        if error.filename is None:
            raise
        remedy = "run it as the user of the service (sudo -u prognode prognode ...), or as root"
        print(f"prognode: {error.filename}: this user may not use it ({error.strerror}); {remedy}", file=sys.stderr)
        raise SystemExit(os.EX_NOPERM) from None
    except SystemExit as end:
        if end.code == 2:  # click's own code for wrong use
            raise SystemExit(os.EX_USAGE) from None
        raise


if __name__ == "__main__":
    main()

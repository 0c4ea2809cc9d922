"""prognode: builds settings, store and logging, and hands them to the stages. Exit codes are sysexits."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from config.settings import Settings
from dicom_node import cli_clinical, cli_config, cli_conformance, cli_fsck, cli_items, cli_keep, cli_models, cli_web, notify
from dicom_node.cli_common import Config, log, settings_of, stop, store_of
from dicom_node.cli_models import bundle_of
from dicom_node.notify import Part

LOGGER = logging.getLogger(__name__)

app = typer.Typer(
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


def _until_signal(parts: list[Part]) -> None:
    """Block until SIGTERM or SIGINT; the service manager hears how the parts are."""
    for name in notify.unused():
        LOGGER.warning("socket.unused systemd has passed %s, which the settings do not open; see the unit", name)
    notify.pulse_until_signal(parts)


def _end() -> NoReturn:
    """Leave at once: all of ours is closed, and a peer that stopped in mid-sentence must not keep its thread alive."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(os.EX_OK)


def _run(config: Path | None, *, receiving: bool, working: bool) -> None:
    from contextlib import ExitStack

    from config.effective import not_there
    from dicom_node.keeper import on_record
    from dicom_node.spool import Spool
    from dicom_node.workitem import ConfigError, StageError

    settings = settings_of(config)
    log()
    for key, path in not_there(settings):
        LOGGER.warning("settings.file_missing %s: %s is not there, or not to be read", key, path)
    spool = Spool(settings.node.spool)
    try:
        spool.create()
        process = "serve" if receiving and working else "receive" if receiving else "work"
        parts: list[Part] = []
        with ExitStack() as running:
            running.enter_context(on_record(settings, spool, process, forwards=working))
            worker = None
            if working:
                from dicom_node.job import Runner, verify_golden
                from dicom_node.worker import Worker

                bundle = bundle_of(settings)
                golden = verify_golden(bundle, settings.job)
                worker = Worker(settings, spool, bundle, Runner(spool, settings.job, bundle), golden=golden)
            if receiving:  # the port first: a node that cannot be called must not begin to work
                from dicom_node.receive import Receiver

                receiver = Receiver(settings, spool)
                receiver.start()
                running.callback(receiver.stop)
                parts.append(receiver)
            if receiving and settings.hl7.listen:
                from dicom_node.hl7_in import Listener

                listener = Listener(settings, spool)
                listener.start()
                running.callback(listener.stop)
            if worker is not None:
                worker.start()
                running.callback(worker.stop)
                parts.append(worker)
            if receiving:
                where = f"{receiver.host}:{receiver.port}"
                print(f"prognode: listening as {settings.node.ae_title} on {where}", flush=True)
            _until_signal(parts)
        _end()
    except (StageError, ConfigError) as error:
        stop(f"{error} {getattr(error, 'hint', '')}".strip(), os.EX_CONFIG)
    except OSError as error:
        stop(
            f"{error.filename or settings.node.host}: {error.strerror}",
            os.EX_CANTCREAT if error.filename else os.EX_UNAVAILABLE,
        )


@app.command()
def serve(config: Config = None) -> None:
    """Receive and work in one process: the embedded default.

    Example: prognode serve --config /etc/prognode/prognode.toml
    """
    _run(config, receiving=True, working=True)


@app.command()
def receive(config: Config = None) -> None:
    """Only receive: C-STORE, C-ECHO, storage commitment reports, and HL7 messages where [hl7] listen is on.

    Example: prognode receive --config /etc/prognode/prognode.toml
    """
    _run(config, receiving=True, working=False)


@app.command()
def work(config: Config = None) -> None:
    """Only work: plan, analyse, report and deliver what has been received.

    Example: prognode work --config /etc/prognode/prognode.toml
    """
    _run(config, receiving=False, working=True)


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
    config: Config = None, as_json: Annotated[bool, typer.Option("--json", help="For monitoring.")] = False
) -> None:
    """Walk through everything the node stands on; say what is wrong and what to do.

    Example: prognode check --config /etc/prognode/prognode.toml
    """
    from dataclasses import asdict
    from itertools import chain

    from dicom_node.check import check as run
    from dicom_node.web.checking import check as page

    findings, settings = [], settings_of(config)
    for finding in chain(run(settings), page(settings)):
        findings.append(finding)
        if not as_json:
            print(f"{'ok  ' if finding.well else 'FAIL'} {finding.name}: {finding.text}")
            if finding.remedy:
                print(f"     to do: {finding.remedy}")
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    if not all(finding.well for finding in findings):
        raise typer.Exit(os.EX_CONFIG)


cli_models.add_to(app)
cli_clinical.add_to(app)
cli_config.add_to(app)
cli_conformance.add_to(app)
cli_items.add_to(app)
cli_web.add_to(app)
cli_keep.add_to(app)
cli_fsck.add_to(app)


def main() -> None:
    from config.settings import SettingsError
    from dicom_node.workitem import ConfigError, StoreBusy

    try:
        app()
    except StoreBusy as error:
        print(f"prognode: {error}; {error.hint}", file=sys.stderr)
        raise SystemExit(os.EX_TEMPFAIL) from None
    except (ConfigError, SettingsError) as error:
        print(f"prognode: {error}", file=sys.stderr)
        raise SystemExit(os.EX_CONFIG) from None
    except SystemExit as end:
        if end.code == 2:  # click's own code for wrong use
            raise SystemExit(os.EX_USAGE) from None
        raise


if __name__ == "__main__":
    main()

"""`prognode clinical`: clinical values of the site, in and out of the store.

The terminal may name patients and values, for it is the operator's; log and audit trail have predictors and counts.
"""

import logging
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from config.settings import Settings
from dicom_node.cli_common import LARGEST_NUMBER, Config, Whole, caller, counted, log, settings_of, stop, store_of
from dicom_node.cli_models import bundles_of
from dicom_node.local_time import local, today

if TYPE_CHECKING:
    from dicom_node.audit import AuditEntry
    from dicom_node.clinical_import import Column, Layout, Report
    from dicom_node.clinical_values import StoredValue, Verdict

LOGGER = logging.getLogger(__name__)
clinical_app = typer.Typer(
    cls=Whole, no_args_is_help=True, help="Import, print, withdraw and export clinical values for the model."
)
LINES_SHOWN = 20
EXPORTED = (
    "patient_id", "issuer_of_patient_id", "name", "value", "unit", "observed_on", "stated", "source", "recorded_by",
    "recorded_at",
)  # fmt: skip


def add_to(app: typer.Typer) -> None:
    """Hang these commands on the program."""
    app.add_typer(clinical_app, name="clinical")


class _Reading(NamedTuple):
    """Options of `import` that say how the file is to be read."""

    encoding: str
    separator: str


@clinical_app.command("import")
def clinical_import(
    table: Annotated[Path, typer.Argument(help="CSV with the names of its columns in line 1.")],
    write: Annotated[bool, typer.Option("--write", help="Store the values; without it nothing is changed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report: the default, said aloud.")] = False,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Store what can be used although some cannot.")
    ] = False,
    mapped: Annotated[
        list[str] | None, typer.Option("--map", help="COLUMN=PREDICTOR or COLUMN=PREDICTOR[UNIT]; may be repeated.")
    ] = None,
    patient_id_column: Annotated[str, typer.Option(help="Column with the Patient ID (0010,0020).")] = "patient_id",
    issuer_column: Annotated[str, typer.Option(help="Column with the issuer (0010,0021).")] = "issuer_of_patient_id",
    issuer: Annotated[str, typer.Option(help="Issuer of every Patient ID, where there is no column.")] = "",
    date_column: Annotated[
        str, typer.Option(help="Column with the day of the observations; PREDICTOR_date goes before it.")
    ] = "observed_on",
    date_format: Annotated[str, typer.Option(help="As of strptime: %d.%m.%Y; default: 2024-03-01.")] = "",
    decimal_comma: Annotated[bool, typer.Option("--decimal-comma", help="Numbers are written 3,9.")] = False,
    encoding: Annotated[str, typer.Option(help="Such as cp1252; default: UTF-8, or UTF-16 with its mark.")] = "",
    separator: Annotated[str, typer.Option(help="Between the fields; default: found out.")] = "",
    config: Config = None,
) -> None:
    """Take a table of the site into the store: first as a report, with --write for good. All or nothing.

    Example: prognode clinical import labs.csv --map 'Alb=albumin[g/dL]' --write
    """
    from dicom_node.clinical_csv import TableError
    from dicom_node.clinical_import import Layout

    if write and dry_run:
        stop("--write and --dry-run exclude each other", os.EX_USAGE)
    layout = Layout(
        _columns(mapped or []), patient_id_column, issuer_column, issuer, date_column, date_format, decimal_comma
    )
    try:
        _import(settings_of(config), table, layout, _Reading(encoding, separator), write, skip_refused)
    except TableError as error:
        stop(f"{table}: {error}", os.EX_DATAERR)
    except OSError as error:
        stop(f"{error.filename or table}: {error.strerror}", os.EX_NOINPUT)


def _columns(mapped: list[str]) -> dict[str, str]:
    pairs = [each.rpartition("=") for each in mapped]
    wrong = [each for each, (column, _, name) in zip(mapped, pairs, strict=True) if not column or not name]
    if wrong:
        stop(f"--map {wrong[0]!r}: write COLUMN=PREDICTOR or COLUMN=PREDICTOR[UNIT]", os.EX_USAGE)
    return {column: name for column, _, name in pairs}


def _import(
    settings: Settings, path: Path, layout: "Layout", reading: _Reading, write: bool, skip_refused: bool
) -> None:
    from dicom_node import clinical_codes
    from dicom_node.clinical_csv import Table
    from dicom_node.clinical_import import Importer

    log()
    store, bundles = store_of(settings), [*bundles_of(settings)]  # the node's own says last what a name means
    predictors = {one.name: one for bundle in reversed(bundles) for one in bundle.manifest.clinical}
    table = Table(path, *reading)
    codes = clinical_codes.load(settings.clinical.codes)
    importer = Importer(table, layout, predictors, codes, today())
    actor = caller()
    conflicts = store.clinical.rehearse(importer.entries(store.clinical.ambiguous_ids(), actor.name))
    report = importer.report
    for number in conflicts:
        report.wrong_lines.setdefault("says something else than another line of the same patient and day", []).append(
            importer.entry_lines[number - 1]
        )
    verdicts = store.clinical.verdicts()
    _print_report(report, table.encoding, table.separator, verdicts)
    new = sum(count for (_, verdict), count in verdicts.items() if verdict in ("new", "changed"))
    if report.refusals and (conflicts or not skip_refused):
        remedy = "" if conflicts else ", or store the others with --skip-refused --write"
        stop(f"{report.refusals} refused; nothing has been stored. Correct the table{remedy}", os.EX_DATAERR)
    if not write:
        print("\nNothing has been stored: this was a rehearsal. To store it, add --write.")
        return
    detail = f"{counted(new, 'value')} of {counted(report.patients, 'patient')}"
    store.clinical.settle(time.time(), audit=_audited("clinical.imported", detail))
    LOGGER.info("clinical.imported %s, %d refused", detail, report.refusals)
    print(f"\nStored: {counted(new, 'value')}.")


def _print_report(report: "Report", encoding: str, separator: str, verdicts: "dict[tuple[str, Verdict], int]") -> None:
    marks = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
    print(f"{counted(report.lines, 'line')}, {encoding}, separated by {marks.get(separator, repr(separator))}")
    values = sum(column.values for column in report.columns.values())
    print(f"{counted(report.patients, 'patient')}, {counted(values, 'value')}\n")
    for name in sorted(report.columns):
        _print_column(report.columns[name], {verdict: n for (of, verdict), n in verdicts.items() if of == name})
    for why, lines in report.wrong_lines.items():
        print(f"  refused  line {_lines(lines)}: {why}")
    if report.ignored:
        print(f"\nnot predictors, left out: {', '.join(report.ignored)}")


def _print_column(column: "Column", verdicts: "dict[Verdict, int]") -> None:
    words: dict[Verdict, str] = {
        "new": "new", "changed": "changed", "unchanged": "unchanged", "outdated": "older than what is stored",
        "withdrawn": "withdrawn earlier, not taken again (enter them on the study page)",
    }  # fmt: skip
    said = [f"{verdicts[verdict]} {words[verdict]}" for verdict in words if verdicts.get(verdict)]
    said += [f"{column.blank} blank"] if column.blank else []
    note = f" ({column.taken_as})" if column.taken_as else ""
    print(f"  {column.name:<20} from {column.column!r}{note}: {', '.join(said) or 'no value'}")
    for why, lines in column.refused.items():
        print(f"    refused  line {_lines(lines)}: {why}")


def _lines(lines: list[int]) -> str:
    shown = ", ".join(map(str, lines[:LINES_SHOWN]))
    return shown if len(lines) <= LINES_SHOWN else f"{shown} and {len(lines) - LINES_SHOWN} more"


@clinical_app.command("list")
def clinical_list(config: Config = None) -> None:
    """Print which values are on hand, by predictor and source: counts and days, no patient.

    Example: prognode clinical list
    """
    rows = store_of(settings_of(config)).clinical.summary()
    print(f"{'predictor':<24} {'source':<6} {'values':>9} {'patients':>9}  observed")
    for row in rows:
        days = f"{row['oldest'] or 'no day'} to {row['newest']}" if row["newest"] else "no day"
        print(f"{row['name']:<24} {row['kind']:<6} {row['n']:>9} {row['patients']:>9}  {days}")
    if not rows:
        print("none; see: prognode clinical import --help")


@clinical_app.command("show")
def clinical_show(
    patient_id: Annotated[str, typer.Argument(help="Patient ID; - reads it from standard input.")] = "",
    study: Annotated[str, typer.Option("--study", help="Study Instance UID, instead of the Patient ID.")] = "",
    issuer: Annotated[str, typer.Option(help="Issuer of the Patient ID.")] = "",
    config: Config = None,
) -> None:
    """Print every value that was ever recorded for a patient, newest first, with its number. The audit trail has it.

    Example: prognode clinical show --study 1.2.840.113619.2.55.3
    """
    store = store_of(settings_of(config))
    if study:
        identity = store.patients.of_study(study)
        if identity is None:
            stop("this study is not known here", os.EX_DATAERR)
        patient_id, issuer = identity.patient_id, identity.issuer_of_patient_id
    elif patient_id == "-":
        patient_id = sys.stdin.readline().strip()
    if not patient_id:
        stop("give a Patient ID, - for standard input, or --study UID", os.EX_USAGE)
    if store.clinical.is_ambiguous(patient_id, issuer):
        print("Several issuers use this Patient ID: give --issuer to see one patient's values.\n")
    found = store.clinical.history(patient_id, issuer)
    whose = {"patient_id": patient_id} | ({"issuer_of_patient_id": issuer} if issuer else {})
    store.audit.add(_audited("clinical.read", counted(len(found), "value"), whose))
    for value in found:
        print(_line(value))
    if not found and not study:
        stop("no clinical value was ever recorded for this Patient ID and issuer", os.EX_DATAERR)
    if not found:
        print("none; see: prognode clinical import --help")


def _line(value: "StoredValue") -> str:
    recorded = f"{local(value.recorded_at):%Y-%m-%d %H:%M}"
    said = f"{value.name} = {_plain(value.value)} {value.unit}".rstrip()
    stated = f" (stated as {value.stated})" if value.stated else ""
    ended = f"; {value.ended_how} by {value.ended_by or 'its source'}" if value.ended_how else ""
    by = f" by {value.recorded_by}" if value.recorded_by else ""
    return (
        f"{value.id:>8}  {value.observed_on or 'no day':<10}  {said}{stated}  [{value.source}{by}, {recorded}{ended}]"
    )


@clinical_app.command("withdraw")
def clinical_withdraw(
    number: Annotated[int, typer.Argument(help="Number of the value, as `show` prints it.", min=1, max=LARGEST_NUMBER)],
    config: Config = None,
) -> None:
    """Take a value back: it stays in the history, and the same value of the same source is not taken again.

    Example: prognode clinical withdraw 42
    """
    store = store_of(settings_of(config))
    value = store.clinical.value(number)
    if value is None or value.ended_how:
        stop(f"there is no value {number} that counts; see: prognode clinical show", os.EX_DATAERR)
    whose = {"patient_id": value.patient_id, "issuer_of_patient_id": value.issuer_of_patient_id}
    if not store.clinical.withdraw(number, time.time(), _audited("clinical.withdrawn", value.name, whose)):
        stop(f"value {number} has just been taken back by somebody else", os.EX_DATAERR)
    print(f"withdrawn: {value.name}, value {number}")


@clinical_app.command("export")
def clinical_export(
    table: Annotated[Path, typer.Argument(help="CSV to write; must not exist.")], config: Config = None
) -> None:
    """Write every value that counts as CSV, one line each, as `import` reads it. Holds patient data: mode 0600.

    Example: prognode clinical export values.csv
    """
    import csv

    store = store_of(settings_of(config))
    count = 0
    try:
        descriptor = os.open(table, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        stop(f"{table}: is there already; give another name", os.EX_CANTCREAT)
    except OSError as error:
        stop(f"{table}: {error.strerror}", os.EX_CANTCREAT)
    try:
        with os.fdopen(descriptor, "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(EXPORTED)
            for value in store.clinical.everything():
                writer.writerow(_row(value))
                count += 1
    except BaseException as error:
        table.unlink()  # half of a table of patients, of which no audit entry will tell
        if isinstance(error, OSError):
            stop(f"{table}: {error.strerror}; nothing is left of it", os.EX_CANTCREAT)
        raise
    store.audit.add(_audited("export.clinical", f"{count} clinical values", {"uri": table.resolve().as_uri()}))
    print(f"{counted(count, 'value')} in {table}")


def _row(value: "StoredValue") -> list[str]:
    at = datetime.fromtimestamp(value.recorded_at, UTC).isoformat(timespec="seconds")
    row = vars(value) | {"value": _plain(value.value), "recorded_at": at}
    return [str(row[name]) for name in EXPORTED]


def _plain(value: float | str) -> str:
    return f"{value:.12g}" if isinstance(value, float | int) else value


def _audited(action: str, detail: str, facts: dict[str, str] | None = None) -> "AuditEntry":
    from dicom_node.audit import AuditEntry

    actor = caller()
    return AuditEntry(time.time(), actor.name, actor.origin, action, detail=detail, facts=facts or {})

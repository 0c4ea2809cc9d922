"""Commands about what the node keeps: `prognode audit`, `storage`, `backup`, `restore`, `fsck`; part of `cli`."""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli_common import Config, Whole, caller, counted, settings_of, stop, store_of
from dicom_node.local_time import local, stated

if TYPE_CHECKING:
    from dicom_node.restore import Restored
    from dicom_node.storage_report import Report

audit_app = typer.Typer(cls=Whole, no_args_is_help=True, help="Verify and export the audit trail.")
storage_app = typer.Typer(cls=Whole)
Json = Annotated[bool, typer.Option("--json", help="For monitoring.")]
FINDINGS = 1  # what `verify` and `fsck` end with when they find something; no sysexits code says it


def add_to(app: typer.Typer) -> None:
    """Hang these commands on the program."""
    app.add_typer(audit_app, name="audit")
    app.add_typer(storage_app, name="storage")
    app.command()(backup)
    app.command()(restore)


# -- the disk --------------------------------------------------------------------------------------------------


@storage_app.callback(invoke_without_command=True)
def storage(context: typer.Context, as_json: Json = False, config: Config = None) -> None:
    """Show what lies in the spool by kind: how much, how old, what would be removed now, and what stays and why.

    Example: prognode storage --config /etc/prognode/prognode.toml
    """
    if context.invoked_subcommand is not None:
        return
    from dicom_node.spool import Spool
    from dicom_node.storage_report import report

    settings = settings_of(config)
    found = report(store_of(settings), Spool(settings.node.spool), settings)
    print(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(_storage_lines(found)))


@storage_app.command("clean")
def storage_clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    config: Config = None,
) -> None:
    """Remove now what the node would remove by itself in its next turns: delivered, proved and old enough.

    Example: prognode storage clean --dry-run
    """
    from dicom_node.spool import Spool
    from dicom_node.storage import Cleaner
    from dicom_node.storage_report import report
    from dicom_node.watermark import room

    settings = settings_of(config)
    store, spool = store_of(settings), Spool(settings.node.spool)
    if dry_run:
        kinds = [kind for kind in report(store, spool, settings).kinds if kind.goes.objects]
        for kind in kinds:
            print(f"would remove {kind.goes.objects} {kind.name}, {_size(kind.goes.bytes)}")
        if not kinds:
            print("nothing would be removed now; prognode storage says why each kind stays")
        return
    removed = Counter(Cleaner(store, spool, settings).run())
    for name, count in sorted(removed.items()):
        print(f"removed {count} {name}")
    print(f"{_size(room(spool.root, settings).free)} are free")


def _storage_lines(found: "Report") -> Iterator[str]:
    disk = found.room
    state = "FULL: nothing more is taken" if disk.full else "LOW" if disk.low else "ok"
    yield (
        f"disk {state}: {_size(disk.free)} of {_size(disk.total)} free; warned below {_size(disk.warn)}, "
        f"nothing more is taken below {_size(disk.refuse)}"
    )
    yield f"{'kind':<14}{'objects':>9}{'bytes':>12}  {'oldest':<12}{'goes now':<22}stays"
    for kind in found.kinds:
        if not kind.all.objects:
            continue
        oldest = f"{local(kind.oldest):%Y-%m-%d}" if kind.oldest else ""
        goes = f"{kind.goes.objects} ({_size(kind.goes.bytes)})" if kind.goes.objects else "-"
        stays = [f"{each.objects} ({_size(each.bytes)}): {why}" for why, each in sorted(kind.stays.items())]
        first, *others = stays or [""]
        size = _size(kind.all.bytes)
        yield f"{kind.name:<14}{kind.all.objects:>9}{size:>12}  {oldest:<12}{goes:<22}{first}".rstrip()
        yield from (f"{'':<71}{other}" for other in others)


def _size(count: float) -> str:
    """Bytes for people.

    >>> _size(2_300_000), _size(512)
    ('2.3 MB', '512 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


# -- backup and restore ----------------------------------------------------------------------------------------


def backup(
    target: Annotated[Path, typer.Argument(help='New folder, or a file whose name ends with ".tar".')],
    previous: Annotated[
        Path | None, typer.Option("--previous", help="Folder of the backup before: what it has is linked.")
    ] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Copy the store, and every file that it names, while the node works. The backup holds patient data.

    Example: prognode backup /backup/prognode-2026-03-01
    """
    from dataclasses import asdict

    from dicom_node.backup import backup as make
    from dicom_node.spool import Spool

    settings = settings_of(config)
    begun = time.monotonic()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        stop(f"{target}: is there already; give a new name, such as one with the date", os.EX_CANTCREAT)
    try:
        made = make(store_of(settings), Spool(settings.node.spool), settings, target, previous, caller().name)
    except OSError as error:
        stop(f"{error.filename or target}: {error.strerror}; nothing was kept of it", os.EX_CANTCREAT)
    if as_json:
        print(json.dumps(asdict(made), indent=1))
        return
    seconds = time.monotonic() - begun
    linked = f", {made.linked} of them links into {previous}" if made.linked else ""
    print(f"{target}: {counted(made.files, 'file')}, {_size(made.bytes)}{linked}, in {seconds:.1f} s")
    if made.missing:
        print(f"{made.missing} files that the store names were not there: run prognode fsck")


def restore(
    source: Annotated[Path, typer.Argument(help="What prognode backup made: a folder or a tar file.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only verify it.")] = False,
    config: Config = None,
) -> None:
    """Put a backup into the empty spool of the settings, once all of it is verified; says what will be sent again.

    Example: prognode restore /backup/prognode-2026-03-01 --config /etc/prognode/prognode.toml
    """
    from dicom_node.restore import BackupDamaged, verify
    from dicom_node.restore import restore as put_back
    from dicom_node.spool import Spool

    settings = settings_of(config)
    try:
        if dry_run:
            summary, entries = verify(source)
            print(f"ok {counted(len(entries), 'file')}, {_size(summary.bytes)}, made {_when(summary.made_at)}")
            return
        done = put_back(source, Spool(settings.node.spool), settings, caller().name)
    except BackupDamaged as error:
        stop(f"{error}; nothing was written", os.EX_DATAERR)
    except OSError as error:
        stop(f"{error.filename or settings.node.spool}: {error.strerror}; run it again", os.EX_CANTCREAT)
    print("\n".join(_restored_lines(done)))


def _restored_lines(done: "Restored") -> Iterator[str]:
    at, outlook = _when(done.summary.made_at), done.outlook
    files = counted(done.summary.files, "file")
    yield f"restored {files}, {_size(done.summary.bytes)}, as of {at}: {outlook.studies} studies"
    working = {state: n for state, n in outlook.items.items() if state in ("WAITING", "SCHEDULED", "ANALYSED")}
    if working:
        yield f"goes on: {', '.join(f'{n} {state}' for state, n in sorted(working.items()))}"
    for destination, count in sorted(outlook.to_send.items()):
        yield f"to {destination}: {count} objects are sent, also where that has happened since: same bytes, same UIDs"
    for destination, count in sorted(outlook.done.items()):
        yield f"to {destination}: {count} objects are not sent again: they were proved, or are at their end"
    if done.summary.missing:
        yield f"{done.summary.missing} files were missing when the backup was made: run prognode fsck"
    yield f"not in it: whatever came after {at}. Send those studies again; what was scored of them since is scored"
    yield "once more, and goes out under the same UIDs (a PACS keeps what it has)"
    yield "users, tokens and settings of the page are those of then, too: what was revoked since counts again"


def _when(moment: float) -> str:
    return f"{local(moment):%Y-%m-%d %H:%M:%S %Z}"


# -- the audit trail -------------------------------------------------------------------------------------------


@audit_app.command("verify")
def audit_verify(
    anchor: Annotated[
        list[str] | None, typer.Option("--anchor", help="LINE:SHA256 that the collector has; may be repeated.")
    ] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Check the audit trail: ends with 1, and says where, when a line was changed, removed, put in, moved or cut off.

    Example: prognode audit verify --config /etc/prognode/prognode.toml
    """
    from dataclasses import asdict

    from dicom_node.audit import AuditEntry, AuditOutcome
    from dicom_node.audit_trail import trail_path
    from dicom_node.audit_verify import lines_of, verify
    from dicom_node.spool import Spool

    settings = settings_of(config)
    store, spool = store_of(settings), Spool(settings.node.spool)
    found = list(verify(spool.audit, store.audit, _anchors(anchor or [])))
    bad = [finding for finding in found if finding.is_tampering]
    outcome: AuditOutcome = "failed" if bad else "done"
    facts = {"uri": trail_path(spool.audit, 1).as_uri()}
    who = caller().name
    detail = f"{len(bad)} findings"
    store.audit.add(AuditEntry(time.time(), who, "cli", "audit.verified", outcome, detail=detail, facts=facts))
    count = lines_of(spool.audit, store.audit)
    if as_json:
        print(json.dumps({"lines": count, "findings": [asdict(finding) for finding in found]}, indent=1))
    else:
        for finding in found:
            print(f"{finding.kind:<12} {finding.file}: {finding.text}")
        if not bad:
            print(f"ok {counted(count, 'line')} in {counted(len(store.audit.files()), 'file')}")
    if bad:
        raise typer.Exit(FINDINGS)


@audit_app.command("export")
def audit_export(
    begin: Annotated[str, typer.Option("--from", help="First day, or time, such as 2026-03-01.")] = "",
    end: Annotated[str, typer.Option("--to", help="Up to this day or time, which is not part of it.")] = "",
    study: Annotated[str, typer.Option("--study", help="Only about this Study Instance UID.")] = "",
    config: Config = None,
) -> None:
    """Print audit messages as XML, one a line (PS3.15 A.5). They hold names; that somebody read them is audited too.

    Example: prognode audit export --from 2026-03-01 --to 2026-04-01
    """
    from dicom_node.audit import AuditEntry
    from dicom_node.audit_trail import trail_path
    from dicom_node.spool import Spool
    from dicom_node.syslog_out import attribute, lines_after

    first, last = _moment(begin, "--from"), _moment(end, "--to")
    settings = settings_of(config)
    store, spool = store_of(settings), Spool(settings.node.spool)
    facts = {"uri": trail_path(spool.audit, 1).as_uri()}
    what = f"from {begin or 'the beginning'} to {end or 'now'}{', one study' if study else ''}"
    store.audit.add(AuditEntry(time.time(), caller().name, "cli", "audit.exported", detail=what, facts=facts))
    for line in lines_after(spool.audit, store.audit.files(), 0, limit=2**63):
        at = attribute(line.message, "EventDateTime")
        wanted = (not first or at >= first) and (not last or at < last)
        if wanted and (not study or f'ParticipantObjectID="{study}"' in line.message):
            print(line.message)


def _anchors(texts: list[str]) -> dict[int, str]:
    anchors: dict[int, str] = {}
    for text in texts:
        found = re.fullmatch(r"\s*0*([1-9]\d{0,11}):\s*([0-9a-f]{64})\s*", text.lower(), re.ASCII)
        if found is None or anchors.get(int(found[1]), found[2]) != found[2]:
            form = "LINE:SHA256, once for a line: its number from 1 and 64 hexadecimal digits"
            stop(f"--anchor: write {form}, as the collector's audit.anchored message has them", os.EX_USAGE)
        anchors[int(found[1])] = found[2]
    return anchors


def _moment(text: str, option: str) -> str:
    """A day or time of the node's zone as the messages write it; '' where none is given."""
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        stop(f"{option} {text}: write a day or time such as 2026-03-01 or 2026-03-01T08:00", os.EX_USAGE)
    try:
        moment = stated(moment).astimezone(UTC)
    except (OverflowError, ValueError):  # beside the first or last day that can be counted, a zone does not matter
        moment = moment.replace(tzinfo=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

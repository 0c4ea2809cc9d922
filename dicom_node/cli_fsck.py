"""`prognode fsck`; part of `cli`."""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from config.settings import Settings
from dicom_node.cli_common import Config, caller, settings_of, stop, store_of

if TYPE_CHECKING:
    from dicom_node.fsck import Finding, Problem
    from dicom_node.spool import Spool
    from dicom_node.store import Store

    Found = dict[Problem, list[Finding]]

SHOWN = 10  # findings of a kind that are listed
LEFT = 1  # findings are left; no sysexits code says it


def add_to(app: typer.Typer) -> None:
    """Hang this command on the program."""
    app.command()(fsck)


def fsck(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what was found; asks for each kind.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --repair: do not ask.")] = False,
    pacs: Annotated[
        bool, typer.Option("--pacs", help="Ask the destinations for what they were proved to have.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Do not read the files to compare their digests.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For monitoring.")] = False,
    config: Config = None,
) -> None:
    """Hold spool and store against each other and, with --pacs, the PACS; ends with 1 when something does not agree.

    Looks while the node works; to repair, stop it first.

    Example: prognode fsck --pacs --config /etc/prognode/prognode.toml
    """
    from dicom_node.spool import Spool

    settings = settings_of(config)
    store, spool = store_of(settings), Spool(settings.node.spool)
    with ExitStack() as held:
        if repair:
            _hold(spool, held)
        found = _examine(store, spool, settings, alone=repair, quick=quick)
        not_asked = _ask_pacs(store, spool, settings, found) if pacs else ""
        if as_json:
            print(json.dumps(_as_json(found, not_asked), indent=1))
        else:
            print("\n".join(_lines(found)))
        left = _repair(store, spool, settings, found, ask=not yes) if repair else sum(map(len, found.values()))
    if not_asked:
        stop(f"a destination could not be asked: {not_asked}", os.EX_UNAVAILABLE)
    if left:
        raise typer.Exit(LEFT)


def _hold(spool: "Spool", held: ExitStack) -> None:
    """Nobody else uses the spool while it is repaired. Raises ConfigError."""
    from dicom_node.workitem import ConfigError

    for name in ("receive", "work", "run"):
        held.enter_context(spool.lock(name))
    if not held.enter_context(spool.removing()):
        raise ConfigError(f"{spool.root}: a backup is being made; repair when it is done")


def _examine(store: "Store", spool: "Spool", settings: Settings, *, alone: bool, quick: bool) -> "Found":
    from dicom_node.fsck import Examiner

    found: Found = defaultdict(list)
    for finding in Examiner(store, spool, _bundle_digest(settings), alone=alone).everything(quick=quick):
        found[finding.problem].append(finding)
    return found


def _bundle_digest(settings: Settings) -> str:
    from models.bundle import DEMO, BundleError, load

    try:
        return load(settings.bundle or DEMO).digest
    except BundleError:
        return ""  # then no result of a proved work item can be made again


def _ask_pacs(store: "Store", spool: "Spool", settings: Settings, found: "Found") -> str:
    """Add what the destinations do not list any more; gives why one could not be asked, or ''."""
    from dicom_node.fsck_pacs import NotAsked, not_in_pacs

    try:
        for finding in not_in_pacs(store, spool, settings):
            found[finding.problem].append(finding)
    except NotAsked as error:
        return str(error)
    return ""


def _lines(found: "Found") -> Iterator[str]:
    if not found:
        yield "ok: spool and store agree"
    for problem, findings in found.items():
        yield f"{len(findings)} {problem.title}"
        yield f"    repair: {problem.repair or 'not by this command'}"
        yield from (f"    {finding.about}" for finding in findings[:SHOWN])
        if len(findings) > SHOWN:
            yield f"    and {len(findings) - SHOWN} more; all of them: --json"


def _as_json(found: "Found", not_asked: str) -> dict[str, Any]:
    kinds = [
        {
            "kind": problem.name,
            "title": problem.title,
            "repair": problem.repair,
            "findings": [{"about": each.about, "study_instance_uid": each.study_instance_uid} for each in findings],
        }
        for problem, findings in found.items()
    ]
    return {"clean": not found, "not_asked": not_asked, "kinds": kinds}


def _repair(store: "Store", spool: "Spool", settings: Settings, found: "Found", *, ask: bool) -> int:
    """Mend kind by kind; gives how many findings are left."""
    from dicom_node.fsck_repair import Repairer
    from dicom_node.storage import Cleaner

    repairer = Repairer(store, spool, Cleaner(store, spool, settings), caller().name)
    left = 0
    for problem, findings in found.items():
        wanted = bool(problem.repair)
        if wanted and ask:
            wanted = typer.confirm(f"{len(findings)} {problem.title}: {problem.repair}?", default=False, err=True)
        if not wanted:
            left += len(findings)
            continue
        for finding in findings:
            try:
                print(f"{finding.about}: {repairer.repair(finding)}")
            except OSError as error:
                left += 1
                print(f"{finding.about}: could not be mended: {error.strerror}")
    return left

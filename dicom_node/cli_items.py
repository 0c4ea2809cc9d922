"""Commands for work items: `prognode retry`, `rescore`, `plan`, `hold`, `release`, `cancel`, `priority`."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dicom_node.cli_common import LARGEST_NUMBER, Config, caller, counted, settings_of, stop, store_of

if TYPE_CHECKING:
    from dicom_node.store import Store
    from dicom_node.worklist import Row

Items = Annotated[
    list[int] | None,
    typer.Argument(
        help="Numbers of work items, as `prognode status` prints them.", metavar="ITEM", min=1, max=LARGEST_NUMBER
    ),
]
Study = Annotated[str | None, typer.Option("--study", help="The newest work items of this Study Instance UID.")]


def add_to(app: typer.Typer) -> None:
    """Hang these commands on the program."""
    for command in (retry, rescore, plan, hold, release, cancel, priority):
        app.command()(command)


def retry(items: Items = None, study: Study = None, config: Config = None) -> None:
    """Run failed work items again: those named, or all. With --study, also plan once more what was not scored.

    Example: prognode retry --study 1.2.840.113619.2.55.3
    """
    from dicom_node.workitem import State

    store = store_of(settings_of(config))
    if items:
        _act(store, "retry", items)
        return
    rows = [row for row in _newest(store, study) if row.state is State.FAILED]
    again = [
        row
        for row in (_newest(store, study) if study else [])
        if row.state is State.COMPLETED and row.outcome == "NOT_SCORED" and row.roi_sop_instance_uid
    ]
    done = _each(store, "retry", (row.id for row in rows)) + _each(store, "rescore", (row.id for row in again))
    if rows or again:
        print(f"{counted(done, 'work item')} will run again")
    elif study is not None:
        print("Nothing of this study has failed or gone without a score; for another answer: prognode rescore")
    else:
        print("Nothing has failed. To plan a study once more that was not scored: prognode retry --study UID")


def rescore(items: Items = None, study: Study = None, config: Config = None) -> None:
    """Plan work items once more: with the clinical values, bundle and settings of now. Another answer is a revision.

    Example: prognode rescore 12
    """
    _chosen("rescore", items, study, config)


def plan(items: Items = None, study: Study = None, config: Config = None) -> None:
    """Plan contours that wait for images now, with what is here. What comes later makes the next revision.

    Example: prognode plan 12
    """
    _chosen("plan", items, study, config)


def hold(items: Items = None, study: Study = None, config: Config = None) -> None:
    """Keep work items back: nothing of them is started or sent until they are released.

    Example: prognode hold 12
    """
    _chosen("hold", items, study, config)


def release(items: Items = None, study: Study = None, config: Config = None) -> None:
    """Let held work items go on, also those that wait for review ([deliver] hold_for_review).

    Example: prognode release 12
    """
    _chosen("release", items, study, config)


def cancel(items: Items = None, study: Study = None, config: Config = None) -> None:
    """Withdraw work items: nothing more of them is sent. Not while one is delivered and anything of it has left.

    Example: prognode cancel 12
    """
    _chosen("cancel", items, study, config)


def priority(
    level: Annotated[
        Literal["HIGH", "MEDIUM", "LOW"], typer.Argument(help="How soon: HIGH, MEDIUM or LOW.", case_sensitive=False)
    ],
    items: Items = None,
    study: Study = None,
    config: Config = None,
) -> None:
    """Set how soon work items are taken: HIGH goes first, LOW last.

    Example: prognode priority HIGH 12
    """
    _chosen("priority", items, study, config, level)


def _chosen(action: str, items: list[int] | None, study: str | None, config: Path | None, value: str = "") -> None:
    if bool(items) == bool(study):
        stop("name work items by their numbers, or a study with --study", os.EX_USAGE)
    store = store_of(settings_of(config))
    _act(store, action, items or [row.id for row in _newest(store, study)], value)


def _newest(store: "Store", study: str | None) -> list["Row"]:
    """The newest work item of each contour: of a study, or all that have failed."""
    from dicom_node.workitem import State
    from dicom_node.worklist import WorklistQuery

    if study is None:
        rows: list[Row] = []
        while True:
            page = store.worklist.find(WorklistQuery(states=(State.FAILED,), offset=len(rows), limit=500))
            rows += page.rows
            if len(page.rows) < 500:
                return rows
    rows = [row for row in store.worklist.of_study(study) if row.newest]
    if not rows:
        stop("this study is not known here: nothing of it has been received", os.EX_DATAERR)
    return rows


def _act(store: "Store", action: str, items: Iterable[int], value: str = "") -> None:
    """Act on each; ends with EX_DATAERR when one of them was refused."""
    numbers = list(items)
    if _each(store, action, numbers, value, print) < len(numbers):
        raise typer.Exit(os.EX_DATAERR)


def _each(
    store: "Store", action: str, items: Iterable[int], value: str = "", say: Callable[[str], None] | None = None
) -> int:
    """How many of these were done; the others are told about on standard error."""
    import time

    from dicom_node import operations

    done = 0
    for number in items:
        try:
            said = operations.act(store, action, number, caller(), time.time(), value)
        except operations.Unknown as error:
            typer.echo(f"prognode: {error}", err=True)
            continue
        except operations.Refused as error:
            remedy = f"; {error.remedy}" if error.remedy else ""
            typer.echo(f"prognode: work item {number}: {error}{remedy}", err=True)
            continue
        done += 1
        if say is not None:
            say(f"work item {number}: {said}")
    return done

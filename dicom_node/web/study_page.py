"""What the study page shows, gathered from store and spool. `parts` changes while one looks; `body` is read once."""

import time
from collections.abc import Iterable
from typing import Any

from fastapi import Request

from analysis.contract import JobResult, wording
from dicom_node import status
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.ticket import changes, ticket_of
from dicom_node.web import actions, images, results, sr_text, study_view, views
from dicom_node.web.contour import MaskUnreadable
from dicom_node.web.deps import Signed
from dicom_node.web.stack import Stack
from dicom_node.workitem import WorkItem
from dicom_node.worklist import Row
from reports import particulars, words


def is_synthetic(request: Request, store: Store, rows: Iterable[Row]) -> bool:
    """Whether the node's model, or that of any result shown, was trained on a synthetic cohort."""
    model = request.app.state.models.all(store)[0].manifest
    installed = model is not None and model.synthetic
    return installed or any(row.summary is not None and row.summary.synthetic for row in rows)


def parts(request: Request, row: Row, store: Store, spool: Spool, signed: Signed) -> dict[str, Any]:
    """What may change under the reader's eyes: state, deliveries, stops, events, revisions."""
    item, details = store.item(row.id), store.details(row.id)
    assert item is not None  # rows are never deleted
    deliveries = store.deliveries.of_item(row.id)
    now = time.time()
    return {
        "row": row,
        "view": views.row_view(row),
        "actions": actions.possible(row) if signed.may_act else [],
        "sendings": study_view.sendings(deliveries, now),
        "stops": study_view.stops(status.stops(item, details, deliveries, spool), deliveries),
        "events": study_view.events(store.worklist.events(row.id)),
        "revisions": [views.row_view(other) for other in store.worklist.of_study(row.study_instance_uid)],
        "replaces": _replaces(item, store),
        "version": f"{row.key} {row.outcome} {len(results.pages(item, spool))}",
    }


def _replaces(item: WorkItem, store: Store) -> str:
    """Which revision this one takes the place of, and what is different."""
    before = store.item_of(item.predecessor_key) if item.predecessor_key else None
    old, new = ticket_of(before.plan) if before else None, ticket_of(item.plan)
    return particulars.revision(item.revision, changes(old, new)) if old and new else ""


def body(
    request: Request, row: Row, store: Store, spool: Spool, number: int | None, window: str, signed: Signed
) -> dict[str, Any]:
    """Result, CT, pages and reports. `number` and `window`: the slice that an address without script asks for."""
    item = store.item(row.id)
    assert item is not None
    result = results.result_of(item, spool)
    return {
        **_result(row, item, result),
        **_reports(item, spool),
        "viewer": viewer(item, result, store, spool, number, window),
        "page_numbers": results.pages(item, spool),
        "audit": store.audit.of_item(row.id) if signed.may_act else [],
    }


def _result(row: Row, item: WorkItem, result: JobResult | None) -> dict[str, Any]:
    """The answer and what it rests on; before there is one, what is known of the inputs."""
    ticket = ticket_of(item.plan)
    text = wording(row.reason)
    context: dict[str, Any] = {
        "remedy": text.remedy if text else "",
        "reason_detail": result.reason_detail if result else "",
        "clinical": study_view.clinical(ticket.clinical if ticket else (), result.contributions if result else ()),
        "groups": [], "bars": [], "flags": [], "performance": [], "unavailable": [],
        "sub_model": "", "interval_note": "", "region": "", "bundle": None, "rule": ticket.rule if ticket else "",
    }  # fmt: skip
    if result is None:
        return context
    context |= {
        "flags": study_view.flags(result),
        "bundle": result.bundle,
        "clinical": study_view.clinical(result.clinical, result.contributions),
        "region": particulars.roi(result.roi) if result.roi else "",
    }
    if result.sub_model is not None:
        level = words.level(result.scores[0].interval_level)
        context |= {
            "groups": study_view.groups(result),
            "bars": study_view.bars(result),
            "performance": [words.validation(item) for item in result.sub_model.performance],
            "unavailable": words.not_available(result),
            "sub_model": words.sub_model(result.sub_model),
            "interval_note": f"Lines run from 0 to 100 %; the band is the {level} bootstrap interval. Risk groups are"
            " against the median of the training cohort; uncertain: the interval spans it."
            f" {words.intervals_are_narrow()}",
        }
    return context


def _reports(item: WorkItem, spool: Spool) -> dict[str, Any]:
    """The first report as text, and the names of all."""
    names = results.reports(item, spool)
    context: dict[str, Any] = {
        "reports": [(name, study_view.document(name)) for name in names],
        "report": None, "report_name": "", "report_error": "",
    }  # fmt: skip
    path = results.report_file(item, names[0], spool) if names else None
    if path is not None:
        context["report_name"] = study_view.document(names[0])
        try:
            context["report"] = results.report_tree(path)
        except sr_text.ReportUnreadable as error:
            context["report_error"] = str(error)
    return context


def viewer(
    item: WorkItem, result: JobResult | None, store: Store, spool: Spool, number: int | None, window: str
) -> dict[str, Any] | None:
    """One slice with its outline, and what surrounds it; None where there is no CT."""
    stack = results.stack(item, result, store, spool)
    if stack is None:
        return None
    note, paths = "", dict[int, str]()
    try:
        paths = results.outlines(item, result, spool)
    except (MaskUnreadable, OSError):
        note = "The contour cannot be drawn: the mask of this result cannot be read."
    if result is not None and result.geometry is None:
        note = "Not scored, so there is no contour to draw; slices are in order of their position."
    return shown(stack, paths, number, window, note)


def shown(stack: Stack, paths: dict[int, str], number: int | None, window: str, note: str) -> dict[str, Any]:
    """What the template draws of one slice; without a number, of the one with most of the contour."""
    count, largest = len(stack.slices), None if stack.largest is None else stack.largest + 1
    at = min(max(number or largest or (count + 1) // 2, 1), count)
    window = window if window in images.WINDOWS else "lung"
    return {
        "number": at,
        "window": window,
        "count": count,
        "largest": largest,
        "outlined": bool(paths),
        "path": paths.get(at - 1, ""),
        "columns": stack.columns,
        "height": round(stack.rows * stack.ratio, 3),
        "ratio": round(stack.ratio, 6),
        "sides": list(zip(("left", "right", "above", "below"), stack.edges, strict=True)),
        "sentence": _sentence(stack, at, window),
        "text": slice_text(at, count, stack.slices[at - 1].z, at - 1 in paths),
        "note": note,
    }


def _sentence(stack: Stack, number: int, window: str) -> str:
    """Why a slice cannot be shown; '' when it can. The picture is asked for next: it is decoded once."""
    try:
        images.png(stack.slices[number - 1], images.WINDOWS[window])
    except images.SliceUnreadable as error:
        return str(error)
    return ""


def slice_text(number: int, count: int, z: float | None, outlined: bool) -> str:
    """What stands below a slice; the script says the same.

    >>> slice_text(31, 60, -123.5, True)
    'Slice 31 of 60, z −123.5 mm, contour'
    """
    place = f", z {z:.1f} mm" if z is not None else ""
    return f"Slice {number} of {count}{place}{', contour' if outlined else ''}".replace("-", "\N{MINUS SIGN}")

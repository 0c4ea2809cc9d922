"""The pages: worklist, study, reports, confirmations, audit trail. Reads the store; acts through `operations` alone."""

import hashlib
import time
from datetime import date, timedelta
from functools import cache
from typing import Annotated, Any
from urllib.parse import quote, unquote, urlencode

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from analysis.contract import RESEARCH_USE, SYNTHETIC_WARNING
from config.identity import VERSION
from dicom_node import operations
from dicom_node.local_time import midnight, zone_name
from dicom_node.store import Store
from dicom_node.web import actions, clinical_view, results, sr_text, study_page, study_view, views
from dicom_node.web.deps import (
    STATIC,
    Number,
    Operator,
    SpoolDep,
    StoreDep,
    Viewer,
    background,
    inside,
    opened,
    searched,
    templates,
)
from dicom_node.web.errors import Problem
from dicom_node.web.images import WINDOWS
from dicom_node.workitem import PRIORITIES, State
from dicom_node.worklist import Row, WorklistQuery

ROWS = 50
NOTICE = "notice"  # cookie: what an action said, until the next page has shown it
STATES = {
    "": (),
    "waiting": (State.WAITING,),
    "ready": (State.SCHEDULED,),
    "progress": (State.ANALYSED, State.REPORTED),
    "failed": (State.FAILED,),
    "completed": (State.COMPLETED,),
    "canceled": (State.CANCELED,),
}
STATE_NAMES = {
    "": "all",
    "waiting": "Waiting",
    "ready": "Scheduled",
    "progress": "Analysed or reported",
    "failed": "Failed",
    "completed": "Completed",
    "canceled": "Canceled",
}
OUTCOMES = {
    "": "all",
    "SCORED": "scored",
    "HIGH": "high risk",
    "UNCERTAIN": "uncertain risk",
    "LOW": "low risk",
    "NOT_SCORED": "not scored",
}
SORTS = {
    "received": "arrival",
    "updated": "last change",
    "study_date": "study date",
    "patient_name": "patient's name",
    "priority": "priority",
}

router = APIRouter(include_in_schema=False)


@cache
def asset(name: str) -> str:
    """Address of a static file; another one when its content changes."""
    return f"/static/{name}?v={hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"


templates.env.globals.update(
    asset=asset,
    ago=views.ago,
    iso=views.iso,
    zone=zone_name,
    moment=views.moment,
    minute=lambda seconds: views.moment(seconds)[:-3],
    RESEARCH_USE=RESEARCH_USE,
    SYNTHETIC_WARNING=SYNTHETIC_WARNING,
    VERSION=VERSION,
    WINDOWS=WINDOWS,
    PRIORITIES=PRIORITIES,
)


def render(request: Request, name: str, nav: str = "", status: int = 200, **context: Any) -> Response:
    """A page; for a page that reads what has changed (X-Background), without its frame."""
    part = background(request)
    said = unquote(request.cookies.get(NOTICE, ""))[:300]
    common = {"layout": "bare.html" if part else "base.html", "nav": nav, "now": time.time(), "said": said}
    answer = templates.TemplateResponse(request, name, common | context, status)
    if said and not part:
        answer.delete_cookie(NOTICE, httponly=True, samesite="strict")
    return answer


# -- worklist ------------------------------------------------------------------------------------------------------


@router.get("/")
def worklist(
    request: Request,
    signed: Viewer,
    store: StoreDep,
    q: Annotated[str, Query(max_length=100)] = "",
    state: str = "",
    outcome: str = "",
    since: str = "",
    until: str = "",
    held: str = "",
    all: str = "",
    sort: str = "received",
    order: str = "desc",
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
) -> Response:
    """Studies and their work items. What an address says and this page does not know is left out."""
    asked = {
        "q": q.strip(),
        "state": state if state in STATES else "",
        "outcome": outcome if outcome in OUTCOMES else "",
        "since": since if _day(since) else "",
        "until": until if _day(until) else "",
        "held": "1" if held == "1" else "",
        "all": "1" if all == "1" else "",
        "sort": sort if sort in SORTS else "received",
        "order": "asc" if order == "asc" else "desc",
    }
    found = store.worklist.find(_query(asked, page))
    if asked["q"]:
        searched(request, store, signed, asked["q"], found.total)
    rows = [views.row_view(row) for row in found.rows]
    more = page * ROWS < found.total or (found.more and len(rows) == ROWS)

    def link(**changes: object) -> str:
        wanted = {**asked, **changes}
        return "/?" + urlencode({name: value for name, value in wanted.items() if value not in ("", None)})

    def flip(key: str) -> str:
        return "asc" if asked["sort"] == key and asked["order"] == "desc" else "desc"

    shown = asked | {
        "filtered": any(asked[name] for name in ("q", "state", "outcome", "since", "until", "held")),
        "direction": "ascending" if asked["order"] == "asc" else "descending",
    }
    return render(
        request,
        "worklist.html",
        "Worklist",
        rows=rows,
        asked=shown,
        count=_count(found.total, found.more, bool(shown["filtered"])),
        pages={"this": page, "previous": page - 1 if page > 1 else None, "next": page + 1 if more else None},
        link=link,
        flip=flip,
        STATES=STATE_NAMES.items(),
        OUTCOMES=OUTCOMES.items(),
        SORTS=SORTS.items(),
        synthetic=study_page.is_synthetic(request, store, found.rows),
        newer=store.clinical.newer(),
        silent=[one.component for one in store.vitals.silent(time.time())],
        live=True,
    )


def _query(asked: dict[str, str], page: int) -> WorklistQuery:
    outcome = asked["outcome"]
    since, until = _day(asked["since"]), _day(asked["until"])
    return WorklistQuery(
        text=asked["q"],
        states=STATES[asked["state"]],
        outcome=outcome if outcome in ("SCORED", "NOT_SCORED") else "",
        group=outcome if outcome in ("HIGH", "LOW", "UNCERTAIN") else "",
        held=True if asked["held"] else None,
        since=midnight(since) if since else None,
        until=midnight(until + timedelta(days=1)) if until else None,
        sort=asked["sort"],  # type: ignore[arg-type]  # one of SORTS
        descending=asked["order"] == "desc",
        offset=(page - 1) * ROWS,
        limit=ROWS,
        newest_only=not asked["all"],
    )


def _day(text: str) -> date | None:
    """A day whose beginning and end can be told; None for anything else."""
    try:
        day = date.fromisoformat(text)
        midnight(day), midnight(day + timedelta(days=1))
    except (ValueError, OverflowError, OSError):  # the calendar of Python and that of the system have their ends
        return None
    return day


def _count(total: int, more: bool, filtered: bool) -> str:
    """How many there are, in words.

    >>> _count(1, False, True), _count(2000, True, False)
    ('1 work item matches', 'More than 2000 work items')
    """
    one = total == 1 and not more
    words = [*(["More than"] if more else []), str(total), "work item" if one else "work items"]
    return " ".join([*words, *(["matches" if one else "match"] if filtered else [])])


# -- study ---------------------------------------------------------------------------------------------------------


@router.get("/studies/{study_instance_uid}")
def study(study_instance_uid: str, signed: Viewer, store: StoreDep) -> Response:
    """The newest work item of a study, for links from elsewhere."""
    rows = store.worklist.of_study(study_instance_uid[:64])
    if not rows:
        raise Problem(404, "no work item of this study is here", "look for it on the worklist")
    newest = next((row for row in rows if row.newest), rows[0])
    return RedirectResponse(f"/items/{newest.id}", 303)


@router.get("/items/{item_id}")
def item(
    item_id: Number,
    request: Request,
    signed: Viewer,
    store: StoreDep,
    spool: SpoolDep,
    slice: int | None = None,
    window: str = "lung",
) -> Response:
    """Everything about one work item."""
    row = row_of(item_id, store)
    whole = not background(request)
    opened(request, store, signed, row.study_instance_uid, row.id, "study.opened", part=not whole)
    context = study_page.parts(request, row, store, spool, signed)
    if whole:
        context |= study_page.body(request, row, store, spool, slice, window, signed)
        context["desk"] = clinical_view.section(request, row, store, spool, signed)
    return render(request, "study.html", synthetic=study_page.is_synthetic(request, store, [row]), live=True, **context)


@router.get("/items/{item_id}/documents/{document}")
def report(
    item_id: Number, document: str, request: Request, signed: Viewer, store: StoreDep, spool: SpoolDep
) -> Response:
    """A Structured Report as text."""
    row = row_of(item_id, store)
    found = store.item(item_id)
    path = results.report_file(found, document, spool) if found else None
    if path is None:
        raise Problem(404, "there is no such report", "open it from the study's page")
    opened(request, store, signed, row.study_instance_uid, row.id, "result.opened")
    try:
        tree = results.report_tree(path)
    except sr_text.ReportUnreadable as error:
        raise Problem(422, str(error).rstrip("."), "the objects in the PACS are not touched by this") from None
    return render(
        request,
        "report.html",
        row=row,
        view=views.row_view(row),
        title=study_view.document(document),
        report=tree,
        synthetic=study_page.is_synthetic(request, store, [row]),
    )


def row_of(item_id: int, store: Store) -> Row:
    row = store.worklist.row(item_id)
    if row is None:
        raise Problem(404, f"there is no work item {item_id}", "open it from the worklist")
    return row


# -- actions -------------------------------------------------------------------------------------------------------


@router.get("/items/{item_id}/act/{action}")
def confirm(item_id: Number, action: str, request: Request, signed: Operator, store: StoreDep) -> Response:
    """What would happen, before anything does."""
    row = row_of(item_id, store)
    if action not in operations.ACTIONS:
        raise Problem(404, "nothing is here", "open the study from the worklist")
    opened(request, store, signed, row.study_instance_uid, row.id, "study.opened", part=True)
    return _confirm(request, row, action, store, operations.refusal(action, row))


def _confirm(
    request: Request, row: Row, action: str, store: Store, refused: operations.Refused | None, status: int = 200
) -> Response:
    return render(
        request,
        "confirm.html",
        status=status,
        row=row,
        view=views.row_view(row),
        action=actions.described(action, row, store.deliveries.of_item(row.id)),
        refused=str(refused) if refused else "",
        remedy=refused.remedy if refused else "",
        synthetic=study_page.is_synthetic(request, store, [row]),
    )


@router.post("/items/{item_id}/act/{action}")
def act(
    item_id: Number,
    action: str,
    request: Request,
    signed: Operator,
    store: StoreDep,
    value: Annotated[str, Form(max_length=16)] = "",
) -> Response:
    """Do it, and go back to the study."""
    row = row_of(item_id, store)
    if action not in operations.ACTIONS:
        raise Problem(404, "nothing is here", "open the study from the worklist")
    try:
        said = operations.act(store, action, item_id, signed.actor, time.time(), value)
    except operations.Refused as refused:
        opened(request, store, signed, row.study_instance_uid, row.id, "study.opened", part=True)
        return _confirm(request, row_of(item_id, store), action, store, refused, 409)
    answer = RedirectResponse(f"/items/{row.id}", 303)
    notice = quote(f"{actions.described(action, row, ()).label}: {said}.")
    keep_cookie(request, answer, NOTICE, notice, 60)
    return answer


# -- audit, scheme -------------------------------------------------------------------------------------------------


@router.get("/audit")
def audit(request: Request, signed: Operator, store: StoreDep) -> Response:
    """The audit trail, for operators."""
    entries, synthetic = store.audit.newest(500), study_page.is_synthetic(request, store, ())
    return render(request, "audit.html", "Audit", entries=entries, synthetic=synthetic)


@router.post("/scheme")
def scheme(request: Request, signed: Viewer, next: Annotated[str, Form(max_length=2048)] = "/") -> Response:
    """Dark or light, for this browser."""
    answer = RedirectResponse(inside(next), 303)
    new = "dark" if request.cookies.get("scheme") == "light" else "light"
    keep_cookie(request, answer, "scheme", new, 400 * 86400)
    return answer


def keep_cookie(request: Request, answer: Response, name: str, value: str, seconds: int) -> None:
    """A cookie that says nothing of anyone."""
    secure = request.url.scheme == "https"
    answer.set_cookie(name, value, seconds, httponly=True, samesite="strict", secure=secure)

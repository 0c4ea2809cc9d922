"""The JSON API: what the page shows and does, for programs. Described by /api/v1/openapi.json; see docs/web.md."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from analysis.contract import RESULT_FILE, JobResult, Outcome, RiskGroup
from config.identity import VERSION
from dicom_node import operations, status
from dicom_node.store import Store
from dicom_node.web import deps, facts
from dicom_node.web.api_models import (
    AuditOut,
    DeliveryOut,
    DoneOut,
    EventOut,
    PriorityIn,
    SignedOut,
    WorkItemDetailOut,
    WorkItemOut,
    WorklistOut,
    audit_out,
    delivery_out,
    detail_out,
    event_out,
    work_item_out,
    worklist_out,
)
from dicom_node.web.deps import Operator, SettingsDep, Signed, SpoolDep, StoreDep, Viewer
from dicom_node.web.errors import Problem, ProblemBody
from dicom_node.workitem import State
from dicom_node.worklist import Row, Sort, WorklistQuery

PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": ProblemBody, "description": "no token, or one that is not in force"},
    403: {"model": ProblemBody, "description": "the role does not allow it"},
    404: {"model": ProblemBody, "description": "not known here"},
    422: {"model": ProblemBody, "description": "a value cannot be used"},
    503: {"model": ProblemBody, "description": "no store yet, or it is busy"},
}
REFUSED: dict[int | str, dict[str, Any]] = {409: {"model": ProblemBody, "description": "not possible now"}}

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)
WorkItemId = Annotated[int, Path(ge=1, lt=2**63)]
StudyInstanceUID = Annotated[str, Path(max_length=64, pattern=r"^[0-9.]+$")]


# -- looking -----------------------------------------------------------------------------------------------------


@router.get("/me", tags=["session"])
def me(signed: Viewer) -> SignedOut:
    """Who the token or session belongs to."""
    return SignedOut(account=signed.account, role=signed.role)


@router.get("/worklist", tags=["worklist"])
def worklist(
    request: Request,
    store: StoreDep,
    signed: Viewer,
    text: Annotated[str, Query(max_length=128, description="beginning of name, Patient ID, accession, study UID")] = "",
    state: Annotated[list[State], Query(max_length=7, description="any of these; default: all")] = [],  # noqa: B006
    outcome: Outcome | None = None,
    group: Annotated[RiskGroup | None, Query(description="the group of OS, else of the first endpoint")] = None,
    held: bool | None = None,
    since: Annotated[float | None, Query(description="arrived at or after, seconds since 1970")] = None,
    until: Annotated[float | None, Query(description="arrived before, seconds since 1970")] = None,
    sort: Sort = "received",
    descending: bool = True,
    offset: Annotated[int, Query(ge=0, le=10_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    newest_only: Annotated[bool, Query(description="without what a later revision has replaced")] = True,
) -> WorklistOut:
    """Work items with their patients, filtered, sorted and by pages. The audit trail has who searched for whom."""
    query = WorklistQuery(
        text, tuple(state), outcome or "", group or "", held, since, until, sort, descending, offset, limit, newest_only
    )
    found = store.worklist.find(query)
    if text.strip():
        deps.searched(request, store, signed, text.strip(), found.total)
    return worklist_out(found)


@router.get("/studies/{study_instance_uid}", tags=["worklist"])
def study(request: Request, store: StoreDep, signed: Viewer, study_instance_uid: StudyInstanceUID) -> list[WorkItemOut]:
    """Every work item of a study, also replaced ones; newest first. The audit trail has who looked."""
    rows = store.worklist.of_study(study_instance_uid)
    if not rows:
        raise Problem(404, "this study is not known here", "nothing of it has been received, or it has no CT")
    deps.opened(request, store, signed, study_instance_uid, None, "study.opened")
    return [work_item_out(row) for row in rows]


@router.get("/work-items/{work_item_id}", tags=["work items"])
def work_item(
    request: Request, store: StoreDep, spool: SpoolDep, signed: Viewer, work_item_id: WorkItemId
) -> WorkItemDetailOut:
    """A work item with the ten stops of its way. The audit trail has who looked."""
    row = _row(store, work_item_id)
    item = store.item(work_item_id)
    assert item is not None
    deps.opened(request, store, signed, row.study_instance_uid, row.id, "study.opened")
    stops = status.stops(item, store.details(row.id), store.deliveries.of_item(row.id), spool)
    return detail_out(row, stops)


@router.get("/work-items/{work_item_id}/deliveries", tags=["work items"])
def deliveries(store: StoreDep, signed: Viewer, work_item_id: WorkItemId) -> list[DeliveryOut]:
    """Each object and message by destination, with its proof."""
    return [delivery_out(one) for one in store.deliveries.of_item(_row(store, work_item_id).id)]


@router.get("/work-items/{work_item_id}/events", tags=["work items"])
def events(store: StoreDep, signed: Viewer, work_item_id: WorkItemId) -> list[EventOut]:
    """The history, oldest first."""
    return [event_out(one) for one in store.worklist.events(_row(store, work_item_id).id)]


@router.get("/work-items/{work_item_id}/audit", tags=["work items"])
def audit(store: StoreDep, signed: Operator, work_item_id: WorkItemId) -> list[AuditOut]:
    """Who looked at it and who acted on it, newest first. For operators."""
    return [audit_out(one) for one in store.audit.of_item(_row(store, work_item_id).id)]


@router.get("/work-items/{work_item_id}/result", tags=["work items"])
def result(request: Request, store: StoreDep, spool: SpoolDep, signed: Viewer, work_item_id: WorkItemId) -> JobResult:
    """The result of the analysis as the job wrote it (config/schema/result.schema.json)."""
    row = _row(store, work_item_id)
    path = spool.results(row.key or "-", "analysis") / RESULT_FILE
    if row.outcome is None or not path.is_file():
        raise Problem(404, "there is no result yet", f"the work item is {row.state}")
    deps.opened(request, store, signed, row.study_instance_uid, row.id, "result.opened")
    return JobResult.model_validate_json(path.read_bytes())


@router.get("/models", tags=["system"])
def models(request: Request, store: StoreDep, signed: Viewer) -> list[facts.ModelFacts]:
    """The installed bundle: manifest, digest, model card, metrics, golden case."""
    return list(request.app.state.models.all(store))


@router.get("/system", tags=["system"])
def system(store: StoreDep, spool: SpoolDep, settings: SettingsDep, signed: Viewer) -> facts.SystemFacts:
    """Disk, queue, peers and the worker with its job isolation."""
    return facts.system(settings, spool, store, VERSION)


@router.get("/openapi.json", tags=["session"], include_in_schema=False)
def openapi(request: Request, signed: Viewer) -> dict[str, Any]:
    """This description."""
    return request.app.openapi()  # type: ignore[no-any-return]


# -- acting ------------------------------------------------------------------------------------------------------


@router.post("/work-items/{work_item_id}/priority", tags=["actions"], responses=REFUSED)
def priority(store: StoreDep, signed: Operator, work_item_id: WorkItemId, wanted: PriorityIn) -> DoneOut:
    """Set the priority: HIGH goes first, LOW last."""
    return _act(store, signed, "priority", work_item_id, wanted.priority)


def _add(action: str, description: str) -> None:
    """An endpoint for an action that needs no more than the work item."""

    @router.post(
        f"/work-items/{{work_item_id}}/{action}",
        name=action, description=description, tags=["actions"], responses=REFUSED,
    )  # fmt: skip
    def act(store: StoreDep, signed: Operator, work_item_id: WorkItemId) -> DoneOut:
        return _act(store, signed, action, work_item_id)


_add("retry", "Run a failed work item again, or send again what a destination has refused.")
_add(
    "rescore",
    "Plan it once more with the clinical values, bundle and settings of now; another answer is the next revision.",
)
_add("plan", "Plan a contour that waits for images now, with what is here; what comes later makes the next revision.")
_add("hold", "Start and send nothing of it until it is released.")
_add("release", "Let a held work item go on, also one that is held for review.")
_add(
    "cancel",
    "Withdraw a work item. One that is being delivered and of which anything has left cannot be withdrawn; what a"
    " failed one has sent before stays at its destinations.",
)


def _act(store: Store, signed: Signed, action: str, work_item_id: int, value: str = "") -> DoneOut:
    try:
        said = operations.act(store, action, work_item_id, signed.actor, time.time(), value)
    except operations.Unknown as error:
        raise Problem(404, str(error), "see /api/v1/worklist") from None
    except operations.Refused as error:
        raise Problem(409, str(error), error.remedy) from None
    return DoneOut(detail=said, work_item=work_item_out(_row(store, work_item_id)))


def _row(store: Store, work_item_id: int) -> Row:
    row = store.worklist.row(work_item_id)
    if row is None:
        raise Problem(404, f"there is no work item {work_item_id}", "see /api/v1/worklist")
    return row

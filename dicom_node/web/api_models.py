"""What the JSON API takes and gives. Times are ISO 8601 in UTC; dates of DICOM stay YYYYMMDD; UPS words as in PS3.4."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dicom_node.accounts import Role
from dicom_node.audit import AuditEntry
from dicom_node.deliveries import Delivery
from dicom_node.operations import ACTIONS, Refused, refusal
from dicom_node.status import Stop
from dicom_node.summary import Summary
from dicom_node.workitem import PRIORITIES, State
from dicom_node.worklist import Row, WorklistPage

Priority = Literal["HIGH", "MEDIUM", "LOW"]
UpsState = Literal["SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"]


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class PatientOut(_Out):
    """The study's patient as known now; '' where absent."""

    patient_name: str = Field(description="PN: component groups with '=', components with '^'")
    patient_id: str
    issuer_of_patient_id: str
    patient_birth_date: str
    patient_sex: str


class DeliveryCountsOut(_Out):
    """Objects and messages of the work item over all destinations."""

    open: int
    refused: int = Field(description="FAILED: refused there, or could not be sent")
    sent: int
    proved: int
    total: int


class WorkItemOut(_Out):
    """One row of the worklist."""

    id: int
    study_instance_uid: str
    patient: PatientOut
    accession_number: str
    study_date: str
    study_time: str
    study_description: str
    procedure_step_state: UpsState
    state: State
    in_progress: bool = Field(description="a worker holds the lease now")
    held: bool
    shadow: bool = Field(description="by a routing rule, analysed and kept: nothing of it is sent")
    revision: int
    newest: bool = Field(description="false: a later revision of the same contour has taken its place")
    outcome: Literal["SCORED", "NOT_SCORED"] | None
    reason: str | None = Field(description="why not scored, or what is waited for")
    hint: str | None = Field(description="what to do")
    summary: Summary | None = Field(description="risk groups and probabilities, where scored")
    priority: Priority
    deliveries: DeliveryCountsOut
    created_at: datetime
    scheduled_at: datetime | None
    updated_at: datetime


class WorklistOut(_Out):
    """One page. `total` is exact unless `more`: then there are more than that."""

    work_items: list[WorkItemOut]
    total: int
    more: bool


class ActionOut(_Out):
    """Whether an action is possible now; `detail` and `remedy` say why not."""

    possible: bool
    detail: str = ""
    remedy: str = ""


class StopOut(_Out):
    """One of the ten stops of a study's way (docs/tour.md)."""

    name: str
    at: datetime | None
    text: str


class WorkItemDetailOut(WorkItemOut):
    """A work item with its way and what can be done with it."""

    stops: list[StopOut]
    actions: dict[str, ActionOut]


class DeliveryOut(_Out):
    """One object or message on its way to one destination, with its proof."""

    document: str
    destination: str
    state: str
    sop_class_uid: str | None
    sop_instance_uid: str | None
    status: int | None = Field(description="last DIMSE status")
    final: bool
    detail: str
    attempts: int
    next_attempt_at: datetime | None
    sent_at: datetime | None
    proved_at: datetime | None


class EventOut(_Out):
    """One entry of a work item's history."""

    at: datetime
    name: str
    detail: str


class AuditOut(_Out):
    """Who did what, when and from where."""

    at: datetime
    actor: str
    origin: str
    address: str
    action: str
    outcome: str
    detail: str


class PriorityIn(BaseModel):
    """A new priority: Scheduled Procedure Step Priority (0074,1200)."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority


class DoneOut(_Out):
    """What happens next, and the work item as it is now."""

    detail: str
    work_item: WorkItemOut


class SignedOut(_Out):
    """Who the caller is."""

    account: str
    role: Role


def moment(at: float | None) -> datetime | None:
    """Seconds since 1970 as a time; None stays None."""
    return None if at is None else datetime.fromtimestamp(at, UTC)


def _at(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


_PRIORITY_WORDS: dict[int, Priority] = {number: word for word, number in PRIORITIES.items()}  # type: ignore[misc]


def _fields(row: Row) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in WorkItemOut.model_fields if hasattr(row, name)},
        "patient": PatientOut.model_validate(row),
        "procedure_step_state": row.ups_state,
        "in_progress": row.leased,
        "priority": _PRIORITY_WORDS.get(row.priority, "MEDIUM"),
        "deliveries": DeliveryCountsOut.model_validate(row.deliveries),
        "created_at": _at(row.created_at),
        "scheduled_at": moment(row.scheduled_at),
        "updated_at": _at(row.updated_at),
    }


def work_item_out(row: Row) -> WorkItemOut:
    return WorkItemOut(**_fields(row))


def worklist_out(page: WorklistPage) -> WorklistOut:
    return WorklistOut(work_items=[work_item_out(row) for row in page.rows], total=page.total, more=page.more)


def detail_out(row: Row, stops: list[Stop]) -> WorkItemDetailOut:
    refused = {action: refusal(action, row) for action in ACTIONS}
    actions = {
        action: ActionOut(possible=True)
        if why is None
        else ActionOut(possible=False, detail=str(why), remedy=why.remedy)
        for action, why in refused.items()
    }
    ways = [StopOut(name=stop.name, at=moment(stop.at), text=stop.text) for stop in stops]
    return WorkItemDetailOut(**_fields(row), stops=ways, actions=actions)


def _action_out(why_not: Refused | None) -> ActionOut:
    if why_not is None:
        return ActionOut(possible=True)
    return ActionOut(possible=False, detail=str(why_not), remedy=why_not.remedy)


def delivery_out(delivery: Delivery) -> DeliveryOut:
    own = {name: getattr(delivery, name) for name in DeliveryOut.model_fields if hasattr(delivery, name)}
    times = {"sent_at": moment(delivery.sent_at), "proved_at": moment(delivery.proved_at)}
    following = None if delivery.final or not delivery.run_after else moment(delivery.run_after)
    return DeliveryOut(**{**own, **times, "final": bool(delivery.final), "next_attempt_at": following})


def event_out(event: dict[str, Any]) -> EventOut:
    return EventOut(at=_at(event["at"]), name=event["name"], detail=event["detail"])


def audit_out(entry: AuditEntry) -> AuditOut:
    own = {name: getattr(entry, name) for name in AuditOut.model_fields}
    return AuditOut(**{**own, "at": _at(entry.at)})

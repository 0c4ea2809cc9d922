"""What an operator may do with a work item, and what is said when it is not possible now. Page, API and CLI use these.

Each is one transaction with its audit entry; a refused one leaves an entry too.
"""

from collections.abc import Callable
from dataclasses import dataclass

from analysis.contract import WaitingReason
from dicom_node.audit import AuditEntry, AuditOutcome, Origin
from dicom_node.store import Store
from dicom_node.workitem import PRIORITIES, State
from dicom_node.worklist import Row


@dataclass(frozen=True)
class Actor:
    """Who acts: an account, a token ("token:<name>") or the system user of a command."""

    name: str
    origin: Origin
    address: str = ""


class Refused(Exception):
    """The action is not possible for this work item now; the text says why, `remedy` what to do instead."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class Unknown(LookupError):
    """There is no such work item."""


ENDED = (State.COMPLETED, State.CANCELED)


def refusal(action: str, row: Row) -> Refused | None:
    """Why an action of ACTIONS is not possible for this work item now; None when it is."""
    return _RULES[action](row)


def act(store: Store, action: str, work_item_id: int, actor: Actor, now: float, value: str = "") -> str:
    """Do it; gives a sentence about what happens next. `value`: HIGH, MEDIUM or LOW with "priority".

    Raises
    ------
    Refused
        Not possible now; the audit trail has it.
    Unknown
        No such work item.
    """
    with store.transaction():
        row = store.worklist.row(work_item_id)
        if row is None:
            raise Unknown(f"there is no work item {work_item_id}")
        refused = refusal(action, row)
        if refused is None and action == "priority" and value not in PRIORITIES:
            refused = Refused("a priority is HIGH, MEDIUM or LOW", "give one of them")
        if refused is None:
            said = _DO[action](store, row, actor, now, value)
            _audit(store, action, row, actor, now, "done", value)
            return said
    _audit(store, action, row, actor, now, "refused", str(refused))
    raise refused


def _audit(store: Store, action: str, row: Row, actor: Actor, now: float, outcome: AuditOutcome, detail: str) -> None:
    store.audit.add(
        AuditEntry(
            now,
            actor.name,
            actor.origin,
            f"workitem.{action}",
            outcome,
            actor.address,
            row.id,
            row.study_instance_uid,
            detail,
        )
    )


# -- what is possible ------------------------------------------------------------------------------------------


def _why_not_retry(row: Row) -> Refused | None:
    if not row.newest:
        return Refused("a later revision has taken its place", "act on the newest work item of this contour")
    if row.state is State.FAILED:
        return None
    if row.state is State.COMPLETED:
        return Refused("it has not failed", "to have it planned once more, rescore it")
    return Refused(f"it has not failed; it is {row.state}", "nothing to do")


def _why_not_rescore(row: Row) -> Refused | None:
    if not row.newest:
        return Refused("a later revision has taken its place", "act on the newest work item of this contour")
    if row.roi_sop_instance_uid is None:
        return Refused("there is no contour to score", "send the contour (RTSTRUCT or SEG)")
    if row.state is State.WAITING:
        return Refused("it still waits to be scored", row.hint or "send what is missing")
    if row.state in (State.ANALYSED, State.REPORTED):
        return Refused("its result is on its way", "wait until it is COMPLETED; if it is held, release or cancel it")
    return None


def _why_not_plan(row: Row) -> Refused | None:
    if row.state is not State.WAITING:
        return Refused(f"it does not wait; it is {row.state}", "nothing to do")
    if row.roi_sop_instance_uid is None:
        return Refused("there is no contour to score", "send the contour (RTSTRUCT or SEG)")
    if row.reason in list(WaitingReason):
        return Refused("it does not wait for images", row.hint or "see what it waits for")
    return None


def _why_not_hold(row: Row) -> Refused | None:
    if row.state in ENDED:
        return Refused(f"it is {row.state}: nothing is left to hold back", "nothing to do")
    return Refused("it is held already", "release it to let it go on") if row.held else None


def _why_not_release(row: Row) -> Refused | None:
    return None if row.held else Refused("it is not held", "nothing to do")


def _why_not_cancel(row: Row) -> Refused | None:
    if row.state in ENDED:
        return Refused(f"it is {row.state}: that is its end", "nothing to do")
    if row.state is State.REPORTED and (row.deliveries.sent or row.deliveries.left):
        return Refused(
            "some of its objects have left already, or may have", "hold it to keep the rest back, or let it end"
        )
    return None


def _why_not_priority(row: Row) -> Refused | None:
    return Refused(f"it is {row.state}: it waits for nothing", "nothing to do") if row.state in ENDED else None


_RULES: dict[str, Callable[[Row], Refused | None]] = {
    "retry": _why_not_retry,
    "rescore": _why_not_rescore,
    "plan": _why_not_plan,
    "hold": _why_not_hold,
    "release": _why_not_release,
    "cancel": _why_not_cancel,
    "priority": _why_not_priority,
}
ACTIONS = tuple(_RULES)


# -- what is done ----------------------------------------------------------------------------------------------


def _retry(store: Store, row: Row, actor: Actor, now: float, _: str) -> str:
    store.retry(row.id, now, f"retry by {actor.name}")
    again = store.worklist.row(row.id)
    sends = again is not None and again.state is State.REPORTED
    said = "what failed is sent again" if sends else "it is analysed again"
    return f"{said}, once it is released" if row.held else said


def _rescore(store: Store, row: Row, actor: Actor, now: float, _: str) -> str:
    store.births.replan(row.id, f"rescore by {actor.name}", now)
    return "it is planned once more; another answer becomes the next revision, the same one changes nothing"


def _plan(store: Store, row: Row, actor: Actor, now: float, _: str) -> str:
    store.births.plan_at_once(row.id, f"by {actor.name}", now)
    return "it is planned with what is here; what comes later makes the next revision"


def _hold(store: Store, row: Row, actor: Actor, now: float, _: str) -> str:
    store.hold(row.id, True, now, f"by {actor.name}")
    return "it is held: nothing is started or sent until it is released"


def _release(store: Store, row: Row, actor: Actor, now: float, _: str) -> str:
    store.hold(row.id, False, now, f"by {actor.name}")
    return "it goes on"


def _cancel(store: Store, row: Row, actor: Actor, now: float, _: str) -> str:
    store.cancel(row.id, now, f"by {actor.name}")
    return "it is canceled; new objects of the study begin a new work item"


def _set_priority(store: Store, row: Row, actor: Actor, now: float, value: str) -> str:
    store.set_priority(row.id, PRIORITIES[value], now, f"{value} by {actor.name}")
    return f"its priority is {value}"


_DO: dict[str, Callable[[Store, Row, Actor, float, str], str]] = {
    "retry": _retry,
    "rescore": _rescore,
    "plan": _plan,
    "hold": _hold,
    "release": _release,
    "cancel": _cancel,
    "priority": _set_priority,
}

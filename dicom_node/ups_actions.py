"""N-ACTIONs on Unified Procedure Steps (PS3.4 CC.2.1 to CC.2.3): what each does, and the status that answers it.

Knows no network: `ups_scp` reads the request and runs these on the store's thread. Each leaves an audit entry.
"""

import json
import logging
from dataclasses import dataclass

from pydicom.dataset import Dataset

from config.settings import Settings
from dicom_node import ups_audit
from dicom_node.audit import AuditEntry, AuditOutcome
from dicom_node.elements import ascii_text, escaped
from dicom_node.limits import peer_of
from dicom_node.procedure_steps import StepRow
from dicom_node.step_state import StepState
from dicom_node.store import Store
from dicom_node.ups_audit import Caller
from dicom_node.ups_worklist import UpsWorklist
from dicom_node.workitem import State
from reports import ups

LOGGER = logging.getLogger(__name__)
SUCCESS, INVALID_ARGUMENT, MISSING_VALUE, NO_SUCH_ACTION, NOT_AUTHORISED = 0x0000, 0x0115, 0x0121, 0x0123, 0x0124
ALREADY_CANCELED = 0xB304
WRONG_TRANSACTION, ONLY_BY_CREATE, UNKNOWN_STEP, UNKNOWN_AE = 0xC301, 0xC303, 0xC307, 0xC308
NOT_IN_PROGRESS, ALREADY_COMPLETED, NOT_CANCELED, NOT_APPROPRIATE = 0xC310, 0xC311, 0xC313, 0xC314

CHANGE_STATE, REQUEST_CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND = 1, 2, 3, 4, 5  # Action Type IDs
CANCELABLE = frozenset({State.WAITING, State.SCHEDULED})
_WORKLISTS = frozenset({ups.WORKLIST_UID, ups.FILTERED_WORKLIST_UID})
_WORDS = {SUBSCRIBE: "subscribed", UNSUBSCRIBE: "unsubscribed", SUSPEND: "suspended"}
_NOT_FILTER = frozenset({"ReceivingAE", "DeletionLock"})


@dataclass(frozen=True)
class Action:
    """One request. `uid` is '' where it is none."""

    caller: Caller
    kind: int
    uid: str
    information: Dataset
    now: float


def act(action: Action, store: Store, worklist: UpsWorklist, settings: Settings) -> int:
    """Do it; gives the N-ACTION status. Raises IdentifierError for matching keys that cannot be used."""
    if action.kind == CHANGE_STATE:
        return _change_state(action, store)
    if action.kind == REQUEST_CANCEL:
        return _request_cancel(action, store)
    if action.kind in _WORDS:
        return _subscription(action, store, worklist, settings)
    return NO_SUCH_ACTION


def _change_state(action: Action, store: Store) -> int:
    """Refused always, and for the reason of Table CC.1.1-2: nobody else has the Transaction UID of a step."""
    row = store.steps.of_uid(action.uid)
    wanted = ascii_text(action.information, "ProcedureStepState")
    if row is None:
        return UNKNOWN_STEP
    if wanted not in set(StepState):
        return INVALID_ARGUMENT if wanted else MISSING_VALUE
    if wanted == StepState.SCHEDULED:
        return ONLY_BY_CREATE
    if row.step.state is not StepState.SCHEDULED or not ascii_text(action.information, "TransactionUID"):
        return WRONG_TRANSACTION
    return NOT_AUTHORISED if wanted == StepState.IN_PROGRESS else NOT_IN_PROGRESS


# -- Request UPS Cancel ------------------------------------------------------------------------------------------


def _request_cancel(action: Action, store: Store) -> int:
    """Told to subscribers and written to the audit trail; honoured while the work has not begun."""
    row = store.steps.of_uid(action.uid)
    if row is None:
        return UNKNOWN_STEP
    calling = escaped(action.caller.ae_title)
    told = {"requesting_ae": action.caller.ae_title, "said": json.loads(action.information.to_json())}
    with store.transaction():
        store.steps.cancel_requested(row, told, action.now)
        status = _canceled(store, row, f"asked for by {calling}", action.now)
        outcome: AuditOutcome = "done" if status == SUCCESS else "refused"
        detail = f"UPS Request Cancel, status {status:04X}H"
        store.audit.add(
            ups_audit.about_step(
                action.caller, "workitem.cancel", row.work_item_id, row.study_instance_uid, outcome, detail, action.now
            )
        )
    LOGGER.info('ups.cancel_requested by "%s": status %04XH', calling, status)
    return status


def _canceled(store: Store, row: StepRow, why: str, now: float) -> int:
    """Withdraw a work item that nobody has begun; gives the status (Table CC.2.2-2)."""
    current = store.worklist.row(row.work_item_id)
    if current is None:
        return UNKNOWN_STEP
    if current.state is State.CANCELED:
        return ALREADY_CANCELED
    if row.step.state is StepState.COMPLETED:
        return ALREADY_COMPLETED
    if row.step.state is not StepState.SCHEDULED or current.leased or current.state not in CANCELABLE:
        return NOT_CANCELED
    store.cancel(row.work_item_id, now, why)
    return SUCCESS


# -- Subscribe, Unsubscribe, Suspend -----------------------------------------------------------------------------


def _subscription(action: Action, store: Store, worklist: UpsWorklist, settings: Settings) -> int:
    title = ascii_text(action.information, "ReceivingAE", 16)
    if not title:
        return MISSING_VALUE
    calling = escaped(action.caller.ae_title)
    if peer_of(settings, title) is None:  # it could not be told anything: host and port are not known
        LOGGER.warning(
            'ups.refused subscription of "%s" by "%s": no [[peers]] entry has this AE title; add it with host and port',
            escaped(title), calling,
        )  # fmt: skip
        return UNKNOWN_AE
    if action.uid in _WORKLISTS:
        row, status = None, _of_worklist(action, title, store, worklist)
    else:
        row = store.steps.of_uid(action.uid)
        status = _of_step(action, title, store, row)
    what = f"ups.{_WORDS[action.kind]}"
    store.audit.add(_subscription_entry(action, what, title, status, row))
    LOGGER.info('%s "%s" by "%s": status %04XH', what, escaped(title), calling, status)
    return status


def _of_worklist(action: Action, title: str, store: Store, worklist: UpsWorklist) -> int:
    if action.kind == UNSUBSCRIBE:
        store.subscriptions.unsubscribe_worklist(title)
        return SUCCESS
    if action.kind == SUSPEND:
        store.subscriptions.suspend_worklist(title)
        return SUCCESS
    lock = _lock(action.information)
    if lock is None:
        return INVALID_ARGUMENT
    if action.uid != ups.FILTERED_WORKLIST_UID:
        store.subscriptions.subscribe_worklist(title, keys="", matching=None, lock=lock, now=action.now)
        return SUCCESS
    identifier, newest = _keys(action.information), store.steps.newest()
    matching = worklist.numbers(identifier)  # may take a while: nothing is locked meanwhile
    with store.transaction():
        matching += [one for one in worklist.numbers(identifier, newest) if one not in matching]
        store.subscriptions.subscribe_worklist(
            title, keys=identifier.to_json(), matching=matching, lock=lock, now=action.now
        )
    return SUCCESS


def _of_step(action: Action, title: str, store: Store, row: StepRow | None) -> int:
    if action.kind == SUSPEND:
        return NOT_APPROPRIATE
    if row is None:
        return UNKNOWN_STEP
    if action.kind == UNSUBSCRIBE:
        store.subscriptions.unsubscribe(title, row.work_item_id)
        return SUCCESS
    lock = _lock(action.information)
    if lock is None:
        return INVALID_ARGUMENT
    store.subscriptions.subscribe(title, row.work_item_id, lock=lock, now=action.now)
    return SUCCESS


def _subscription_entry(action: Action, what: str, title: str, status: int, row: StepRow | None) -> AuditEntry:
    outcome: AuditOutcome = "done" if status == SUCCESS else "refused"
    detail = f"receiving AE {escaped(title)}, status {status:04X}H"
    if row is None:
        return ups_audit.about_worklist(action.caller, what, outcome, detail, action.now)
    return ups_audit.about_step(
        action.caller, what, row.work_item_id, row.study_instance_uid, outcome, detail, action.now
    )


def _keys(information: Dataset) -> Dataset:
    """The matching keys of a filtered subscription: what is not about the subscription itself."""
    keys = Dataset()
    for element in information:
        if element.keyword not in _NOT_FILTER:
            keys.add(element)
    return keys


def _lock(information: Dataset) -> bool | None:
    """Deletion Lock (0074,1230); None where it is neither TRUE nor FALSE."""
    return {"TRUE": True, "FALSE": False}.get(ascii_text(information, "DeletionLock"))

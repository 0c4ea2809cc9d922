"""SCP of the Unified Procedure Step Service (PS3.4 CC): UPS Pull, Watch, Query and Push, as far as we serve them.

The node makes every step and performs it itself. Others query, read, subscribe, and may ask for a cancellation; they
neither create, claim nor change a step. Bound by `receive` when [ups] is enabled.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pydicom.dataset import Dataset
from pynetdicom import evt

from config.settings import Settings
from dicom_node.audit import AuditEntry
from dicom_node.elements import ascii_text, escaped, is_uid
from dicom_node.limits import peer_of
from dicom_node.procedure_steps import StepRow
from dicom_node.spool import Spool
from dicom_node.step_state import StepState
from dicom_node.store import Store
from dicom_node.ups_worklist import SUPPORTED, UpsWorklist
from dicom_node.workitem import State
from reports import ups, ups_match

LOGGER = logging.getLogger(__name__)
MOST_MATCHES = 1000  # beyond, A700 ends the answer: the keys must be narrower
T = TypeVar("T")

SUCCESS, PENDING, PENDING_UNSUPPORTED = 0x0000, 0xFF00, 0xFF01
CANCEL, OUT_OF_RESOURCES, IDENTIFIER_WRONG, UNABLE = 0xFE00, 0xA700, 0xA900, 0xC000
OPTIONAL_NOT_SUPPORTED, PROCESSING_FAILURE, NO_SUCH_ACTION, NOT_AUTHORISED = 0x0001, 0x0110, 0x0123, 0x0124
INVALID_ARGUMENT, MISSING_ATTRIBUTE_VALUE = 0x0115, 0x0121
ALREADY_CANCELED = 0xB304
WRONG_TRANSACTION, ONLY_BY_CREATE, UNKNOWN_STEP, UNKNOWN_AE = 0xC301, 0xC303, 0xC307, 0xC308
NOT_IN_PROGRESS, ALREADY_COMPLETED, NOT_CANCELED, NOT_APPROPRIATE = 0xC310, 0xC311, 0xC313, 0xC314

CHANGE_STATE, REQUEST_CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND = 1, 2, 3, 4, 5  # Action Type IDs
_WORKLISTS = frozenset({ups.WORKLIST_UID, ups.FILTERED_WORKLIST_UID})
CANCELABLE = frozenset({State.WAITING, State.SCHEDULED})
_NOT_FILTER = frozenset({"ReceivingAE", "DeletionLock"})
Answer = tuple[int, Dataset | None]


class UpsScp:
    """Handlers of the UPS SOP classes.

    Parameters
    ----------
    call : callable
        Runs a function of a store on the store's thread, as `Ledger.call` does: one of its own, so that a long query
        keeps no C-STORE waiting.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        call: Callable[[Callable[[Store], Any]], Any],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._spool, self._call, self._clock = settings, spool, call, clock

    def handlers(self) -> list[tuple[Any, Callable[[evt.Event], Any]]]:
        """What `receive` binds."""
        return [
            (evt.EVT_C_FIND, self.on_find),
            (evt.EVT_N_GET, self.on_get),
            (evt.EVT_N_ACTION, self.on_action),
            (evt.EVT_N_CREATE, self.on_create),
            (evt.EVT_N_SET, self.on_set),
        ]

    # -- C-FIND ----------------------------------------------------------------------------------------------

    def on_find(self, event: evt.Event) -> Iterator[Answer]:
        """Search for Unified Procedure Step (CC.2.8)."""
        try:
            if not self._is_peer(event):
                yield NOT_AUTHORISED, None
                return
            yield from self._find(event)
        except ups_match.IdentifierError as error:
            LOGGER.warning('ups.refused query of "%s": %s', _calling(event), error)
            yield IDENTIFIER_WRONG, None
        except Exception as error:
            LOGGER.error('ups.failed %s in a request of "%s"', type(error).__name__, _calling(event))
            LOGGER.debug("ups.failed", exc_info=True)
            yield UNABLE, None

    def _find(self, event: evt.Event) -> Iterator[Answer]:
        identifier = _readable(lambda: event.identifier)
        ups_match.check(identifier)
        lacking = ups_match.unsupported(identifier, SUPPORTED)
        status = PENDING_UNSUPPORTED if lacking else PENDING
        self._with(_bring_up)
        after: int | None = 0
        found = 0
        while after is not None:
            matches, after = self._with(_page_after(identifier, after))
            for match in matches:
                if event.is_cancelled:
                    yield CANCEL, None
                    return
                if found == MOST_MATCHES:
                    LOGGER.warning('ups.too_many "%s" asked for more than %d steps', _calling(event), MOST_MATCHES)
                    yield OUT_OF_RESOURCES, None
                    return
                found += 1
                yield status, _with_charset(ups_match.answer(match, identifier))
            if event.is_cancelled:
                yield CANCEL, None
                return
        LOGGER.info('ups.queried by "%s": %d steps', _calling(event), found)

    # -- N-GET -----------------------------------------------------------------------------------------------

    def on_get(self, event: evt.Event) -> Answer:
        """Get Unified Procedure Step Information (CC.2.7)."""
        return self._answered(event, self._get)

    def _get(self, event: evt.Event) -> Answer:
        uid = _uid(event.request.RequestedSOPInstanceUID)
        self._with(_bring_up)
        made = self._with(lambda worklist: worklist.step(uid))
        if made is None:
            return UNKNOWN_STEP, None
        tags = list(event.attribute_identifiers or [])
        if not tags:
            return SUCCESS, made
        asked = Dataset()
        for tag in tags:
            if tag in made:
                asked.add(made[tag])
        left_out = [tag for tag in tags if tag not in made]
        return (OPTIONAL_NOT_SUPPORTED if left_out else SUCCESS), _with_charset(asked)

    # -- N-ACTION --------------------------------------------------------------------------------------------

    def on_action(self, event: evt.Event) -> Answer:
        """Change UPS State, Request UPS Cancel, Subscribe, Unsubscribe, Suspend (CC.2.1 to CC.2.3)."""
        return self._answered(event, self._action)

    def _action(self, event: evt.Event) -> Answer:
        if event.request.RequestedSOPClassUID != ups.SOP_CLASS_UID:
            return NO_SUCH_ACTION, None
        information = _readable(lambda: event.action_information)
        ups_match.check(information)
        uid, kind = _uid(event.request.RequestedSOPInstanceUID), event.action_type
        self._with(_bring_up)
        if kind == CHANGE_STATE:
            return self._change_state(uid, information), None
        if kind == REQUEST_CANCEL:
            return self._request_cancel(event, uid, information), None
        if kind in (SUBSCRIBE, UNSUBSCRIBE, SUSPEND):
            return self._subscription(event, kind, uid, information), None
        return NO_SUCH_ACTION, None

    def _change_state(self, uid: str, information: Dataset) -> int:
        """Refused always, and for the reason of Table CC.1.1-2: nobody else has the Transaction UID of a step."""
        row = self._row(uid)
        wanted = ascii_text(information, "ProcedureStepState")
        if row is None:
            return UNKNOWN_STEP
        if wanted not in set(StepState):
            return INVALID_ARGUMENT if wanted else MISSING_ATTRIBUTE_VALUE
        if wanted == StepState.SCHEDULED:
            return ONLY_BY_CREATE
        if row.step.state is not StepState.SCHEDULED or not ascii_text(information, "TransactionUID"):
            return WRONG_TRANSACTION
        return NOT_AUTHORISED if wanted == StepState.IN_PROGRESS else NOT_IN_PROGRESS

    def _request_cancel(self, event: evt.Event, uid: str, information: Dataset) -> int:
        """Told to subscribers and written to the audit trail; honoured while the work has not begun."""
        calling = _calling(event)
        row = self._row(uid)
        if row is None:
            return UNKNOWN_STEP
        now = self._clock()
        said = json.loads(information.to_json())
        told = {"requesting_ae": calling, "said": said}

        def decide(store: Store) -> int:
            with store.transaction():
                store.steps.cancel_requested(row, told, now)
                status = _canceled(store, row, f"asked for by {calling}", now)
                store.audit.add(_cancel_entry(row, calling, status, now))
            return status

        status = self._in_store(decide)
        self._with(_bring_up)
        LOGGER.info('ups.cancel_requested by "%s": status %04XH', calling, status)
        return status

    def _subscription(self, event: evt.Event, kind: int, uid: str, information: Dataset) -> int:
        title = ascii_text(information, "ReceivingAE", 16)
        if not title:
            return MISSING_ATTRIBUTE_VALUE
        if peer_of(self._settings, title) is None:  # it could not be told anything: host and port are not known
            LOGGER.warning(
                'ups.refused subscription of "%s" by "%s": no [[peers]] entry has this AE title; add it with host and '
                "port", escaped(title), _calling(event),
            )  # fmt: skip
            return UNKNOWN_AE
        if uid in _WORKLISTS:
            status = self._worklist_subscription(kind, uid, title, information)
        elif kind == SUSPEND:
            status = NOT_APPROPRIATE
        else:
            status = self._step_subscription(kind, uid, title, information)
        what = {SUBSCRIBE: "subscribed", UNSUBSCRIBE: "unsubscribed", SUSPEND: "suspended"}[kind]
        LOGGER.info('ups.%s "%s" by "%s": status %04XH', what, escaped(title), _calling(event), status)
        return status

    def _worklist_subscription(self, kind: int, uid: str, title: str, information: Dataset) -> int:
        if kind == UNSUBSCRIBE:
            self._in_store(lambda store: store.subscriptions.unsubscribe_worklist(title))
            return SUCCESS
        if kind == SUSPEND:
            self._in_store(lambda store: store.subscriptions.suspend_worklist(title))
            return SUCCESS
        lock = _lock(information)
        if lock is None:
            return INVALID_ARGUMENT
        keys, matching = "", None
        if uid == ups.FILTERED_WORKLIST_UID:
            identifier = _keys(information)
            keys = identifier.to_json()
            matching = self._with(lambda worklist: worklist.numbers(identifier))
        now = self._clock()
        self._in_store(
            lambda store: store.subscriptions.subscribe_worklist(
                title, keys=keys, matching=matching, lock=lock, now=now
            )
        )
        return SUCCESS

    def _step_subscription(self, kind: int, uid: str, title: str, information: Dataset) -> int:
        row = self._row(uid)
        if row is None:
            return UNKNOWN_STEP
        if kind == UNSUBSCRIBE:
            self._in_store(lambda store: store.subscriptions.unsubscribe(title, row.work_item_id))
            return SUCCESS
        lock = _lock(information)
        if lock is None:
            return INVALID_ARGUMENT
        now = self._clock()
        self._in_store(lambda store: store.subscriptions.subscribe(title, row.work_item_id, lock=lock, now=now))
        return SUCCESS

    # -- what is not offered ---------------------------------------------------------------------------------

    def on_create(self, event: evt.Event) -> Answer:
        """Refused: images and contours make work items here, not requests."""
        LOGGER.warning('ups.refused N-CREATE of "%s": steps are made by the images and contours that arrive',
                       _calling(event))  # fmt: skip
        return NOT_AUTHORISED, None

    def on_set(self, event: evt.Event) -> Answer:
        """Refused: the performer of every step is this node, which gives its Transaction UID to nobody (CC.2.6.3)."""
        return self._answered(event, self._set)

    def _set(self, event: evt.Event) -> Answer:
        row = self._row(_uid(event.request.RequestedSOPInstanceUID))
        if row is None:
            return UNKNOWN_STEP, None
        return (NOT_IN_PROGRESS if row.step.state is StepState.SCHEDULED else WRONG_TRANSACTION), None

    # -- common ----------------------------------------------------------------------------------------------

    def _answered(self, event: evt.Event, work: Callable[[evt.Event], Answer]) -> Answer:
        try:
            if not self._is_peer(event):
                return NOT_AUTHORISED, None
            return work(event)
        except ups_match.IdentifierError as error:
            LOGGER.warning('ups.refused request of "%s": %s', _calling(event), error)
            return INVALID_ARGUMENT, None
        except Exception as error:
            LOGGER.error('ups.failed %s in a request of "%s"', type(error).__name__, _calling(event))
            LOGGER.debug("ups.failed", exc_info=True)
            return PROCESSING_FAILURE, None

    def _is_peer(self, event: evt.Event) -> bool:
        """Steps name patients: they are for AEs that the settings know, also where anybody may send images."""
        if peer_of(self._settings, str(event.assoc.requestor.ae_title)) is not None:
            return True
        LOGGER.warning('ups.refused "%s" has no [[peers]] entry', _calling(event))
        return False

    def _row(self, uid: str) -> StepRow | None:
        row: StepRow | None = self._in_store(lambda store: store.steps.of_uid(uid))
        return row

    def _with(self, work: Callable[[UpsWorklist], T]) -> T:
        result: T = self._call(lambda store: work(UpsWorklist(store, self._spool, self._settings)))
        return result

    def _in_store(self, work: Callable[[Store], T]) -> T:
        result: T = self._call(work)
        return result


# -- pure parts and small steps ------------------------------------------------------------------------------------


def _bring_up(worklist: UpsWorklist) -> None:
    while worklist.follow():
        pass


def _page_after(identifier: Dataset, after: int) -> Callable[[UpsWorklist], tuple[list[Dataset], int | None]]:
    return lambda worklist: worklist.page(identifier, after)


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


def _cancel_entry(row: StepRow, calling: str, status: int, now: float) -> AuditEntry:
    return AuditEntry(
        at=now,
        actor=calling,
        origin="dicom",
        action="workitem.cancel",
        outcome="done" if status == SUCCESS else "refused",
        work_item_id=row.work_item_id,
        study_instance_uid=row.study_instance_uid,
        detail=f"UPS Request Cancel, status {status:04X}H",
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


def _uid(value: Any) -> str:
    text = str(value or "")
    return text if is_uid(text) else ""


def _readable(read: Callable[[], Any]) -> Dataset:
    """A data set of the peer. Raises IdentifierError: pydicom raises whatever fits the damage."""
    try:
        made: Dataset | None = read()
    except Exception as error:
        raise ups_match.IdentifierError("the data set cannot be read") from error
    return Dataset() if made is None else made


def _with_charset(made: Dataset) -> Dataset:
    made.SpecificCharacterSet = "ISO_IR 192"
    return made


def _calling(event: evt.Event) -> str:
    return escaped(str(event.assoc.requestor.ae_title))

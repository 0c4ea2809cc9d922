"""SCP of the Unified Procedure Step Service (PS3.4 CC): UPS Pull, Watch, Query and Push, as far as we serve them.

The node makes every step and performs it itself. Others query, read, subscribe, and may ask for a cancellation; they
neither create, claim nor change a step. Bound by `receive` when [ups] is enabled.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pydicom.dataset import Dataset
from pynetdicom import evt

from config.settings import Settings
from dicom_node import ups_audit
from dicom_node.audit import AuditOutcome
from dicom_node.elements import escaped, is_uid
from dicom_node.limits import peer_of
from dicom_node.spool import Spool
from dicom_node.step_state import StepState
from dicom_node.store import Store
from dicom_node.ups_actions import Action, act
from dicom_node.ups_audit import Caller
from dicom_node.ups_worklist import SUPPORTED, UpsWorklist
from reports import ups, ups_match

LOGGER = logging.getLogger(__name__)
CATCH_UP_SECONDS = 10.0  # a request waits so long for steps that follow events, long before the other side gives up
MOST_MATCHES = 1000  # beyond, A700 ends the answer: the keys must be narrower

SUCCESS, PENDING, PENDING_UNSUPPORTED = 0x0000, 0xFF00, 0xFF01
CANCEL, OUT_OF_RESOURCES, IDENTIFIER_WRONG, UNABLE = 0xFE00, 0xA700, 0xA900, 0xC000
OPTIONAL_NOT_SUPPORTED, PROCESSING_FAILURE, INVALID_ARGUMENT = 0x0001, 0x0110, 0x0115
NO_SUCH_ACTION, NOT_AUTHORISED, RESOURCE_LIMITATION = 0x0123, 0x0124, 0x0213
WRONG_TRANSACTION, UNKNOWN_STEP, NOT_IN_PROGRESS = 0xC301, 0xC307, 0xC310

T = TypeVar("T")
Answer = tuple[int, Dataset | None]


class Behind(Exception):
    """There are more events than can be followed while somebody waits: after an upgrade, say."""


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

    def go_on_with(self, settings: Settings) -> None:
        """Answer by other settings from now on."""
        self._settings = settings

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
            if self._is_peer(event):
                yield from self._find(event)
                return
            status = NOT_AUTHORISED
        except ups_match.IdentifierError as error:
            LOGGER.warning('ups.refused query of "%s": %s', _calling(event), error)
            status = IDENTIFIER_WRONG
        except Behind:
            LOGGER.warning('ups.behind query of "%s" refused: the worklist is still being made up', _calling(event))
            status = OUT_OF_RESOURCES
        except Exception as error:
            LOGGER.error('ups.failed %s in a request of "%s"', type(error).__name__, _calling(event))
            LOGGER.debug("ups.failed", exc_info=True)
            status = UNABLE
        self._audit_query(event, "refused", f"status {status:04X}H")
        yield status, None

    def _find(self, event: evt.Event) -> Iterator[Answer]:
        identifier = _readable(lambda: event.identifier)
        ups_match.check(identifier)
        pending = PENDING_UNSUPPORTED if ups_match.unsupported(identifier, SUPPORTED) else PENDING
        self._catch_up()
        found, end = 0, SUCCESS
        try:
            for match in self._matches(identifier):
                if event.is_cancelled:  # pynetdicom says so once
                    end = CANCEL
                elif match is not None and found == MOST_MATCHES:
                    end = OUT_OF_RESOURCES
                if end != SUCCESS:
                    break
                if match is not None:
                    found += 1
                    yield pending, _with_charset(ups_match.answer(match, identifier))
        except GeneratorExit:  # pynetdicom asks no further: what has left is told all the same
            self._audit_query(event, "done", f"{found} steps, the caller ended the association")
            raise
        self._audit_query(event, "done", f"{found} steps, status {end:04X}H")
        LOGGER.info('ups.queried by "%s": %d steps, status %04XH', _calling(event), found, end)
        if end != SUCCESS:
            yield end, None

    def _matches(self, identifier: Dataset) -> Iterator[Dataset | None]:
        """Matches; None after each look into the store, so that a long search hears of its cancellation."""
        after: int | None = 0
        while after is not None:
            matches, after = self._with(_page_after(identifier, after))
            yield from matches
            yield None

    def _audit_query(self, event: evt.Event, outcome: AuditOutcome, detail: str) -> None:
        raw = event.request.Identifier.getvalue() if event.request.Identifier else b""
        syntax, sop_class = str(event.context.transfer_syntax), str(event.request.AffectedSOPClassUID)
        entry = ups_audit.queried(_caller(event), sop_class, syntax, raw, outcome, detail, self._clock())
        self._audited(event, lambda store: store.audit.add(entry))

    # -- N-GET -----------------------------------------------------------------------------------------------

    def on_get(self, event: evt.Event) -> Answer:
        """Get Unified Procedure Step Information (CC.2.7)."""
        return self._answered(event, self._get)

    def _get(self, event: evt.Event) -> Answer:
        uid = _uid(event.request.RequestedSOPInstanceUID)
        self._catch_up()
        caller, now = _caller(event), self._clock()

        def read(worklist: UpsWorklist) -> Dataset | None:
            row = worklist.store.steps.of_uid(uid)
            if row is None:
                return None
            worklist.store.audit.add(
                ups_audit.about_step(caller, "ups.read", row.work_item_id, row.study_instance_uid, "done", "", now)
            )
            return worklist.data_set(row)

        made = self._with(read)
        if made is None:
            return UNKNOWN_STEP, None
        tags = list(event.attribute_identifiers or [])
        if not tags:
            return SUCCESS, made
        asked = Dataset()
        for tag in tags:
            if tag in made:
                asked.add(made[tag])
        left_out = any(tag not in made for tag in tags)
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
        uid = _uid(event.request.RequestedSOPInstanceUID)
        action = Action(_caller(event), event.action_type, uid, information, self._clock())
        self._catch_up()
        status = self._with(lambda worklist: act(action, worklist.store, worklist, self._settings))
        self._catch_up()
        return status, None

    # -- what is not offered ---------------------------------------------------------------------------------

    def on_create(self, event: evt.Event) -> Answer:
        """Refused: images and contours make work items here, not requests."""
        LOGGER.warning(
            'ups.refused N-CREATE of "%s": steps are made by the images and contours that arrive', _calling(event)
        )
        return NOT_AUTHORISED, None

    def on_set(self, event: evt.Event) -> Answer:
        """Refused: the performer of every step is this node, which gives its Transaction UID to nobody (CC.2.6.3)."""
        return self._answered(event, self._set)

    def _set(self, event: evt.Event) -> Answer:
        uid = _uid(event.request.RequestedSOPInstanceUID)
        self._catch_up()
        row = self._with(lambda worklist: worklist.store.steps.of_uid(uid))
        if row is None:
            return UNKNOWN_STEP, None
        return (NOT_IN_PROGRESS if row.step.state is StepState.SCHEDULED else WRONG_TRANSACTION), None

    # -- common ----------------------------------------------------------------------------------------------

    def _answered(self, event: evt.Event, work: Callable[[evt.Event], Answer]) -> Answer:
        try:
            return work(event) if self._is_peer(event) else (NOT_AUTHORISED, None)
        except ups_match.IdentifierError as error:
            LOGGER.warning('ups.refused request of "%s": %s', _calling(event), error)
            return INVALID_ARGUMENT, None
        except Behind:
            LOGGER.warning('ups.behind request of "%s" refused: the worklist is still being made up', _calling(event))
            return RESOURCE_LIMITATION, None
        except Exception as error:
            LOGGER.error('ups.failed %s in a request of "%s"', type(error).__name__, _calling(event))
            LOGGER.debug("ups.failed", exc_info=True)
            return PROCESSING_FAILURE, None

    def _catch_up(self) -> None:
        """Let the steps follow every event that there is. Raises Behind: they come nearer, and the worker goes on."""
        end = time.monotonic() + CATCH_UP_SECONDS
        while self._with(UpsWorklist.follow):
            if time.monotonic() > end:
                raise Behind

    def _audited(self, event: evt.Event, write: Callable[[Store], None]) -> None:
        try:
            self._call(write)
        except Exception as error:  # the answer has been given, or is a refusal: a busy store cannot change it
            LOGGER.error('ups.failed %s; the audit trail lacks a query of "%s"', type(error).__name__, _calling(event))
            LOGGER.debug("ups.failed", exc_info=True)

    def _is_peer(self, event: evt.Event) -> bool:
        """Steps name patients: they are for AEs that the settings know, also where anybody may send images."""
        if peer_of(self._settings, str(event.assoc.requestor.ae_title)) is not None:
            return True
        LOGGER.warning('ups.refused "%s" has no [[peers]] entry', _calling(event))
        return False

    def _with(self, work: Callable[[UpsWorklist], T]) -> T:
        result: T = self._call(lambda store: work(UpsWorklist(store, self._spool, self._settings)))
        return result


def _page_after(identifier: Dataset, after: int) -> Callable[[UpsWorklist], tuple[list[Dataset], int | None]]:
    return lambda worklist: worklist.page(identifier, after)


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


def _caller(event: evt.Event) -> Caller:
    return Caller(_calling(event), str(event.assoc.requestor.address_info.address))


def _calling(event: evt.Event) -> str:
    return escaped(str(event.assoc.requestor.ae_title))

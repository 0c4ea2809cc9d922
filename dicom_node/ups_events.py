"""UPS Event: tells subscribers what has happened to Unified Procedure Steps (PS3.4 CC.2.4). A step of the worker.

Each subscriber has a queue in the store and gets its reports in their order, one association for many. A report leaves
the queue when the subscriber has answered; until then it is told again, after growing delays that survive a restart.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context, build_role
from pynetdicom.association import Association
from pynetdicom.sop_class import UnifiedProcedureStepEvent
from pynetdicom.status import code_to_category

from config.settings import Peer, Settings
from dicom_node.associate import association_with
from dicom_node.deliver import delay
from dicom_node.limits import peer_of
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.subscriptions import StepReport
from dicom_node.ups_worklist import UpsWorklist
from dicom_node.workitem import Retryable
from reports import ups

LOGGER = logging.getLogger(__name__)
GOING_DOWN_SECONDS = 5.0
AT_ONCE, TURN_SECONDS = 100, 60.0  # reports, and time, of one subscriber before the next has its turn
NOT_NOW = frozenset({0x0110, 0x0213})  # Processing Failure, Resource Limitation: told again


class UpsTeller:
    """Follows and tells. One per thread, as its store is."""

    def __init__(self, store: Store, spool: Spool, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._store, self._settings, self._clock = store, settings, clock
        self._worklist = UpsWorklist(store, spool, settings)

    def tell_due(self) -> bool:
        """Take new events in, then tell one subscriber what it has not heard. False when there was nothing to do."""
        followed = self._worklist.follow()
        title = self._store.subscriptions.due(self._clock())
        if title is None:
            return followed
        reports = self._store.subscriptions.queue(title, AT_ONCE)
        try:
            self._tell(title, reports)
        except Retryable as error:
            self._postpone(title, f"{error}; {error.hint}")
        except Exception as error:  # the boundary: what one is to be told must not keep the others from their reports
            LOGGER.debug("ups.postponed", exc_info=True)
            self._postpone(title, f"a report cannot be told ({type(error).__name__}); report it: it is a bug")
        return True

    def announce(self, status: str) -> None:
        """Queue an SCP Status Change for every subscriber: RESTARTED at the start of the node."""
        self._store.subscriptions.announce(ups.WORKLIST_UID, ups.SCP_STATUS_CHANGE, {"status": status}, self._clock())

    def say_going_down(self) -> None:
        """Tell who can be reached now. Not queued: after the next start it would no longer be true."""
        end = time.monotonic() + GOING_DOWN_SECONDS
        for subscriber in self._store.subscriptions.subscribers():
            peer = peer_of(self._settings, subscriber.ae_title)
            if peer is None or subscriber.waiting or subscriber.attempts or time.monotonic() > end:
                continue  # what it still has to hear comes first; and a stop must not take long
            report = StepReport(
                0, subscriber.ae_title, ups.WORKLIST_UID, ups.SCP_STATUS_CHANGE, {"status": "GOING DOWN"}
            )
            try:
                with self._association(peer, max(0.5, end - time.monotonic())) as association:
                    self._send(association, report)
            except Retryable as error:
                LOGGER.info("ups.unreachable %s: %s", subscriber.ae_title, error)

    def _tell(self, title: str, reports: Sequence[StepReport]) -> None:
        peer = peer_of(self._settings, title)
        if peer is None:
            raise Retryable(f"no [[peers]] entry {title} in the settings", "add it again, or let it unsubscribe")
        end, told = time.monotonic() + TURN_SECONDS, 0
        with self._association(peer) as association:
            for report in reports:
                self._send(association, report)
                self._store.subscriptions.told(report, self._clock())
                told += 1
                if time.monotonic() > end:
                    break
        LOGGER.info("ups.told %s: %d reports", title, told)

    @contextmanager
    def _association(self, peer: Peer, patience: float | None = None) -> Iterator[Association]:
        """The SCP asks for the association (CC.2.3.2, Note 2), so it proposes its own role (PS3.7 D.3.3.4).

        `patience`: seconds for each answer, where they are not those of the settings.
        """
        contexts = [build_context(UnifiedProcedureStepEvent, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]
        roles = [build_role(UnifiedProcedureStepEvent, scp_role=True)]
        settings = self._settings
        if patience is not None:
            deliver = replace(settings.deliver, connect_timeout_seconds=patience)
            receive = replace(settings.receive, acse_timeout_seconds=patience, dimse_timeout_seconds=patience)
            settings = replace(settings, deliver=deliver, receive=receive)
        with association_with(peer, settings, contexts, roles=roles) as association:
            if not any(cx.abstract_syntax == UnifiedProcedureStepEvent for cx in association.accepted_contexts):
                raise Retryable(
                    f"{peer.ae_title} does not take UPS Event", f"let {peer.ae_title} accept UPS Event as its SCU"
                )
            yield association

    def _send(self, association: Association, report: StepReport) -> None:
        """One N-EVENT-REPORT. Raises Retryable where it was not taken; a refusal for good is an answer, too."""
        made = information(report, self._settings.node.ae_title)
        try:
            answer, _ = association.send_n_event_report(
                made, report.event_type_id, ups.SOP_CLASS_UID, report.sop_instance_uid
            )
        except (RuntimeError, ValueError) as error:
            raise Retryable(f"{report.ae_title} ended the association", "it is tried again") from error
        status = answer.get("Status")
        if status is None:
            raise Retryable(f"{report.ae_title} did not answer a report", "it is tried again")
        if status in NOT_NOW:
            raise Retryable(f"{report.ae_title} could not take a report (status {status:04X}H)", "it is tried again")
        if code_to_category(status) == "Failure":
            LOGGER.warning("ups.report_refused by %s: status %04XH", report.ae_title, status)

    def _postpone(self, title: str, why: str) -> None:
        attempts = self._store.subscriptions.attempts(title) + 1
        wait = delay(attempts, self._settings.deliver)
        LOGGER.warning("ups.postponed reports to %s by %.0f s: %s", title, wait, why)
        self._store.subscriptions.postpone(title, attempts, self._clock() + wait, why)


def information(report: StepReport, ae_title: str) -> Dataset:
    """The Event Information of a queued report (PS3.4 Table CC.2.4-1)."""
    what = report.information
    if report.event_type_id == ups.STATE_REPORT:
        return ups.state_report(what["state"], what["readiness"], what.get("reason"))
    if report.event_type_id == ups.PROGRESS_REPORT:
        return ups.progress_report(what["progress"], what["description"])
    if report.event_type_id == ups.CANCEL_REQUESTED:
        return ups.cancel_requested(what["requesting_ae"], Dataset.from_json(what["said"]))
    if report.event_type_id == ups.SCP_STATUS_CHANGE:
        return ups.scp_status_change(what["status"])
    return ups.assigned(ae_title)

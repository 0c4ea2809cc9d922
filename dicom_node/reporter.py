"""The report stage: the objects of a work item, composed under the patient's identity, and composed again where that
changes before anything has left. One per thread, as its store is.
"""

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from pydicom import dcmread

from config.identity import VERSION
from config.settings import Peer, Settings
from dicom_node import compose, deliver
from dicom_node.audit import AuditEntry
from dicom_node.decision import Plan
from dicom_node.delivery_audit import query_sent
from dicom_node.headers import identity_of
from dicom_node.identity import KEYWORDS, Identity
from dicom_node.overlay import digest_of, overlay_of
from dicom_node.patients import C_FIND
from dicom_node.reconcile import reconciled
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.ticket import Ticket, changes
from dicom_node.workitem import WorkItem
from reports import build
from reports.context import Change, Changed, ReportContext
from reports.uids import device_uid

LOGGER = logging.getLogger(__name__)
_CARRIED = ["SpecificCharacterSet", *KEYWORDS.values()]
_COMPOSING = threading.Lock()  # report and deliver stage compose in two threads, and pages share their fonts


class Reporter:
    """Composes, and asks the PACS whose study it is."""

    def __init__(self, store: Store, spool: Spool, settings: Settings, clock: Callable[[], float]) -> None:
        self._store, self._spool, self._settings, self._clock = store, spool, settings, clock

    def write(self, item: WorkItem) -> tuple[str, ...]:
        """Compose the objects under the identity that is known; gives the documents in the order of sending.

        Raises OSError or ValueError where the job's files or the evidence cannot be read.
        """
        return self._write(item, self._known(item))

    def settle_identity(self, item: WorkItem) -> None:
        """Before anything of a work item leaves: ask the first destination whose study it is, and compose again where
        the objects say something else.

        Raises Retryable where the PACS cannot be asked.
        """
        filed = self._asked(item) if self._settings.deliver.reread_demographics else self._known(item)
        if overlay_of(self._made_under(item), filed):
            self._store.note(item.id, "composed again", self._clock(), "the identity has changed")
            LOGGER.info("report.composed_again work item %s: the identity has changed", (item.key or "")[:12])
            self._write(item, filed)

    def without_asking(self, item: WorkItem, why: str) -> None:
        """Go on with what is known: a result is not held back for ever because a PACS does not answer."""
        self._store.note(item.id, "identity not confirmed", self._clock(), why)
        LOGGER.warning("identity.not_confirmed work item %s: %s", (item.key or "")[:12], why)

    # -- whose it is -----------------------------------------------------------------------------------------

    def asked(self, item: WorkItem) -> Peer | None:
        """Who is asked whose study it is: the first PACS that the work item's objects go to."""
        peers = {peer.ae_title: peer for peer in self._settings.destinations()}
        named = Ticket.from_json(item.plan or "").goes_to(self._settings.every_destination())
        return next((peers[name] for name in named if name in peers), None)

    def _known(self, item: WorkItem) -> Identity:
        """What has changed the study's identity since its images came, else what they carry."""
        return self._store.patients.changed_since_received(item.study_instance_uid) or self._carried(item)

    def _made_under(self, item: WorkItem) -> Identity:
        return Identity.from_json(item.identity) if item.identity else self._carried(item)

    def _carried(self, item: WorkItem) -> Identity:
        """The identity in the header that the objects take theirs from: the CT's, or that of whatever there is."""
        ticket = Ticket.from_json(item.plan or "")
        decision = ticket.decision
        uids = decision.ct_sop_instance_uids if isinstance(decision, Plan) else decision.evidence
        first = next(uid for uid in (*uids, decision.roi_sop_instance_uid) if uid)
        path = ticket.paths(self._spool.instance_path)(first)
        return identity_of(dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_CARRIED)))

    def _asked(self, item: WorkItem) -> Identity:
        """What the objects must carry, as the PACS that files them says; a change of who it is now is recorded."""
        known = self._known(item)
        peer, study = self.asked(item), item.study_instance_uid
        if peer is None:
            return known
        query = query_sent(peer, deliver.STUDY_ROOT_FIND, deliver.study_query(study), self._clock(), item.id)
        try:
            answers = deliver.find_identities(peer, study, self._settings)
        except deliver.QueryFailed as error:
            self._store.audit.add(replace(query, outcome="failed", detail=str(error)))
            raise
        self._store.audit.add(query)
        if answers is None:
            self.without_asking(item, f"{peer.ae_title} offers no C-FIND")
            return known
        if not answers:  # an archive that has only the results: nothing there could contradict
            return known
        if len({answer.patient_id for answer in answers}) > 1:
            self.without_asking(item, f"{peer.ae_title} files the study under several patients; correct it there")
            return known
        both = reconciled(known, answers[0], self._store.patients.replaced_by_hl7(study))
        if both.current != known:
            self._record(item, both.current, known)
        if both.filed != both.current:
            detail = f"{peer.ae_title} has not followed an HL7 message yet; the objects go where it files the study"
            self._store.note(item.id, "identity differs", self._clock(), detail)
        return both.filed

    def _record(self, item: WorkItem, current: Identity, known: Identity) -> None:
        study, now = item.study_instance_uid, self._clock()
        self._store.patients.change(study, current, C_FIND, now)
        names = ", ".join(overlay_of(known, current))
        self._store.note(item.id, "identity changed", now, f"{C_FIND}: {names}")
        self._store.audit.add(
            AuditEntry(
                at=now,
                actor="prognode",
                origin="node",
                action="identity.changed",
                work_item_id=item.id,
                study_instance_uid=study,
                detail=f"{C_FIND}: {names}",
            )
        )
        LOGGER.info("identity.changed by %s: %s", C_FIND, names)

    # -- the objects -----------------------------------------------------------------------------------------

    def _write(self, item: WorkItem, identity: Identity) -> tuple[str, ...]:
        ticket = Ticket.from_json(item.plan or "")
        carried = self._carried(item)
        overlay = overlay_of(carried, identity)
        with _COMPOSING, _uncollected():
            documents = compose.compose(
                self._spool,
                item.key or "",
                ticket.decision,
                ticket.paths(self._spool.instance_path),
                replace(self._context(item), identity=digest_of(overlay)),
                self._settings.report.sr_sop_classes,
                overlay,
                build.Optional(self._settings.report.encapsulated_pdf, self._settings.report.presentation_state),
            )
        self._store.made_under(item.id, replace(carried, **overlay).to_json())
        return documents

    def _context(self, item: WorkItem) -> ReportContext:
        """Who reports, and when: the time of scheduling, so that a stage that runs again makes the same bytes."""
        before = self._store.item_of(item.predecessor_key) if item.predecessor_key else None
        rows = self._store.deliveries.of_item(before.id) if before else []
        sent = {row.document: row.sop_instance_uid for row in rows if row.sop_instance_uid}
        risk_sr, radiomics_sr = compose.previous_documents(
            self._spool,
            before.key if before else None,
            sent,
            self._store.retention.documents(before.id) if before else None,
        )
        node = self._settings.node
        return ReportContext(
            key=item.key or "",
            created=datetime.fromtimestamp(item.scheduled_at or item.created_at, UTC),
            ae_title=node.ae_title,
            software_version=VERSION,
            device_uid=device_uid(node.ae_title, node.site),
            site=node.site,
            revision=item.revision,
            previous_risk_sr=risk_sr,
            previous_radiomics_sr=radiomics_sr,
            changes=_changes(before, item),
            language=self._settings.report.language,
            series_number=self._settings.report.series_number,
            zone=ZoneInfo(node.time_zone) if node.time_zone else None,
        )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without a search for cycles meanwhile: a report is a hundred thousand objects that live until it is written."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _changes(before: WorkItem | None, item: WorkItem) -> tuple[Changed, ...]:
    """What made this revision out of the one before; () where the same content was asked for once more."""
    if before is None or before.content_key == item.content_key:
        return ()
    found = changes(Ticket.from_json(before.plan or ""), Ticket.from_json(item.plan or ""))
    return found or (Changed(Change.SOFTWARE),)

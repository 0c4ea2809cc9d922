"""The deliver stage at work: delivery rows that are due go out, and are followed until something proves them."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from config.settings import Peer, Settings
from dicom_node import deliver
from dicom_node.deliver import Document, Variant
from dicom_node.deliveries import Delivery
from dicom_node.delivery_audit import objects_sent, query_sent
from dicom_node.logs import about, mark_of
from dicom_node.messages import Messenger, is_message
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.telemetry import stage
from dicom_node.workitem import DeliveryState, Retryable, WorkItem

LOGGER = logging.getLogger(__name__)
_NOT_TAKEN = "status "  # how `deliver.decide` begins where a peer has answered the C-STORE, and not taken the object
_IDENTITY = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
REPORT_PATIENCE = 16  # looks for the proof that is asked for, with growing delay: about six hours by default
QUESTION_PATIENCE = 3  # failed questions in a row whose study it is, after which the objects leave without an answer
STUBBORN = 3  # tries more than the others after which an object that gets no answer is sent after them
QUERY_PATIENCE = 8  # failed C-FINDs in a row, about 20 minutes, where nobody has asked for this proof
RESEND_AFTER_UNSEEN = 3  # answers that an object is not there (C-FIND, commitment report) before it is sent again


@dataclass(frozen=True)
class _Place:
    """Where a sent object belongs in the PACS."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str


class Dispatcher:
    """Sends and follows. One per thread, as its store is."""

    def __init__(self, store: Store, spool: Spool, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._store, self._spool, self._settings, self._clock = store, spool, settings, clock
        self._peers = {peer.ae_title: peer for peer in settings.peers}

    def deliver_due(self) -> bool:
        """Take the objects of one work item that are due at one destination a step further. False when none is."""
        due = self._store.deliveries.due(self._clock())
        if not due:
            return False
        item = self._store.item(due[0].work_item_id)
        with about(item=str(due[0].work_item_id), study=mark_of(item.study_instance_uid) if item else ""):
            self._deliver(item, due)
        self.complete()
        return True

    def complete(self) -> None:
        """Move on the work items all of whose deliveries are at their end."""
        for number in self._store.complete_delivered(self._clock()):
            item = self._store.item(number)
            if item is not None:
                state, key = item.state.lower(), (item.key or "")[:12]
                with about(item=str(number), study=mark_of(item.study_instance_uid)):
                    LOGGER.info("workitem.%s work item %s every delivery is at its end", state, key)

    def _deliver(self, item: WorkItem | None, due: Sequence[Delivery]) -> None:
        destination = due[0].destination
        peer = self._peers.get(destination)
        if item is None or item.key is None or (peer is None and not is_message(destination)):
            for row in due:
                self._refuse(row, f"no [[peers]] entry {row.destination} in the settings; add it, then: prognode retry")
            return
        if peer is None or is_message(destination):
            self._guarded(item, due, lambda: self._send_message(item, due[0]))
        else:
            self._guarded(item, due, lambda: self._step(item, peer, due))

    def _guarded(self, item: WorkItem, due: Sequence[Delivery], step: Callable[[], None]) -> None:
        """One step; whatever goes wrong moves these rows on, so that they never keep others from their turn."""
        key, study, where = item.key or "", item.study_instance_uid, due[0].destination
        try:
            with stage("deliver", key, study, destination=where, objects=len(due)):
                step()
        except Retryable as error:
            self._later(self._open(due), f"{error}; {error.hint}")
        except Exception as error:  # the boundary of the stage: one damaged file must not stop the others
            LOGGER.debug("delivery.refused", exc_info=True)
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):  # that may pass
                self._later(self._open(due), f"the spool's disk: {error.strerror}")
                return
            why = f"cannot be sent ({type(error).__name__})"
            if isinstance(error, FileNotFoundError):
                why = f"{Path(error.filename or 'its file').name} is gone"
            for row in self._open(due):
                self._refuse(row, f"{why}; restore the spool's files (prognode fsck), then: prognode retry")

    def _open(self, rows: Sequence[Delivery]) -> list[Delivery]:
        """These rows as they are now, without those that have come to their end."""
        ids = {row.id for row in rows}
        return [row for row in self._store.deliveries.of_item(rows[0].work_item_id) if row.id in ids and not row.final]

    def _step(self, item: WorkItem, peer: Peer, due: Sequence[Delivery]) -> None:
        pending = [row for row in due if row.state is DeliveryState.PENDING]
        if pending:
            if not self._store.deliveries.has_left(item.id):
                self._settle_identity(item, peer, pending)
            self._send(item, peer, pending)
        sent = [
            row
            for row in self._store.deliveries.of_item(item.id)
            if row.destination == peer.ae_title and row.state is DeliveryState.SENT and not row.final
        ]
        if not sent:
            return
        if any(row.transaction_uid is None for row in sent) and peer.proof in ("auto", "commitment"):
            sent = self._ask_commitment(peer, sent)
        overdue = [row for row in sent if row.run_after <= self._clock()]
        if overdue:
            self._read_back(item, peer, overdue)

    def _send_message(self, item: WorkItem, row: Delivery) -> None:
        why_later = Messenger(self._store, self._spool, self._settings, self._clock).step(item, row)
        if why_later is not None:
            self._later([row], why_later)

    def _settle_identity(self, item: WorkItem, peer: Peer, rows: Sequence[Delivery]) -> None:
        """Before the first object leaves: whose study it is now.

        Raises Retryable: for ever only where the peer is the one that is asked, and no association comes about.
        """
        from dicom_node.reporter import Reporter  # noqa: PLC0415 - highdicom: an idle node has not loaded it

        reporter = Reporter(self._store, self._spool, self._settings, self._clock)
        try:
            reporter.settle_identity(item)
        except Retryable as error:
            first = reporter.asked(item) or peer
            is_up = isinstance(error, deliver.QueryFailed)  # and may take the objects all the same
            if peer.ae_title == first.ae_title and not is_up:
                self._hold(peer)
                raise
            words = f"{first.ae_title} cannot be asked whose study it is"
            in_a_row = [row.attempts if row.detail.startswith((words, _NOT_TAKEN)) else 0 for row in rows]
            if max(in_a_row) < QUESTION_PATIENCE:
                for row, failed in zip(rows, in_a_row, strict=True):  # what an outage had cost does not count
                    self._store.deliveries.record(row.id, attempts=failed)
                raise Retryable(f"{words}: {error}", error.hint) from error
            reporter.without_asking(item, f"{first.ae_title} does not answer")

    def _hold(self, peer: Peer) -> None:
        """It may have cost a time-out: the next work item's objects need not find out for themselves."""
        self._store.deliveries.hold(peer.ae_title, self._clock() + deliver.delay(1, self._settings.deliver))

    def _send(self, item: WorkItem, peer: Peer, rows: Sequence[Delivery]) -> None:
        documents = {row.id: self._document(item, row.document) for row in rows}
        # Before they leave: should this node end in between, they may be there, and are never made under other UIDs.
        # And what was withdrawn or held while this node asked and composed does not leave.
        free = self._store.deliveries.leaving(
            {row: (one.variants[0].sop_class_uid, one.variants[0].sop_instance_uid) for row, one in documents.items()}
        )
        rows = _in_turn([row for row in rows if row.id in free])
        firsts = {row.id for row in rows if not row.sop_instance_uid}
        by_name = {row.document: row for row in rows}
        try:
            answers = deliver.send(peer, [documents[row.id] for row in rows], self._settings)
        except Retryable:
            self._store.deliveries.stayed(firsts)
            self._hold(peer)
            raise
        tried = {answer.name for answer in answers}
        untried = [row for row in rows if row.document not in tried]
        self._store.deliveries.stayed(row.id for row in untried if row.id in firsts)
        for entry in objects_sent(item, peer, answers, self._clock()):
            self._store.audit.add(entry)
        for answer in answers:
            row = by_name[answer.name]
            if answer.state is DeliveryState.SENT:
                now = self._clock()
                self._store.deliveries.record(
                    row.id,
                    state=answer.state,
                    final=int(peer.proof == "none"),
                    sop_class_uid=answer.sop_class_uid,
                    sop_instance_uid=answer.sop_instance_uid,
                    status=answer.status,
                    detail=answer.message,
                    attempts=0,
                    sent_at=now,
                    run_after=now,
                    transaction_uid=None,
                )
                continue
            if row.id in firsts and (answer.status is not None or answer.state is DeliveryState.FAILED):
                self._store.deliveries.stayed([row.id])  # it said that it has not taken it
            if answer.unsupported and _optional(row.document):
                self._leave_out(row, answer.status)
            elif answer.state is DeliveryState.FAILED:
                self._refuse(row, answer.message, answer.status)
            else:  # the last one, where there are untried: it got no answer
                self._later([row], answer.message, untried if answer is answers[-1] else ())

    def _ask_commitment(self, peer: Peer, rows: Sequence[Delivery]) -> list[Delivery]:
        """Ask for storage commitment; the row carries the transaction before the question leaves."""
        transaction = generate_uid(prefix=None)
        wait_until = self._clock() + self._settings.deliver.commitment_wait_seconds
        for row in rows:
            self._store.deliveries.record(row.id, transaction_uid=transaction, run_after=wait_until)
        objects = [(row.sop_class_uid or "", row.sop_instance_uid or "") for row in rows]
        try:
            answer = deliver.request_commitment(peer, objects, transaction, self._settings)
        except Retryable as error:
            answer = deliver.CommitmentAnswer("NOT_OFFERED")
            if peer.proof == "commitment":
                for row in rows:  # the question may not have arrived: it is asked again
                    self._store.deliveries.record(row.id, transaction_uid=None)
                if not isinstance(error, deliver.Unanswered):
                    raise
                self._unanswered(peer, [replace(row, transaction_uid=None) for row in rows], error)
                return []
        if answer.kind == "REPORTED":
            failed = answer.failed or {}
            self._store.deliveries.commitment_report(transaction, answer.committed, failed, self._clock())
        elif answer.kind != "PENDING":
            for row in rows:
                if peer.proof == "commitment":
                    self._store.deliveries.record(row.id, final=1, detail=answer.message)
                else:  # asked, and not offered: only C-FIND can prove it
                    self._store.deliveries.record(row.id, transaction_uid="", run_after=self._clock())
        ours = {row.id for row in rows}
        return [
            row
            for row in self._store.deliveries.of_item(rows[0].work_item_id)
            if row.id in ours and row.state is DeliveryState.SENT and not row.final
        ]

    def _read_back(self, item: WorkItem, peer: Peer, rows: Sequence[Delivery]) -> None:
        """C-FIND at IMAGE level: an object that the PACS lists in the right study has arrived."""
        places = {row.id: self._place(item, row) for row in rows}
        study = next(iter(places.values())).study_instance_uid
        wanted = {place.sop_instance_uid: place.series_instance_uid for place in places.values()}
        asks = peer.proof != "commitment"
        query = deliver.image_query(study, "", sorted(wanted))
        entry = query_sent(peer, deliver.STUDY_ROOT_FIND, query, self._clock(), item.id)
        try:
            seen = deliver.find(peer, study, wanted, self._settings) if asks else None
        except deliver.QueryFailed as error:
            self._store.audit.add(replace(entry, outcome="failed", detail=str(error)))
            self._unanswered(peer, rows, error)
            return
        if seen is not None:
            self._store.audit.add(entry)
        for row in rows:
            if seen is None:
                self._without_find(peer, row)
            elif row.sop_instance_uid in seen:
                self._store.deliveries.settle(
                    row, state=DeliveryState.SEEN, final=1, proved_at=self._clock(), detail=""
                )
            else:
                self._not_listed(row)

    def _not_listed(self, row: Delivery) -> None:
        """The peer has answered, and does not list it: counted apart from tries that brought no answer."""
        unseen = row.unseen + 1
        wait = deliver.delay(unseen, self._settings.deliver)
        columns = {"unseen": unseen, "attempts": 0, "run_after": self._clock() + wait}
        if unseen % RESEND_AFTER_UNSEEN:
            detail = "accepted, not yet found by C-FIND"
            LOGGER.warning("delivery.postponed %s to %s by %.0f s: %s", row.document, row.destination, wait, detail)
            self._store.deliveries.settle(row, detail=detail, **columns)
            return
        LOGGER.warning("delivery.unseen %s does not list what it has accepted; sending again", row.destination)
        detail = "accepted, but not found by C-FIND; sending again"
        self._store.deliveries.settle(row, state=DeliveryState.PENDING, transaction_uid=None, detail=detail, **columns)

    def _unanswered(self, peer: Peer, rows: Sequence[Delivery], why: deliver.Unanswered) -> None:
        """It may pass; but a PACS that never answers the question must not keep results open for ever."""
        again = []
        for row in rows:  # whatever the status, which may be another each time; what an outage had cost does not count
            in_a_row = row.attempts if row.detail.startswith(why.words) else 0
            patience = REPORT_PATIENCE if peer.proof != "auto" or row.transaction_uid else QUERY_PATIENCE
            if in_a_row + 1 < patience:
                again.append(replace(row, attempts=in_a_row))
            else:
                self._end_unproved(row, str(why))
        self._later(again, f"{why}; {why.hint}")

    def _without_find(self, peer: Peer, row: Delivery) -> None:
        """Only storage commitment can prove this one: its report may take hours, but not for ever."""
        if row.transaction_uid and row.attempts < REPORT_PATIENCE:
            self._later([row], "the storage commitment report has not come yet")
        else:
            self._end_unproved(row, f"{peer.ae_title} offers nothing that proves it")

    def _later(self, rows: Sequence[Delivery], detail: str, untried: Sequence[Delivery] = ()) -> None:
        """Try these again, and at the same time what had not its turn: together, so that they keep their order."""
        for state in dict.fromkeys(row.state for row in rows):
            alike = [row for row in rows if row.state is state]
            wait = max(deliver.delay(row.attempts + 1 + row.unseen, self._settings.deliver) for row in alike)
            until = self._clock() + wait
            for row in alike:
                self._store.deliveries.record(row.id, attempts=row.attempts + 1, run_after=until, detail=detail)
            for row in untried:
                words = "the association ended before its turn"
                self._store.deliveries.record(row.id, run_after=until, detail=words)
            together = len(alike) + len(untried)
            what = alike[0].document if together == 1 else f"{together} objects"
            LOGGER.warning("delivery.postponed %s to %s by %.0f s: %s", what, alike[0].destination, wait, detail)

    def _leave_out(self, row: Delivery, status: int | None) -> None:
        """An optional object that a destination does not store: the result is complete there without it."""
        detail = f"not accepted by {row.destination}, which does not store this SOP class"
        LOGGER.info("delivery.not_accepted %s by %s", row.document, row.destination)
        columns = {"state": DeliveryState.NOT_ACCEPTED, "final": 1, "status": status, "detail": detail}
        self._store.deliveries.settle(row, **columns)

    def _refuse(self, row: Delivery, detail: str, status: int | None = None) -> None:
        """An operator has to act; where one has withdrawn it meanwhile, it stays so."""
        LOGGER.error("delivery.refused %s by %s: %s", row.document, row.destination, detail)
        columns = {"state": DeliveryState.FAILED, "final": 1, "attempts": row.attempts + 1, "status": status}
        self._store.deliveries.settle(row, detail=detail, **columns)

    def _document(self, item: WorkItem, name: str) -> Document:
        """The files of one document: its preferred form first, then the other SOP classes of an SR."""
        variants = []
        for path in self._files(item, name):
            header = _identity(path)
            variants.append(Variant(str(header.SOPClassUID), str(header.SOPInstanceUID), path))
        return Document(name, tuple(variants))

    def _files(self, item: WorkItem, name: str) -> list[Path]:
        from dicom_node.compose import variant_name  # noqa: PLC0415 - as above

        folder = self._spool.results(item.key or "", "report")
        others = [folder / variant_name(name, other) for other in self._settings.report.sr_sop_classes]
        return [folder / f"{name}.dcm", *(path for path in others if path.is_file())]

    def _place(self, item: WorkItem, row: Delivery) -> _Place:
        headers = [_identity(path) for path in self._files(item, row.document)]
        header = next((one for one in headers if one.SOPInstanceUID == row.sop_instance_uid), headers[0])
        return _Place(header.StudyInstanceUID, header.SeriesInstanceUID, row.sop_instance_uid or header.SOPInstanceUID)

    def _end_unproved(self, row: Delivery, detail: str) -> None:
        self._store.deliveries.settle(row, state=DeliveryState.SENT, final=1, detail=detail)


def _in_turn(rows: Sequence[Delivery]) -> list[Delivery]:
    """In the order of composing, so that what is referred to comes first.

    Last what has got no answer time and again: it must not keep the others from leaving.
    """
    least = min((row.attempts for row in rows), default=0)
    return sorted(rows, key=lambda row: row.attempts >= least + STUBBORN)


def _optional(document: str) -> bool:
    from dicom_node.compose import OPTIONAL  # noqa: PLC0415 - as above

    return document in OPTIONAL


def _identity(path: Path) -> Dataset:
    return dcmread(path, stop_before_pixels=True, specific_tags=list(_IDENTITY))

"""The deliver stage at work: delivery rows that are due go out, and are followed until something proves them."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from config.settings import Peer, Settings
from dicom_node import deliver
from dicom_node.deliver import Document, Variant
from dicom_node.deliveries import Delivery
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import DeliveryState, Permanent, Retryable, WorkItem

LOGGER = logging.getLogger(__name__)
_IDENTITY = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
RESEND_AFTER_UNSEEN = 3  # read-backs that do not find an object before it is sent again


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
        peer = self._peers.get(due[0].destination)
        if item is None or item.key is None or peer is None:
            for row in due:
                self._refuse(row, f"no peer {row.destination} in the settings; add [[peers]] or cancel the work item")
        else:
            try:
                self._step(item, peer, due)
            except Retryable as error:
                self._later(due, f"{error}; {error.hint}")
            except Permanent as error:
                for row in due:
                    self._refuse(row, f"{error}; {error.hint}")
        self._store.complete_delivered(self._clock())
        return True

    def _step(self, item: WorkItem, peer: Peer, due: Sequence[Delivery]) -> None:
        pending = [row for row in due if row.state is DeliveryState.PENDING]
        if pending:
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

    def _send(self, item: WorkItem, peer: Peer, rows: Sequence[Delivery]) -> None:
        by_name = {row.document: row for row in rows}
        documents = [_document(self._spool, item, row.document) for row in rows]
        for answer in deliver.send(peer, documents, self._settings):
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
                    sent_at=now,
                    run_after=now,
                    transaction_uid=None,
                )
            elif answer.state is DeliveryState.FAILED:
                self._refuse(row, answer.message, answer.status)
            else:
                self._later([row], answer.message)

    def _ask_commitment(self, peer: Peer, rows: Sequence[Delivery]) -> list[Delivery]:
        """Ask for storage commitment; the row carries the transaction before the question leaves."""
        transaction = generate_uid(prefix=None)
        wait_until = self._clock() + self._settings.deliver.commitment_wait_seconds
        for row in rows:
            self._store.deliveries.record(row.id, transaction_uid=transaction, run_after=wait_until)
        objects = [(row.sop_class_uid or "", row.sop_instance_uid or "") for row in rows]
        answer = deliver.request_commitment(peer, objects, transaction, self._settings)
        if answer.kind == "REPORTED":
            failed = answer.failed or {}
            self._store.deliveries.commitment_report(transaction, answer.committed, failed, self._clock())
        elif answer.kind != "PENDING":
            for row in rows:
                if peer.proof == "commitment":
                    self._end_unproved(row, answer.message)
                else:
                    self._store.deliveries.record(row.id, run_after=self._clock())
        ours = {row.id for row in rows}
        return [
            row
            for row in self._store.deliveries.of_item(rows[0].work_item_id)
            if row.id in ours and row.state is DeliveryState.SENT and not row.final
        ]

    def _read_back(self, item: WorkItem, peer: Peer, rows: Sequence[Delivery]) -> None:
        """C-FIND at IMAGE level: an object that the PACS lists in the right study has arrived."""
        variants = {row.id: _sent_variant(self._spool, item, row) for row in rows}
        study = next(iter(variants.values())).study_instance_uid
        wanted = {variant.sop_instance_uid: variant.series_instance_uid for variant in variants.values()}
        seen = deliver.find(peer, study, wanted, self._settings)
        for row in rows:
            if seen is None:
                self._end_unproved(row, f"{peer.ae_title} offers neither storage commitment nor C-FIND")
            elif row.sop_instance_uid in seen:
                self._store.deliveries.record(
                    row.id, state=DeliveryState.SEEN, final=1, proved_at=self._clock(), detail=""
                )
            elif row.attempts >= RESEND_AFTER_UNSEEN:
                LOGGER.warning("delivery.unseen %s does not list what it has accepted; sending again", peer.ae_title)
                self._store.deliveries.record(row.id, state=DeliveryState.PENDING, transaction_uid=None)
                self._later([row], "accepted, but not found by C-FIND; sending again")
            else:
                self._later([row], "accepted, not yet found by C-FIND")

    def _later(self, rows: Sequence[Delivery], detail: str) -> None:
        for row in rows:
            attempts = row.attempts + 1
            wait = deliver.delay(attempts, self._settings.deliver)
            LOGGER.warning("delivery.postponed %s to %s by %.0f s: %s", row.document, row.destination, wait, detail)
            self._store.deliveries.record(row.id, attempts=attempts, run_after=self._clock() + wait, detail=detail)

    def _refuse(self, row: Delivery, detail: str, status: int | None = None) -> None:
        LOGGER.error("delivery.refused %s by %s: %s", row.document, row.destination, detail)
        self._store.deliveries.record(
            row.id, state=DeliveryState.FAILED, final=1, attempts=row.attempts + 1, status=status, detail=detail
        )

    def _end_unproved(self, row: Delivery, detail: str) -> None:
        self._store.deliveries.record(row.id, state=DeliveryState.SENT, final=1, detail=detail)


def _document(spool: Spool, item: WorkItem, name: str) -> Document:
    """The files of one document: its preferred form first, then the other SOP classes of an SR."""
    return Document(name, tuple(_variant(path) for path in _files(spool, item, name)))


def _files(spool: Spool, item: WorkItem, name: str) -> list[Path]:
    folder = spool.results(item.key or "", "report")
    return [folder / f"{name}.dcm", *sorted(folder.glob(f"{name}.1.2.840.*.dcm"), reverse=True)]


def _variant(path: Path) -> Variant:
    header = _identity(path)
    return Variant(str(header.SOPClassUID), str(header.SOPInstanceUID), path)


def _identity(path: Path) -> Dataset:
    return dcmread(path, stop_before_pixels=True, specific_tags=list(_IDENTITY))


@dataclass(frozen=True)
class _Place:
    """Where a sent object belongs in the PACS."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str


def _sent_variant(spool: Spool, item: WorkItem, row: Delivery) -> _Place:
    for path in _files(spool, item, row.document):
        header = _identity(path)
        if header.SOPInstanceUID == row.sop_instance_uid:
            return _Place(header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID)
    raise Permanent(f"{row.document} is no longer in the spool", "prognode retry makes it again")
